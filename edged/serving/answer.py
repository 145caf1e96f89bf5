"""An answer on its way out, and the places that wait for it. Pure: `outbound` sends it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from edged.contract.requests import Address
from edged.errors import RequestError
from edged.ports.link import Ticket


@dataclass(slots=True)
class Addressee:
    """One place that waits for an answer, and the deliveries that are settled when it has the answer."""

    address: Address
    tickets: list[Ticket] = field(default_factory=list)


def _nothing() -> None:
    """Do nothing."""


@dataclass(slots=True, kw_only=True, eq=False)
class Answer:
    """A payload for one or more places.

    Attributes:
        request_id: for the log.
        payload: what is published; an error takes its place when the broker does not take so large a packet.
        addressees: the places that do not have it yet.
        as_error: writes an error in the form of this answer.
        is_error: whether the payload is an error, which may have an address of its own.
        on_arrived: called in the worker's thread when every place has it.
    """

    request_id: str
    payload: bytes
    addressees: list[Addressee]
    as_error: Callable[[RequestError], bytes]
    is_error: bool = False
    on_arrived: Callable[[], None] = _nothing
