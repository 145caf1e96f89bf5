"""Answers on their way out: written as JSON, published, and their deliveries settled. Keeps nothing."""

from collections.abc import Callable, Iterable

from edged.contract.requests import Address
from edged.contract.results import encode_chunk, encode_error, encode_result, rfc3339
from edged.errors import RequestError
from edged.ports.link import Link, Outcome, Publication, Ticket
from edged.serving.job import Chunk, Job


class Responder:
    """Speaks for one node."""

    def __init__(self, link: Link, *, node: str, wall_clock: Callable[[], float]) -> None:
        self._link = link
        self._node = node
        self._wall_clock = wall_clock

    def result(self, job: Job, *, model: str, now: float) -> bytes:
        """The JSON of a complete job; `now` in monotonic seconds."""
        return encode_result(job.result(node=self._node, model=model, time=rfc3339(self._wall_clock()), now=now))

    def error(self, error: RequestError, *, request_id: str, task: str, session: str | None) -> bytes:
        """The JSON of an error."""
        return encode_error(
            request_id=request_id,
            task=task,
            session=session,
            node=self._node,
            time=rfc3339(self._wall_clock()),
            error=error,
        )

    def send(self, address: Address, payload: bytes, on_done: Callable[[Outcome], None] | None = None) -> None:
        """Publish an answer; `on_done` comes in the network thread."""
        publication = Publication(
            topic=address.topic, payload=payload, qos=address.qos, correlation_data=address.correlation_data
        )
        self._link.publish(publication, on_done)

    def send_and_settle(self, address: Address, payload: bytes, ticket: Ticket | None) -> None:
        """Publish an answer that nobody waits to hear more of, and settle what it answers."""
        self.send(address, payload, lambda _: self.settle([] if ticket is None else [ticket]))

    def stream(self, job: Job, chunk: Chunk) -> None:
        """Publish a chunk beside everywhere the result will go; a lost one is in the result too."""
        payload = encode_chunk(request_id=job.request.id, seq=chunk.seq, part=chunk.part, value=chunk.value)
        for place in job.addressees:
            to = place.address
            self.send(Address(topic=f"{to.topic}/stream", qos=0, correlation_data=to.correlation_data), payload)

    def settle(self, tickets: Iterable[Ticket]) -> None:
        """Ack deliveries whose answers have arrived."""
        for ticket in tickets:
            self._link.settle(ticket)
