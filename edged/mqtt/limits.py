"""The limits of a publication: those of the broker's CONNACK, its packet's size, and those of MQTT. Pure."""

from dataclasses import dataclass, replace

from edged.contract.topics import is_publishable
from edged.ports.link import Outcome, Publication, Sent

MAX_STRING_BYTES = 65535  # MQTT 5, sections 1.5.4 and 1.5.6: two bytes of length
MAX_REMAINING_LENGTH = 268_435_455  # MQTT 5, section 1.5.5: four bytes of length
MAX_EXPIRY_S = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The broker's limits on this connection, as its CONNACK says (MQTT 5, section 3.2.2.3)."""

    receive_maximum: int = 65535
    maximum_packet_size: int | None = None
    maximum_qos: int = 1
    retain_available: bool = True
    properties: bool = True  # false on MQTT 3.1.1, where a publication is sent without them

    @property
    def lacks(self) -> tuple[str, ...]:
        """What the broker does not offer, each in words."""
        return tuple(
            words
            for is_lacking, words in (
                (
                    not self.properties,
                    "only MQTT 3.1.1, so no Response Topic, no expiry of messages and no will delay",
                ),
                (self.maximum_qos < 1, "only QoS 0, so results may be lost"),
                (
                    not self.retain_available,
                    "no retained messages, so status, health and info are seen only when they are sent",
                ),
            )
            if is_lacking
        )

    def adapt(self, publication: Publication) -> Publication:
        """Give `publication` with its QoS and retain flag lowered to what the broker takes."""
        return replace(
            publication,
            qos=min(publication.qos, self.maximum_qos),
            retain=publication.retain and self.retain_available,
        )

    def refusal(self, publication: Publication) -> Outcome | None:
        """Give the outcome TOO_LARGE if the packet is larger than the broker takes; None if it fits."""
        size = packet_size(publication, properties=self.properties)
        if self.maximum_packet_size is None or size <= self.maximum_packet_size:
            return None
        reason = f"the packet has {size} bytes; the broker takes {self.maximum_packet_size}"
        return Outcome(sent=Sent.TOO_LARGE, reason=reason)


def packet_size(publication: Publication, *, properties: bool) -> int:
    """Bytes of the PUBLISH packet (MQTT 5, section 3.3), fixed header included.

    Args:
        publication: what is sent, at QoS 0 or 1.
        properties: whether the packet has properties, i.e. whether this is MQTT 5.
    """
    remaining = 2 + len(publication.topic.encode()) + len(publication.payload)
    remaining += 2 if publication.qos else 0  # packet id
    if properties:
        length = _properties_size(publication)
        remaining += _integer_size(length) + length
    return 1 + _integer_size(remaining) + remaining


def unsendable(publication: Publication) -> str | None:
    """Why MQTT does not allow `publication`, in words; None if it does. Sending it would only cost the connection."""
    if publication.qos not in {0, 1}:
        return f"QoS {publication.qos} is not supported; use 0 or 1"
    if not _is_string(publication.topic) or not is_publishable(publication.topic):
        return "its topic is not one that a client may publish to"
    for name in ("response_topic", "content_type"):
        value = getattr(publication, name)
        if value is not None and not _is_string(value):
            return f"its {name} is not an MQTT string"
    if not all(_is_string(each) for pair in publication.user_properties for each in pair):
        return "one of its user properties is not an MQTT string"
    if publication.correlation_data is not None and len(publication.correlation_data) > MAX_STRING_BYTES:
        return f"its correlation data has more than {MAX_STRING_BYTES} bytes"
    if publication.expiry_s is not None and not 0 <= publication.expiry_s <= MAX_EXPIRY_S:
        return f"its expiry is not between 0 and {MAX_EXPIRY_S} seconds"
    if packet_size(publication, properties=True) > MAX_REMAINING_LENGTH:
        return f"it has more than {MAX_REMAINING_LENGTH} bytes"
    return None


def _properties_size(publication: Publication) -> int:
    strings = (publication.response_topic, publication.content_type)
    size = sum(3 + len(string.encode()) for string in strings if string is not None)
    size += sum(5 + len(name.encode()) + len(value.encode()) for name, value in publication.user_properties)
    size += 0 if publication.correlation_data is None else 3 + len(publication.correlation_data)
    return size + (0 if publication.expiry_s is None else 5)


def _integer_size(value: int) -> int:
    """Bytes of a Variable Byte Integer: each byte holds seven bits of it."""
    return max(1, (value.bit_length() + 6) // 7)


def _is_string(value: str) -> bool:
    """Whether `value` can be an MQTT UTF-8 string: no NUL, no lone surrogate, not too long."""
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value and len(encoded) <= MAX_STRING_BYTES
