"""What happens on one connection, as records: `Connection` makes them from packets, `Exchange` acts on them. Pure."""

from dataclasses import dataclass

from edged.mqtt.limits import Limits
from edged.ports.link import Message, Publication


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """The broker accepted the connection. `has_shared`: it did not say that it has no shared subscriptions."""

    session_present: bool
    limits: Limits
    has_shared: bool = True

    @property
    def lacks(self) -> tuple[str, ...]:
        """What the broker says that it cannot do, each in words."""
        words = self.limits.lacks
        return words if self.has_shared else (*words, "no shared subscriptions, so boxes cannot share work as a group")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """The broker refused the connection, which ends."""

    reason: str
    wrong_version: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Subscribed:
    """The broker's answer to a SUBSCRIBE: which of its filters were refused, and why."""

    filters: tuple[str, ...]
    refused: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrived:
    """A message arrived. At QoS 1 the broker waits for `ack(packet_id)`."""

    message: Message
    packet_id: int
    redelivered: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """A message arrived whose topic is not UTF-8. At QoS 1 the broker waits for `ack(packet_id)`."""

    qos: int
    packet_id: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """The PUBACK of a publication arrived; `refusal` says why the broker did not take it, if so."""

    packet_id: int
    refusal: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Closed:
    """The connection ended; `by_broker`: the broker ended it, and neither we nor the network."""

    reason: str
    by_broker: bool
    taken_over: bool = False


Event = Accepted | Rejected | Subscribed | Arrived | Unreadable | Confirmed | Closed


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What CONNECT tells the broker about this client.

    Attributes:
        will: what the broker publishes when the connection is lost.
        receive_maximum: QoS 1 messages that the broker may send without an ack.
        maximum_packet_size: bytes of the largest packet that the broker may send (MQTT 5).
        ephemeral: ask for no session, and for retained messages.
    """

    client_id: str
    will: Publication | None
    receive_maximum: int
    maximum_packet_size: int
    ephemeral: bool
