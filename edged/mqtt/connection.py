"""One MQTT connection, from CONNECT to its end: methods send packets, `turn` returns events. Only this module has paho.

Knows no queue, retry or thread: all of it runs in the thread that calls it. paho's own thread, reconnecting and
queues are not used, and each connection has a new paho client, so that no state of paho outlives a connection.
"""

import os
import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import (
    MQTT_CLEAN_START_FIRST_ONLY,
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edged.contract.topics import is_publishable
from edged.mqtt import faults
from edged.mqtt.events import (
    Accepted,
    Arrived,
    Closed,
    Confirmed,
    Event,
    Identity,
    Rejected,
    Subscribed,
    Unreadable,
)
from edged.mqtt.limits import Limits
from edged.mqtt.reconnect import Version
from edged.mqtt.tls import make_context
from edged.ports.link import Message, Publication
from edged.settings.schema import MqttSettings

CONNECT_TIMEOUT = 5.0  # seconds for TCP, and again for each step of the TLS and WebSocket handshakes

_UNSUPPORTED_VERSION = 132  # MQTT 5, section 3.2.2.2
_NOT_LOGGED_IN = {134, 135}  # bad user name or password, not authorized: MQTT 5, section 3.2.2.2
_TAKEN_OVER = 142  # MQTT 5, section 3.14.2.1
_PROTOCOLS = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}


class Connection:
    """One connection to the broker. Not thread-safe."""

    def __init__(self, *, settings: MqttSettings, identity: Identity, version: Version) -> None:
        self._settings = settings
        self._identity = identity
        self._version = version
        self._client: _Client | None = None
        self._events: list[Event] = []
        self._subscribing: dict[int, Sequence[str]] = {}  # by packet id
        self._answered = False  # the broker has sent a CONNACK

    # ------------------------------------------------------------------------------------------ begin and end

    def open(self) -> None:
        """Connect and send CONNECT; `turn` brings the answer.

        Raises:
            OSError: name resolution, TCP, TLS (`ssl.SSLError`) or the WebSocket handshake failed.
        """
        client = self._client = self._new_client()
        settings, identity = self._settings, self._identity
        properties: Properties | None = None
        if self._version == "5":
            properties = _properties(PacketTypes.CONNECT)
            properties.ReceiveMaximum = identity.receive_maximum
            properties.MaximumPacketSize = identity.maximum_packet_size
            if not identity.ephemeral:
                properties.SessionExpiryInterval = settings.resolved_session_expiry
        client.connect(
            settings.host,
            settings.resolved_port,
            keepalive=settings.keepalive,
            # On 3.1.1 the client has it from its constructor, and paho allows only this value here.
            clean_start=identity.ephemeral if self._version == "5" else MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
        )
        if settings.transport != "unix" and (opened := client.socket()) is not None:
            # Send small packets at once: the chunks of a stream must not wait for the TCP ACK of the chunk before.
            # The option belongs to the socket, whichever descriptor sets it, so paho's wrappers do not matter.
            with socket.socket(fileno=os.dup(opened.fileno())) as raw:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def disconnect(self) -> None:
        """Send DISCONNECT, so that the broker does not publish the will. Call `turn` until the connection is closed."""
        if self._client is not None:
            self._client.disconnect()

    def close(self) -> None:
        """Close the socket, whatever the state of the connection."""
        if self._client is not None:
            # paho has no method that closes the socket without a DISCONNECT.
            if (opened := self._client.socket()) is not None:
                opened.close()
            self._client = None

    # ----------------------------------------------------------------------------------------------- the network

    def fileno(self) -> int:
        """The socket to wait for; -1 if there is none."""
        opened = None if self._client is None else self._client.socket()
        return -1 if opened is None else opened.fileno()

    @property
    def is_open(self) -> bool:
        """Whether there is a socket."""
        return self.fileno() >= 0

    @property
    def has_buffered(self) -> bool:
        """Whether TLS has read bytes from the socket that `turn` has not seen: it reads whole records."""
        opened = None if self._client is None else self._client.socket()
        return hasattr(opened, "pending") and opened.pending() > 0  # type: ignore[union-attr]

    @property
    def is_congested(self) -> bool:
        """Whether the socket takes no more now: what is sent all the same is kept in memory."""
        return self._client is not None and self._client.want_write()

    def turn(self, *, readable: bool, writable: bool) -> list[Event]:
        """Read, write and keep alive; gives what happened. To be called at least every second."""
        client = self._connected()
        if readable or self.has_buffered:
            client.loop_read()
        if writable:
            client.loop_write()
        client.loop_misc()
        events, self._events = self._events, []
        return events

    # ----------------------------------------------------------------------------------------------- packets out

    # If a method here finds that the connection is gone, `turn` says so with `Closed`.

    def publish(self, publication: Publication) -> int | None:
        """Send at QoS 0 or 1; gives the packet id at QoS 1.

        Its `Confirmed` cannot come before the id is returned: only `turn`, in this same thread, reads the socket.
        """
        properties = None
        if self._version == "5":
            properties = _describe(publication, PacketTypes.PUBLISH)
        while True:
            info = self._connected().publish(
                publication.topic, publication.payload, publication.qos, publication.retain, properties
            )
            # After 65535 packets the ids start again; paho sends nothing if the next id is still in flight.
            if info.rc != MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                return info.mid if publication.qos else None

    def ack(self, packet_id: int) -> None:
        """Send the PUBACK of a delivery."""
        self._connected().ack(packet_id, 1)

    def subscribe(self, filters: Sequence[str], *, at_qos_0: Sequence[str] = ()) -> None:
        """Ask for `filters` at QoS 1, for those in `at_qos_0` at QoS 0."""
        client = self._connected()
        asked = [(each, int(each not in at_qos_0)) for each in filters]
        if self._version == "5":
            _, packet_id = client.subscribe(
                [(each, SubscribeOptions(qos=qos, retainHandling=self._retained(each))) for each, qos in asked]
            )
        else:
            _, packet_id = client.subscribe(asked)
        if packet_id is not None:
            self._subscribing[packet_id] = filters

    def _retained(self, topic_filter: str) -> int:
        """Whether the broker is to send retained messages: not requests, which would be answered again at every start.

        A filter without wildcards is a state, whose last value is wanted.
        """
        if self._identity.ephemeral or is_publishable(topic_filter):
            return int(SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE)
        return int(SubscribeOptions.RETAIN_DO_NOT_SEND)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """End the subscription of `filters`."""
        self._connected().unsubscribe(list(filters))

    # ----------------------------------------------------------------------------------------- paho's callbacks

    # They only note what happened, so they do not fail; paho holds locks while it calls them.

    def _on_connect(self, _client: Client, _data: Any, flags: ConnectFlags, code: ReasonCode, properties: Any) -> None:
        self._answered = True
        if code.is_failure:
            reason = f"the broker refuses us: {_lower(code)}{_detail(properties)}"
            if code.value in _NOT_LOGGED_IN:
                reason += f"; {faults.login_in_words(self._settings)}"
            self._events.append(Rejected(reason=reason, wrong_version=code.value == _UNSUPPORTED_VERSION))
            return
        limits = Limits(
            receive_maximum=getattr(properties, "ReceiveMaximum", 65535),
            maximum_packet_size=getattr(properties, "MaximumPacketSize", None),
            maximum_qos=min(1, getattr(properties, "MaximumQoS", 1)),
            retain_available=bool(getattr(properties, "RetainAvailable", 1)),
            properties=self._version == "5",
        )
        has_shared = bool(getattr(properties, "SharedSubscriptionAvailable", 1))
        self._events.append(Accepted(session_present=flags.session_present, limits=limits, has_shared=has_shared))

    def _on_disconnect(
        self, _client: Client, _data: Any, flags: DisconnectFlags, code: ReasonCode, properties: Any
    ) -> None:
        by_broker = flags.is_disconnect_packet_from_server
        if by_broker:
            reason = f"the broker closed the connection: {_lower(code)}{_detail(properties)}"
        elif code.getName() == "Keep alive timeout":
            reason = "the broker gave no sign of life"
        elif (words := self._other_protocol()) is not None:
            reason = words
        elif code.getName() == "Protocol error":
            reason = f"the broker sent what is not MQTT {self._version}, or refuses that version"
        else:  # end of file, or a reset
            by_broker = True
            reason = "the connection was lost"
            if not self._answered:
                reason += f" before the broker answered: {faults.unanswered_in_words(self._settings)}"
        self._events.append(Closed(reason=reason, by_broker=by_broker, taken_over=code.value == _TAKEN_OVER))

    def _on_subscribe(self, _client: Client, _data: Any, packet_id: int, codes: list[ReasonCode], _props: Any) -> None:
        filters = self._subscribing.pop(packet_id, ())
        refused = {each: _lower(code) for each, code in zip(filters, codes, strict=False) if code.is_failure}
        self._events.append(Subscribed(filters=tuple(filters), refused=refused))

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self._events.append(Unreadable(qos=message.qos, packet_id=message.mid))
            return
        received = Message(
            topic=topic,
            payload=bytes(message.payload),
            qos=message.qos,
            retain=message.retain,
            response_topic=getattr(message.properties, "ResponseTopic", None),
            correlation_data=getattr(message.properties, "CorrelationData", None),
            content_type=getattr(message.properties, "ContentType", None),
            expiry_s=getattr(message.properties, "MessageExpiryInterval", None),
            user_properties=tuple(getattr(message.properties, "UserProperty", ())),
        )
        self._events.append(Arrived(message=received, packet_id=message.mid, redelivered=message.dup))

    def _on_publish(self, _client: Client, _data: Any, packet_id: int, code: ReasonCode, properties: Any) -> None:
        # "No matching subscribers" (0x10) is not a failure: a device may subscribe later.
        refusal = f"the broker refused it: {_lower(code)}{_detail(properties)}" if code.is_failure else None
        self._events.append(Confirmed(packet_id=packet_id, refusal=refusal))

    # ----------------------------------------------------------------------------------------------------- parts

    def _other_protocol(self) -> str | None:
        """What the first bytes or a TLS alert say about a broker that did not answer CONNECT, in words."""
        client = self._client
        if self._answered or client is None:
            return None
        if client.tls_error is not None:
            return faults.in_words(client.tls_error, self._settings)
        return faults.other_protocol_in_words(client.first_bytes, self._settings)

    def _connected(self) -> Client:
        if self._client is None:
            raise ConnectionError("the connection is closed")
        return self._client

    def _new_client(self) -> "_Client":
        settings, identity = self._settings, self._identity
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=identity.client_id,
            clean_session=identity.ephemeral if self._version == "3.1.1" else None,
            protocol=_PROTOCOLS[self._version],
            transport=settings.transport,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_TIMEOUT
        client.max_inflight_messages = 0  # the outbox has the window; paho needs none
        if settings.username is not None or settings.password is not None:
            password = None if settings.password is None else settings.password.get_secret_value()
            client.username_pw_set(settings.username or "", password)
        if settings.transport == "websockets":
            client.ws_set_options(path=settings.websocket_path)
        if settings.tls.is_on:
            client.tls_set_context(make_context(settings.tls))
        if identity.will is not None:
            self._set_will(client, identity.will)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _set_will(self, client: Client, will: Publication) -> None:
        properties = None
        if self._version == "5":
            properties = _describe(will, PacketTypes.WILLMESSAGE)
            properties.WillDelayInterval = self._settings.will_delay
        client.will_set(will.topic, will.payload, will.qos, will.retain, properties)


class _Client(Client):
    """paho's client with three faults of paho corrected. The methods are private: see the pin in pyproject.toml.

    Attributes:
        first_bytes: what the broker sent first, as far as paho read it in one piece.
        tls_error: what TLS met while reading; paho reports only that the connection is lost.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.first_bytes = b""
        self.tls_error: ssl.SSLError | None = None

    def _sock_recv(self, bufsize: int) -> bytes:
        """Read, and keep what tells another protocol from MQTT."""
        try:
            data = super()._sock_recv(bufsize)
        except ssl.SSLError as error:
            self.tls_error = error
            raise
        self.first_bytes = self.first_bytes or data
        return data

    def _sock_send(self, buf: bytes | bytearray) -> int:
        """Send; raises BlockingIOError when nothing was taken.

        paho's WebSocket keeps the rest of a frame and reports that it sent nothing; paho then drops the packet, and
        the rest of its frame corrupts the next one.
        """
        sent = super()._sock_send(buf)
        if sent == 0 and buf:
            raise BlockingIOError
        return sent

    def _create_unix_socket_connection(self) -> socket.socket:
        """Connect with a time limit: paho waits for ever if the broker does not accept. Raises TimeoutError."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.settimeout(CONNECT_TIMEOUT)
            opened.connect(self._host)
        except OSError:
            opened.close()
            raise
        return opened

    def _handle_publish(self) -> MQTTErrorCode:
        """Take a PUBLISH; if paho cannot read its properties, take it without them.

        paho ends the connection over a string with U+FEFF in it, which MQTT allows (MQTT-1.5.4-3). The broker would
        deliver that message again on each connection, so one device could keep the daemon offline for ever.
        """
        try:
            return super()._handle_publish()
        except MalformedPacket:
            packet = self._in_packet
            packet["packet"] = without_properties(bytes(packet["packet"]), has_packet_id=bool(packet["command"] & 0x06))
            return super()._handle_publish()


def without_properties(publish: bytes, *, has_packet_id: bool) -> bytearray:
    """The variable header and payload of an MQTT 5 PUBLISH (section 3.3), its properties left out.

    Raises:
        MalformedPacket: it ends too early.
    """
    try:
        begin = 2 + struct.unpack_from("!H", publish)[0] + (2 if has_packet_id else 0)
        at, length, shift = begin, 0, 0
        while True:
            digit = publish[at]
            length |= (digit & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if digit < 0x80:
                break
    except (struct.error, IndexError) as error:
        raise MalformedPacket(str(error)) from error
    return bytearray(publish[:begin] + b"\0" + publish[at + length :])


def _properties(packet_type: int) -> Properties:
    return Properties(packet_type)  # type: ignore[no-untyped-call]  # paho does not say


def _describe(publication: Publication, packet_type: int) -> Properties:
    properties = _properties(packet_type)
    if publication.response_topic is not None:
        properties.ResponseTopic = publication.response_topic
    if publication.correlation_data is not None:
        properties.CorrelationData = publication.correlation_data
    if publication.content_type is not None:
        properties.ContentType = publication.content_type
    if publication.expiry_s is not None:
        properties.MessageExpiryInterval = publication.expiry_s
    if publication.user_properties:
        properties.UserProperty = list(publication.user_properties)
    return properties


def _lower(code: ReasonCode) -> str:
    name = code.getName()
    return name[:1].lower() + name[1:]


def _detail(properties: Properties | None) -> str:
    """The broker's Reason String in brackets (MQTT 5), if it sent one."""
    words = getattr(properties, "ReasonString", None)
    return f" ({words})" if words else ""
