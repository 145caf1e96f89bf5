"""Which publication goes to the broker next, and how each one ends. Pure: sees packet ids, never a socket or a clock.

QoS 1 publications leave in order and wait for their PUBACK; at most a window of them is in flight. Those that were
in flight when a connection ended go first on the next one, as new packets: at least once is what QoS 1 promises.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edged.contract.topics import is_publishable
from edged.ports.link import Outcome, Publication, Sent

WINDOW = 100  # publications in flight, whatever more the broker would take
MAX_ATTEMPTS = 5  # connections that end by the broker's hand over one and the same publication
MAX_STRING_BYTES = 65535  # MQTT 5, sections 1.5.4 and 1.5.6: two bytes of length
MAX_REMAINING_LENGTH = 268_435_455  # MQTT 5, section 1.5.5: four bytes of length
MAX_EXPIRY_S = 0xFFFFFFFF

CONFIRMED = Outcome(sent=Sent.CONFIRMED)


@dataclass(slots=True, eq=False)
class Entry:
    """A publication on its way; `on_done` is carried along, never called here."""

    publication: Publication
    on_done: Callable[[Outcome], None] | None = None
    attempts: int = 0


Ended = tuple[Entry, Outcome]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the broker takes on this connection, as its CONNACK says (MQTT 5, section 3.2.2.3)."""

    receive_maximum: int = 65535
    maximum_packet_size: int | None = None
    maximum_qos: int = 1
    retain_available: bool = True
    properties: bool = True  # false on MQTT 3.1.1, where a publication is sent without them

    def adapt(self, publication: Publication) -> Publication:
        """The nearest thing to `publication` that the broker takes."""
        return replace(
            publication,
            qos=min(publication.qos, self.maximum_qos),
            retain=publication.retain and self.retain_available,
        )

    def refusal(self, publication: Publication) -> Outcome | None:
        """How `publication` ends unsent for its size; None where it fits."""
        size = packet_size(publication, properties=self.properties)
        if self.maximum_packet_size is None or size <= self.maximum_packet_size:
            return None
        reason = f"the packet has {size} bytes; the broker takes {self.maximum_packet_size}"
        return Outcome(sent=Sent.TOO_LARGE, reason=reason)


def packet_size(publication: Publication, *, properties: bool) -> int:
    """Bytes of the PUBLISH packet (MQTT 5, section 3.3), fixed header included.

    Args:
        publication: what is sent, at QoS 0 or 1.
        properties: whether the packet has them, i.e. whether this is MQTT 5.
    """
    remaining = 2 + len(publication.topic.encode()) + len(publication.payload)
    remaining += 2 if publication.qos else 0  # packet id
    if properties:
        length = _properties_size(publication)
        remaining += _integer_size(length) + length
    return 1 + _integer_size(remaining) + remaining


def _properties_size(publication: Publication) -> int:
    strings = (publication.response_topic, publication.content_type)
    size = sum(3 + len(string.encode()) for string in strings if string is not None)
    size += 0 if publication.correlation_data is None else 3 + len(publication.correlation_data)
    return size + (0 if publication.expiry_s is None else 5)


def _integer_size(value: int) -> int:
    """Bytes of a Variable Byte Integer: seven bits in each."""
    return max(1, (value.bit_length() + 6) // 7)


def unsendable(publication: Publication) -> str | None:
    """Why no broker could take `publication`, in words: sending it would only cost the connection."""
    if publication.qos not in {0, 1}:
        return f"QoS {publication.qos} is not spoken here"
    if not _is_string(publication.topic) or not is_publishable(publication.topic):
        return "its topic is none that a client may publish to"
    for name in ("response_topic", "content_type"):
        value = getattr(publication, name)
        if value is not None and not _is_string(value):
            return f"its {name} is no MQTT string"
    if publication.correlation_data is not None and len(publication.correlation_data) > MAX_STRING_BYTES:
        return f"its correlation data has more than {MAX_STRING_BYTES} bytes"
    if publication.expiry_s is not None and not 0 <= publication.expiry_s <= MAX_EXPIRY_S:
        return f"its expiry is not between 0 and {MAX_EXPIRY_S} seconds"
    if packet_size(publication, properties=True) > MAX_REMAINING_LENGTH:
        return f"it has more than {MAX_REMAINING_LENGTH} bytes"
    return None


def _is_string(value: str) -> bool:
    """Whether `value` can be an MQTT UTF-8 string: no NUL, no lone surrogate, not too long."""
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value and len(encoded) <= MAX_STRING_BYTES


@dataclass(slots=True, kw_only=True)
class Outbox:
    """Publications without an end: waiting, or in flight.

    The window starts at one on each connection and doubles with each PUBACK. So a publication over which the
    broker hangs up is soon alone in flight: it is known for what it is and ends, instead of costing one
    connection after the other and holding up all that is behind it.
    """

    capacity: int
    _limits: Limits | None = None  # None: no connection
    _window: int = 1
    _qos0: deque[Entry] = field(default_factory=deque)
    _qos1: deque[Entry] = field(default_factory=deque)
    _in_flight: dict[int, Entry] = field(default_factory=dict)  # by packet id, oldest first

    def __len__(self) -> int:
        return len(self._qos0) + len(self._qos1) + len(self._in_flight)

    @property
    def in_flight(self) -> int:
        """Publications sent and not yet confirmed."""
        return len(self._in_flight)

    def offer(self, entry: Entry) -> Outcome | None:
        """Take `entry` in; gives its end instead where it cannot be kept."""
        reason = unsendable(entry.publication)
        if reason is not None:
            return Outcome(sent=Sent.REFUSED, reason=reason)
        if entry.publication.qos == 0 and self._limits is None:
            return Outcome(sent=Sent.DROPPED, reason="there is no connection")
        # One limit for each: a stream on a slow network must leave room for its own result.
        queue = self._qos1 if entry.publication.qos else self._qos0
        if len(queue) >= self.capacity:
            return Outcome(sent=Sent.DROPPED, reason=f"{self.capacity} publications wait already")
        queue.append(entry)
        return None

    def connected(self, limits: Limits) -> None:
        """Begin to send."""
        self._limits = limits
        self._window = 1

    def take(self) -> Entry | None:
        """Remove and return what may be sent now.

        QoS 0 goes first: it needs no window, and so no chunk of a stream is overtaken by its own result.
        """
        if self._limits is None:
            return None
        if self._qos0:
            return self._qos0.popleft()
        window = min(self._window, WINDOW, self._limits.receive_maximum)
        return self._qos1.popleft() if self._qos1 and len(self._in_flight) < window else None

    def sent(self, entry: Entry, packet_id: int) -> None:
        """Note that `entry` is in flight."""
        self._in_flight[packet_id] = entry

    def confirmed(self, packet_id: int, refusal: str | None) -> Ended | None:
        """Note the PUBACK of `packet_id`, with the broker's reason if it is a failure."""
        entry = self._in_flight.pop(packet_id, None)
        if entry is None:
            return None
        self._window = min(2 * self._window, WINDOW)
        return entry, CONFIRMED if refusal is None else Outcome(sent=Sent.REFUSED, reason=refusal)

    def disconnected(self, *, by_broker: bool) -> list[Ended]:
        """Stop sending. What was in flight will go first on the next connection.

        Args:
            by_broker: whether the broker ended the connection, and neither we nor the network.

        Returns:
            Those that end with the connection: QoS 0, and one that the broker hung up on again and again.
        """
        self._limits = None
        ended = [(entry, Outcome(sent=Sent.DROPPED, reason="the connection was lost")) for entry in self._qos0]
        self._qos0.clear()
        entries = list(self._in_flight.values())
        self._in_flight.clear()
        if by_broker and len(entries) == 1:
            entries[0].attempts += 1
            if entries[0].attempts >= MAX_ATTEMPTS:
                reason = f"the broker closed the connection each of the {MAX_ATTEMPTS} times that this was sent"
                ended.append((entries.pop(), Outcome(sent=Sent.REFUSED, reason=reason)))
        self._qos1.extendleft(reversed(entries))
        return ended

    def clear(self, reason: str) -> list[Ended]:
        """End all: nothing will be sent any more."""
        outcome = Outcome(sent=Sent.DROPPED, reason=reason)
        ended = [(entry, outcome) for entry in (*self._in_flight.values(), *self._qos0, *self._qos1)]
        self._in_flight.clear()
        self._qos0.clear()
        self._qos1.clear()
        return ended
