"""A caller that waits in this process for the answer to its request, instead of at a topic of the broker. Pure."""

from typing import Protocol


class Caller(Protocol):
    """Takes the answer to one request. The worker's thread calls it, so it must be quick and must not raise.

    The payloads are those that a topic would get: see `contract/results.py`. No answer comes after `take_answer`.
    """

    def take_chunk(self, payload: bytes) -> None:
        """Take the next chunk of the stream that the request asked for."""
        ...

    def take_answer(self, payload: bytes) -> None:
        """Take the result or the error."""
        ...
