"""The link against a real mosquitto, and against brokers that behave badly."""

import base64
import contextlib
import hashlib
import os
import random
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edged.mqtt import exchange, subscriptions
from edged.mqtt.limits import packet_size
from edged.ports.link import Outcome, Publication, Sent
from edged.settings.schema import MqttSettings
from tests.conftest import MakeBroker
from tests.support import packets
from tests.support.broker import Broker, free_port
from tests.support.certificates import make_certificates
from tests.support.link_bench import RealBench, Running
from tests.support.link_contract import REQUESTS, RESULTS, Bench, Ending, LinkContract
from tests.support.packets import Packet
from tests.support.peer import Peer
from tests.support.proxy import Proxy
from tests.support.scripted_broker import (
    HANG_UP,
    SAY_NOTHING,
    ScriptedBroker,
    puback,
    publish,
    suback,
    welcome,
    well_behaved,
)
from tests.support.waiting import TIMEOUT, drain, eventually, take

WILL = Publication(topic="bench/status", payload=b"offline", qos=1, retain=True)


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """Start links; they stop with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda settings, **more: stack.enter_context(Running(settings, **more))


# ------------------------------------------------------------------------------------------------- the contract


@pytest.fixture(params=["5", "3.1.1"])
def bench(broker: Broker, request: pytest.FixtureRequest) -> Iterator[Bench]:
    with (
        Proxy(broker.port) as cable,
        Peer(broker.port) as peer,
        RealBench(broker, cable, peer, version=request.param) as made,
    ):
        yield made


class TestLink(LinkContract):
    pass


# ---------------------------------------------------------------------------------------------------- transports


def answer_one(running: Running, peer: Peer) -> None:
    """A request comes in, and its answer goes out."""
    peer.subscribe(RESULTS)
    peer.publish(REQUESTS, b"hello")
    [delivery] = take(running.deliveries, 1)
    ending = running.publish(delivery.message.payload.upper())
    assert [each.payload for each in take(peer.received, 1)] == [b"HELLO"]
    assert ending.sent() is Sent.CONFIRMED


@pytest.mark.parametrize("transport", ["tcp", "websockets", "unix"])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_every_transport(broker: Broker, run: Callable[..., Running], transport: str, version: str) -> None:
    where: dict[str, dict[str, Any]] = {
        "tcp": {},
        "websockets": {"port": broker.websocket_port},
        "unix": {"host": str(broker.unix_socket), "port": None},
    }
    running = run(broker.settings(transport=transport, protocol=version, **where[transport]))
    assert running.wait_connected().protocol == version
    with Peer(broker.port) as peer:
        answer_one(running, peer)


def test_auto_takes_mqtt_5_where_it_is_spoken(broker: Broker, run: Callable[..., Running]) -> None:
    assert run(broker.settings()).wait_connected().protocol == "5"


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder of certificates."""
    make_certificates(tmp_path)
    return tmp_path


def speak_tls(certificates: Path, *more: str) -> list[str]:
    return [f"certfile {certificates}/broker.crt", f"keyfile {certificates}/broker.key", *more]


def test_tls_with_a_client_certificate(
    make_broker: MakeBroker, certificates: Path, run: Callable[..., Running]
) -> None:
    asks = (f"cafile {certificates}/ca.crt", "require_certificate true")
    broker = make_broker(tls=speak_tls(certificates, *asks))
    ours = {"ca": certificates / "ca.crt", "cert": certificates / "us.crt", "key": certificates / "us.key"}
    running = run(broker.settings(tls=ours))
    assert running.publish(b"hello", topic=REQUESTS).sent() is Sent.CONFIRMED
    assert [each.message.payload for each in take(running.deliveries, 1)] == [b"hello"]


def test_what_tls_has_read_ahead_does_not_wait_for_more(certificates: Path, run: Callable[..., Running]) -> None:
    def chatty(packet: Packet) -> bytes | None:
        answer = well_behaved(packet) or b""
        if packet.kind == packets.SUBSCRIBE:  # all in one TLS record
            answer += b"".join(publish(REQUESTS, b"%d" % number) for number in range(10))
        return answer

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "broker.crt", certificates / "broker.key")
    with ScriptedBroker(chatty, tls=context) as broker:
        running = run(settings_of(broker, tls={"ca": certificates / "ca.crt"}))
        assert [each.message.payload for each in take(running.deliveries, 10)] == [b"%d" % each for each in range(10)]


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # paho leaves the socket of a failed handshake to Python
def test_a_certificate_of_an_unknown_authority_is_a_fault_in_words(
    make_broker: MakeBroker, certificates: Path, run: Callable[..., Running]
) -> None:
    broker = make_broker(tls=speak_tls(certificates))
    run(broker.settings(tls={"enabled": True})).wait_fault("is not trusted")


# -------------------------------------------------------------------------------------------------------- faults


def hashed(user: str, password: str) -> str:
    """A line of mosquitto's password file: PBKDF2 with SHA-512."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_wrong_password_is_a_fault_until_it_is_right(
    make_broker: MakeBroker, tmp_path: Path, run: Callable[..., Running], version: str
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text(hashed("us", "right"))
    broker = make_broker(config=[f"password_file {passwords}", "allow_anonymous false"])
    running = run(broker.settings(username="us", password="wrong", protocol=version))
    running.wait_fault("not authorized")
    assert running.link.state().connected_since is None
    passwords.write_text(hashed("us", "wrong"))
    broker.reload()
    assert running.wait_connected().fault is None


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # paho leaves a socket that cannot connect to Python
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "nowhere.invalid"}, "the name 'nowhere.invalid' cannot be resolved"),
        ({"host": "127.0.0.1", "port": 1}, "nothing listens at 127.0.0.1:1"),
        ({"host": "/nowhere/mqtt.sock", "transport": "unix"}, "there is no socket at /nowhere/mqtt.sock"),
        ({"host": "127.0.0.1", "tls": {"ca": "/nowhere/ca.crt"}}, "/nowhere/ca.crt: No such file or directory"),
    ],
)
def test_what_keeps_us_from_connecting_is_said(
    run: Callable[..., Running], settings: dict[str, Any], words: str
) -> None:
    running = run(MqttSettings.model_validate(settings))
    running.wait_fault(words)
    assert running.changes.get(timeout=TIMEOUT).fault == running.link.state().fault


def test_a_broker_that_comes_up_later_is_found(run: Callable[..., Running], make_broker: MakeBroker) -> None:
    broker = make_broker()
    broker.stop()
    running = run(broker.settings())
    running.wait_fault("nothing listens")
    ending = running.publish(b"kept")
    broker.start()
    assert ending.sent() is Sent.CONFIRMED


def test_a_broker_that_does_not_answer_is_given_up(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "ANSWER_TIMEOUT", 0.1)
    with ScriptedBroker(lambda _: SAY_NOTHING) as broker:
        running = run(settings_of(broker))
        running.wait_fault("did not answer in time")
        broker.script = well_behaved
        running.wait_connected()


def test_a_connection_without_a_sign_of_life_is_given_up(broker: Broker, run: Callable[..., Running]) -> None:
    running = run(broker.settings().model_copy(update={"keepalive": 1}))  # less than the settings allow
    running.wait_connected()
    broker.freeze()
    running.wait_fault("no sign of life")
    broker.thaw()
    running.wait_connected()


def test_a_publication_without_a_puback_is_sent_again(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "CONFIRM_TIMEOUT", 0.1)

    def forgetful(packet: Packet) -> bytes | None:
        return SAY_NOTHING if packet.kind == packets.PUBLISH else well_behaved(packet)

    with ScriptedBroker(forgetful) as broker:
        running = run(settings_of(broker))
        ending = running.publish(b"hello")
        running.wait_fault("no PUBACK")
        broker.script = well_behaved
        assert ending.sent() is Sent.CONFIRMED


def settings_of(broker: ScriptedBroker, **more: Any) -> MqttSettings:
    return MqttSettings.model_validate({"host": "127.0.0.1", "port": broker.port} | more)


def test_a_mistake_of_ours_costs_one_connection_and_not_the_thread(
    broker: Broker, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = run(broker.settings())
    running.wait_connected()
    monkeypatch.setattr(exchange.Exchange, "turn", lambda *_, **__: 1 / 0)
    running.wait_fault("unexpected ZeroDivisionError")
    monkeypatch.undo()
    assert running.wait_connected().reconnects == 1
    before = running.link.state().last_progress
    eventually(lambda: running.link.state().last_progress > before, "a heartbeat")


# ------------------------------------------------------------------------------------- versions, and bad brokers


def version_of(connect: Packet) -> int:
    return connect.body[6]


def test_amqtt_is_spoken_to_in_3_1_1(amqtt: int, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ANSWER_TIMEOUT", 2.0)  # it is silent to a CONNECT that has properties
    running = run(MqttSettings(host="127.0.0.1", port=amqtt))
    assert running.wait_connected().protocol == "3.1.1"
    with Peer(amqtt, version="3.1.1") as peer:
        answer_one(running, peer)
    running.link.stop(None, 1.0)


@pytest.mark.parametrize("answer", [HANG_UP, SAY_NOTHING, welcome(version=4, code=1)])
def test_a_broker_that_knows_no_mqtt_5_is_spoken_to_in_3_1_1(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, answer: bytes | None
) -> None:
    monkeypatch.setattr(exchange, "ANSWER_TIMEOUT", 0.5)

    def old(packet: Packet) -> bytes | None:
        if packet.kind == packets.CONNECT:
            return welcome(version=4) if version_of(packet) == 4 else answer
        return packets.encode(packets.SUBACK, packet.body[:2] + b"\1") if packet.kind == packets.SUBSCRIBE else b""

    with ScriptedBroker(old) as broker:
        running = run(settings_of(broker))
        assert running.wait_connected().protocol == "3.1.1"
        assert [each.fault for each in drain(running.changes) if each.fault] == [], "a command gives up at a fault"
        assert [version_of(each) for each in broker.received(packets.CONNECT)] == [5, 4]


def test_a_broker_that_hangs_up_on_all_is_tried_in_turn(run: Callable[..., Running]) -> None:
    with ScriptedBroker(lambda _: HANG_UP) as broker:
        running = run(settings_of(broker))
        eventually(lambda: len(broker.received(packets.CONNECT)) >= 4)
        assert [version_of(each) for each in broker.received(packets.CONNECT)[:4]] == [5, 4, 5, 4]
        running.wait_fault("the connection was lost")


@pytest.mark.parametrize(
    ("code", "words"),
    [(0x87, "not authorized"), (0x88, "server unavailable"), (0x8A, "banned"), (0x85, "client identifier not valid")],
)
def test_each_refusal_is_said_and_tried_again(run: Callable[..., Running], code: int, words: str) -> None:
    with ScriptedBroker(lambda _: welcome(code=code)) as broker:
        running = run(settings_of(broker))
        running.wait_fault(f"the broker refuses us: {words}")
        broker.script = well_behaved
        assert running.wait_connected().protocol == "5"


def test_a_refused_subscription_is_a_fault_that_heals(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "RESUBSCRIBE_AFTER", 0.1)

    def strict(packet: Packet) -> bytes | None:
        return suback(packet, 0x01, 0x87) if packet.kind == packets.SUBSCRIBE else well_behaved(packet)

    with ScriptedBroker(strict) as broker:
        running = run(settings_of(broker), subscriptions=("a/#", "b/#"))
        running.wait_fault("the broker refuses to subscribe us to b/# (not authorized)")
        assert running.link.state().connected_since is not None  # the daemon can tell the world about it
        assert running.publish(b"degraded").sent() is Sent.CONFIRMED
        broker.script = well_behaved
        eventually(lambda: running.link.state().fault is None, "the end of the fault")
        assert b"a/#" not in broker.received(packets.SUBSCRIBE)[-1].body
        assert running.link.state().reconnects == 0


def test_a_refused_publication_ends_with_the_brokers_reason(run: Callable[..., Running]) -> None:
    def full(packet: Packet) -> bytes | None:
        return puback(packet, 0x97) if packet.kind == packets.PUBLISH else well_behaved(packet)

    with ScriptedBroker(full) as broker:
        running = run(settings_of(broker))
        assert running.publish(b"hello").outcomes.get(timeout=TIMEOUT) == Outcome(
            sent=Sent.REFUSED, reason="the broker refused it: quota exceeded"
        )


def test_that_nobody_listens_is_no_failure(broker: Broker, run: Callable[..., Running]) -> None:
    assert run(broker.settings()).publish(b"hello", topic="nobody/listens").sent() is Sent.CONFIRMED


def test_a_publication_is_lowered_to_what_the_broker_offers(run: Callable[..., Running]) -> None:
    maximum_qos, retain_available = bytes((36, 0)), bytes((37, 0))

    def modest(packet: Packet) -> bytes | None:
        if packet.kind == packets.CONNECT:
            return welcome(properties=maximum_qos + retain_available)
        return well_behaved(packet)

    with ScriptedBroker(modest) as broker:
        running = run(settings_of(broker))
        ending = Ending()
        running.link.publish(Publication(topic=RESULTS, payload=b"hello", qos=1, retain=True), ending)
        assert ending.sent() is Sent.CONFIRMED
        [publish] = eventually(lambda: broker.received(packets.PUBLISH))
        assert publish.flags == 0  # neither QoS nor retain


def test_a_publication_over_which_the_broker_hangs_up_ends_and_the_next_goes_through(
    make_broker: MakeBroker, run: Callable[..., Running]
) -> None:
    # On 3.1.1 the broker cannot tell its largest packet, so it hangs up on a larger one.
    broker = make_broker(config=["max_packet_size 1000"])
    running = run(broker.settings(protocol="3.1.1"))
    large, small = running.publish(b"x" * 2000), running.publish(b"x")
    assert large.sent() is Sent.REFUSED
    assert small.sent() is Sent.CONFIRMED


def test_a_message_that_paho_cannot_read_is_taken_without_its_properties(
    broker: Broker, run: Callable[..., Running]
) -> None:
    running = run(broker.settings())
    running.wait_connected()
    with Peer(broker.port) as peer:
        peer.publish(REQUESTS, b"poison", ContentType="\ufeff")
        peer.publish(REQUESTS, b"good")
    poison, _ = take(running.deliveries, 2)
    assert (poison.message.payload, poison.message.content_type) == (b"poison", None)
    assert running.link.state().reconnects == 0


# --------------------------------------------------------------------------------------------- what MQTT 5 brings


def test_properties_go_both_ways(broker: Broker, run: Callable[..., Running]) -> None:
    running = run(broker.settings())
    running.wait_connected()
    described: dict[str, Any] = {
        "response_topic": "bench/reply",
        "correlation_data": b"\0\xff",
        "content_type": "text/x",
        "expiry_s": 60,
    }
    running.link.publish(Publication(topic=REQUESTS, payload=b"hello", qos=1, **described))
    [delivery] = take(running.deliveries, 1)
    message = delivery.message
    assert (message.response_topic, message.correlation_data, message.content_type) == (
        "bench/reply",
        b"\0\xff",
        "text/x",
    )
    assert message.expiry_s is not None
    assert 0 < message.expiry_s <= 60


def test_on_3_1_1_properties_are_left_out(broker: Broker, run: Callable[..., Running]) -> None:
    running = run(broker.settings(protocol="3.1.1"))
    running.wait_connected()
    running.link.publish(Publication(topic=REQUESTS, payload=b"hello", qos=1, response_topic="x", expiry_s=60))
    [delivery] = take(running.deliveries, 1)
    assert (delivery.message.response_topic, delivery.message.expiry_s) == (None, None)


def test_the_brokers_receive_maximum_is_kept(make_broker: MakeBroker, run: Callable[..., Running]) -> None:
    broker = make_broker(config=["max_inflight_messages 3"])
    with Proxy(broker.port) as cable:
        running = run(broker.settings(port=cable.port))
        running.wait_connected()
        endings = [running.publish(b"%d" % number) for number in range(50)]
        assert {each.sent() for each in endings} == {Sent.CONFIRMED}
        broker.freeze()  # no PUBACK comes now
        endings = [running.publish(b"%d" % number) for number in range(50, 100)]
        eventually(lambda: len(cable.sent(packets.PUBLISH, to_broker=True)) == 53, "a full window")
        before = running.link.state().last_progress
        eventually(lambda: running.link.state().last_progress > before, "another turn of the thread")
        assert len(cable.sent(packets.PUBLISH, to_broker=True)) == 53
        broker.thaw()
        assert {each.sent() for each in endings} == {Sent.CONFIRMED}
        assert running.link.state().reconnects == 0


def test_our_own_receive_maximum_is_announced(broker: Broker, run: Callable[..., Running]) -> None:
    with Proxy(broker.port) as cable, Peer(broker.port) as peer:
        running = run(broker.settings(port=cable.port), receive_maximum=2)
        running.wait_connected()
        for number in range(5):
            peer.publish(REQUESTS, b"%d" % number)
        peer.publish(REQUESTS, b"mark", qos=0)
        take(running.deliveries, 3)
        assert len(cable.sent(packets.PUBLISH, to_broker=False)) == 3  # the others are with the broker


def test_what_is_announced_later_binds_the_broker_from_the_next_connection_on(
    broker: Broker, run: Callable[..., Running]
) -> None:
    with Proxy(broker.port) as cable, Peer(broker.port) as peer:
        running = run(broker.settings(port=cable.port), receive_maximum=10)
        running.wait_connected()
        running.link.announce(3)
        cable.cut()
        cable.packets.clear()
        for number in range(6):
            peer.publish(REQUESTS, b"%d" % number)
        cable.restore()
        assert [each.message.payload for each in take(running.deliveries, 3)] == [b"0", b"1", b"2"]
        peer.publish(REQUESTS, b"mark", qos=0)
        take(running.deliveries, 1)
        assert len(cable.sent(packets.PUBLISH, to_broker=False)) == 4  # the others are with the broker
        assert [packets.receive_maximum(each) for each in cable.sent(packets.CONNECT, to_broker=True)] == [3]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_only_mqtt_5_tells_a_receive_maximum(broker: Broker, run: Callable[..., Running], version: str) -> None:
    running = run(broker.settings(protocol=version), receive_maximum=7)
    running.wait_connected()
    assert running.link.state().receive_maximum == (7 if version == "5" else None)


def test_a_packet_of_the_largest_size_goes_and_one_byte_more_does_not(
    make_broker: MakeBroker, run: Callable[..., Running]
) -> None:
    largest = 1000
    running = run(make_broker(config=[f"max_packet_size {largest}"]).settings())
    running.wait_connected()
    plain = Publication(topic=RESULTS, payload=b"", qos=1)
    for empty in (plain, replace(plain, correlation_data=b"c" * 200, response_topic="r", expiry_s=1)):
        room = largest - packet_size(replace(empty, payload=b"x" * 300), properties=True) + 300
        fits, too_large = Ending(), Ending()
        running.link.publish(replace(empty, payload=b"x" * room), fits)
        running.link.publish(replace(empty, payload=b"x" * (room + 1)), too_large)
        assert fits.sent() is Sent.CONFIRMED
        assert too_large.sent() is Sent.TOO_LARGE
    assert running.link.state().reconnects == 0


# ------------------------------------------------------------------------------------------- nothing lost, no flood


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_what_waits_survives_the_death_of_the_broker(broker: Broker, run: Callable[..., Running], version: str) -> None:
    running = run(broker.settings(protocol=version), subscriptions=("bench/#",))
    running.wait_connected()
    broker.freeze()  # what it confirms now it might lose with its memory, and that would be its fault
    endings = [running.publish(b"%d" % number) for number in range(100)]
    broker.kill()
    endings += [running.publish(b"%d" % number) for number in range(100, 200)]
    running.wait_lost()
    broker.start()
    assert {each.sent() for each in endings} == {Sent.CONFIRMED}
    arrived: set[bytes] = set()
    while len(arrived) < 200:  # some may come twice
        [delivery] = take(running.deliveries, 1)
        arrived.add(delivery.message.payload)
        if delivery.ticket is not None:
            running.link.settle(delivery.ticket)
    assert arrived == {b"%d" % number for number in range(200)}


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
def test_a_network_that_takes_no_more_gets_all_of_it_in_the_end(
    broker: Broker, run: Callable[..., Running], transport: str
) -> None:
    is_plain = transport == "tcp"
    port = broker.port if is_plain else broker.websocket_port
    with Proxy(port, is_plain=is_plain) as cable, Peer(broker.port) as peer:
        peer.subscribe(RESULTS)
        running = run(broker.settings(port=cable.port, transport=transport))
        running.wait_connected()
        cable.pause()
        payloads = [bytes((number,)) * (200_000 + number) for number in range(40)]  # more than a socket's buffer
        endings = [running.publish(payload, qos=int(number > 30)) for number, payload in enumerate(payloads)]
        assert endings[0].sent() is Sent.CONFIRMED
        before = running.link.state().last_progress
        eventually(lambda: running.link.state().last_progress > before, "a heartbeat of a thread that waits")
        assert endings[30].outcomes.empty()
        cable.resume()
        assert {each.sent() for each in endings[1:]} == {Sent.CONFIRMED}
        assert sorted(each.payload for each in take(peer.received, 40)) == sorted(payloads)
        assert running.link.state().reconnects == 0


def test_acks_leave_in_the_order_of_arrival(broker: Broker, run: Callable[..., Running]) -> None:
    with Proxy(broker.port) as cable, Peer(broker.port) as peer:
        running = run(broker.settings(port=cable.port))
        running.wait_connected()
        for number in range(20):
            peer.publish(REQUESTS, b"%d" % number)
        deliveries = take(running.deliveries, 20)
        random.Random(2).shuffle(deliveries)
        for delivery in deliveries:
            assert delivery.ticket is not None
            running.link.settle(delivery.ticket)
        acks = eventually(lambda: found if len(found := cable.sent(packets.PUBACK, to_broker=True)) == 20 else None)
        arrived = [each.packet_id for each in cable.sent(packets.PUBLISH, to_broker=False) if each.flags & 0x06]
        assert [each.packet_id for each in acks] == arrived


def test_more_than_the_outbox_holds_is_dropped_with_a_reason(broker: Broker, run: Callable[..., Running]) -> None:
    running = run(broker.settings(outbox=10))
    running.wait_connected()
    broker.kill()
    running.wait_lost()
    endings = [running.publish(b"%d" % number) for number in range(15)]
    assert [each.outcomes.get(timeout=TIMEOUT) for each in endings[10:]] == [
        Outcome(sent=Sent.DROPPED, reason="10 publications wait already")
    ] * 5
    broker.start()
    assert {each.sent() for each in endings[:10]} == {Sent.CONFIRMED}


# ---------------------------------------------------------------------------------------------- coming and going


def test_the_will_speaks_when_we_vanish(broker: Broker, run: Callable[..., Running]) -> None:
    with Proxy(broker.port) as cable, Peer(broker.port) as peer:
        peer.subscribe(WILL.topic)
        run(broker.settings(port=cable.port, will_delay=0), will=WILL).wait_connected()
        cable.cut()
        assert [each.payload for each in take(peer.received, 1)] == [b"offline"]


def test_a_short_absence_does_not_wake_the_will(broker: Broker, run: Callable[..., Running]) -> None:
    with Proxy(broker.port) as cable, Peer(broker.port) as peer:
        peer.subscribe("bench/#")
        running = run(broker.settings(port=cable.port, will_delay=60), will=WILL)
        running.wait_connected()
        cable.cut()
        running.wait_lost()
        cable.restore()
        running.wait_connected()
        running.publish(b"back")
        assert [each.payload for each in take(peer.received, 1)] == [b"back"]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_on_stop_the_last_word_is_ours(broker: Broker, run: Callable[..., Running], version: str) -> None:
    final = Publication(topic=WILL.topic, payload=b"stopped", qos=1, retain=True)
    running = run(broker.settings(protocol=version, will_delay=0), will=WILL)
    running.wait_connected()
    with Peer(broker.port) as peer:
        peer.subscribe("bench/#")
        endings = [running.publish(b"%d" % number) for number in range(50)]
        running.link.stop(final, 20.0)
        assert {each.sent() for each in endings} == {Sent.CONFIRMED}
        eventually(lambda: "Client bench disconnected" in broker.log(), "the broker's notice of our leave")
        peer.publish("bench/mark", b"mark")
        assert [each.payload for each in take(peer.received, 52)][-2:] == [b"stopped", b"mark"]
    state = running.link.state()
    assert (state.connected_since, state.outbox, state.fault) == (None, 0, "the link has stopped")


def test_if_the_last_word_is_not_heard_the_will_speaks(broker: Broker, run: Callable[..., Running]) -> None:
    running = run(broker.settings(will_delay=0), will=WILL)
    running.wait_connected()
    with Peer(broker.port) as peer:
        peer.subscribe(WILL.topic)
        broker.freeze()
        running.link.stop(Publication(topic="bench/other", payload=b"stopped", qos=1), 0.1)
        broker.thaw()
        assert [each.payload for each in take(peer.received, 1)] == [b"offline"]


def test_at_the_stop_every_publication_has_its_end(run: Callable[..., Running]) -> None:
    running = run(MqttSettings(host="127.0.0.1", port=free_port()))
    running.wait_fault("nothing listens")
    before = running.publish(b"before")
    running.link.stop(None, 0.1)
    after = running.publish(b"after")
    assert [before.sent(), after.sent()] == [Sent.DROPPED, Sent.DROPPED]
    running.link.stop(None, 0.1)
    assert before.outcomes.empty()


def test_acks_that_were_asked_for_before_the_stop_get_out(broker: Broker, run: Callable[..., Running]) -> None:
    running = run(broker.settings())
    running.wait_connected()
    with Peer(broker.port) as peer:
        peer.publish(REQUESTS, b"1")
        [delivery] = take(running.deliveries, 1)
        assert delivery.ticket is not None
        running.link.settle(delivery.ticket)
        running.link.stop(None, 20.0)
        peer.publish(REQUESTS, b"2")
    again = run(broker.settings())
    assert [each.message.payload for each in take(again.deliveries, 1)] == [b"2"]


def test_who_is_told_of_a_second_takeover_gives_way(run: Callable[..., Running]) -> None:
    """The first may be of an earlier CONNECT of ours: TCP tries to deliver it when its socket is long closed."""
    with ScriptedBroker(well_behaved) as broker:
        running = run(settings_of(broker))
        running.wait_connected()
        broker.script = lambda packet: SAY_NOTHING if packet.kind == packets.PUBLISH else well_behaved(packet)
        waiting = running.publish(b"hello")
        eventually(lambda: broker.received(packets.PUBLISH))
        broker.send(packets.encode(packets.DISCONNECT, bytes((0x8E, 0))))
        eventually(lambda: len(broker.received(packets.PUBLISH)) == 2, "the publication again, by a second connection")
        assert not running.link.state().taken_over
        broker.send(packets.encode(packets.DISCONNECT, bytes((0x8E, 0))))
        eventually(lambda: running.link.state().taken_over, "the takeover")
        assert "another client" in (running.link.state().fault or "")
        late = running.publish(b"hello")
        assert [waiting.sent(), late.sent()] == [Sent.DROPPED, Sent.DROPPED]
        assert len(broker.received(packets.CONNECT)) == 2


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_two_of_one_name_are_found_out_even_where_the_broker_does_not_tell(
    broker: Broker, run: Callable[..., Running], version: str
) -> None:
    settings = broker.settings(protocol=version)
    first, second = run(settings), run(settings)

    def found_out() -> bool:
        states = (first.link.state(), second.link.state())
        changes = drain(first.changes) + drain(second.changes)
        faults = " ".join(each.fault or "" for each in changes)
        return any(each.taken_over for each in states) or "perhaps another client is connected as 'bench'" in faults

    eventually(found_out, "the suspicion")


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_what_comes_after_unsubscribe_is_there_for_the_next_run(
    broker: Broker, run: Callable[..., Running], version: str
) -> None:
    settings = broker.settings(protocol=version)
    running = run(settings)
    running.wait_connected()
    with Peer(broker.port) as peer:
        running.link.unsubscribe()
        peer.publish(REQUESTS, b"while draining")
        eventually(lambda: running.link.state().unacked == 1, "the delivery that is held")
        running.link.stop(None, 20.0)
        peer.publish(REQUESTS, b"while away")
    assert running.deliveries.empty()
    again = run(settings)
    assert [each.message.payload for each in take(again.deliveries, 2)] == [b"while draining", b"while away"]


def test_what_comes_at_qos_0_does_not_wait_for_acks(broker: Broker, run: Callable[..., Running]) -> None:
    running = run(broker.settings(), subscriptions=(REQUESTS, "news/+"), at_qos_0=("news/+",), receive_maximum=1)
    running.wait_connected()
    with Peer(broker.port) as peer:
        for number in range(3):
            peer.publish(REQUESTS, b"%d" % number)
        peer.publish("news/a", b"news")
    assert [each.message.payload for each in take(running.deliveries, 2)] == [b"0", b"news"]


def test_a_broker_without_shared_subscriptions_is_not_asked_for_them(run: Callable[..., Running]) -> None:
    """It would end the connection (MQTT 5, section 3.2.2.3.13)."""

    def without(packet: Packet) -> bytes | None:
        if packet.kind == packets.CONNECT:
            return welcome(properties=bytes((0x2A, 0)))
        return HANG_UP if b"$share" in packet.body else well_behaved(packet)

    with ScriptedBroker(without) as broker:
        running = run(settings_of(broker), subscriptions=("a/#", "$share/x/probe"), shared=("$share/team/in/#",))
        running.wait_fault("the broker refuses to subscribe us to $share/x/probe (it has no shared subscriptions)")
        running.link.share(taking=True)
        running.wait_fault("$share/team/in/# (it has no shared subscriptions)")
        assert running.link.state().connected_since is not None
        assert running.publish(b"degraded").sent() is Sent.CONFIRMED
        assert running.link.state().reconnects == 0


def test_a_refused_queue_that_is_left_to_others_is_no_fault_any_more(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "RESUBSCRIBE_AFTER", 0.3)

    def strict(packet: Packet) -> bytes | None:
        if packet.kind == packets.SUBSCRIBE and b"$share" in packet.body:
            return suback(packet, 0x87)
        return well_behaved(packet)

    with ScriptedBroker(strict) as broker:
        running = run(settings_of(broker), shared=("$share/team/in/#",))
        running.wait_connected()
        running.link.share(taking=True)
        running.wait_fault("$share/team/in/# (not authorized)")
        running.link.share(taking=False)
        eventually(lambda: running.link.state().fault is None, "the end of the fault")
        asked = len(broker.received(packets.SUBSCRIBE))
        time.sleep(2.5)  # the thread turns once a second
        assert len(broker.received(packets.SUBSCRIBE)) == asked
        assert running.link.state().reconnects == 0


def test_after_unsubscribe_shared_work_goes_to_others(broker: Broker, run: Callable[..., Running]) -> None:
    one, other = (
        run(broker.settings(), client_id=name, subscriptions=(f"$share/fleet/{REQUESTS}",)) for name in ("one", "other")
    )
    one.wait_connected()
    other.wait_connected()
    one.link.unsubscribe()
    eventually(lambda: "Received UNSUBSCRIBE from one" in broker.log(), "UNSUBSCRIBE")
    with Peer(broker.port) as peer:
        for number in range(10):
            peer.publish(REQUESTS, b"%d" % number)
    assert len(take(other.deliveries, 10)) == 10
    assert one.link.state().unacked == 0


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_retained_requests_come_to_commands_and_not_to_daemons_that_return(
    broker: Broker, run: Callable[..., Running], version: str
) -> None:
    settings = broker.settings(protocol=version)
    with Proxy(broker.port) as cable, Peer(broker.port) as peer:
        daemon = run(settings.model_copy(update={"port": cable.port}), subscriptions=(f"{REQUESTS}/#",))
        daemon.wait_connected()
        peer.publish(REQUESTS, b"retained", retain=True)
        [live] = take(daemon.deliveries, 1)
        assert live.ticket is not None
        daemon.link.settle(live.ticket)
        assert daemon.publish(b"the ack went before this").sent() is Sent.CONFIRMED
        cable.cut()
        daemon.wait_lost()
        cable.restore()
        daemon.wait_connected()
        command = run(settings, client_id="command", ephemeral=True)
        [old] = take(command.deliveries, 1)
        assert (old.message.payload, old.message.retain) == (b"retained", True)
        peer.publish(REQUESTS, b"mark")
        assert [each.message.payload for each in take(daemon.deliveries, 1)] == [b"mark"]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_the_last_word_of_an_exact_topic_comes_with_every_connection(
    broker: Broker, run: Callable[..., Running], version: str
) -> None:
    settings = broker.settings(protocol=version)
    with Proxy(broker.port) as cable, Peer(broker.port) as peer:
        daemon = run(settings.model_copy(update={"port": cable.port}), subscriptions=("bench/status",))
        daemon.wait_connected()
        cable.cut()
        daemon.wait_lost()
        peer.publish("bench/status", b"said meanwhile", retain=True, qos=0)
        cable.restore()
        [word] = take(daemon.deliveries, 1)
        assert (word.message.payload, word.message.retain) == (b"said meanwhile", True)


@pytest.mark.parametrize("version", [5, 4])
def test_a_broker_that_forgot_our_subscriptions_is_told_again(run: Callable[..., Running], version: int) -> None:
    def forgetful(packet: Packet) -> bytes | None:
        match packet.kind:
            case packets.CONNECT:
                return welcome(version=version, session_present=True)
            case packets.SUBSCRIBE if version == 4:
                return packets.encode(packets.SUBACK, packet.body[:2] + b"\1")
        return well_behaved(packet)

    with ScriptedBroker(forgetful) as broker:
        running = run(settings_of(broker, protocol="5" if version == 5 else "3.1.1"))
        running.wait_connected()
        broker.hang_up()
        eventually(lambda: len(broker.received(packets.SUBSCRIBE)) == 2, "the second SUBSCRIBE")


def test_an_ephemeral_link_leaves_no_session(broker: Broker, run: Callable[..., Running]) -> None:
    command = run(broker.settings(), ephemeral=True)
    command.wait_connected()
    command.link.stop(None, 20.0)
    with Peer(broker.port) as peer:
        peer.publish(REQUESTS, b"for nobody")
        again = run(broker.settings(), ephemeral=True)
        again.wait_connected()
        peer.publish(REQUESTS, b"mark")
    assert [each.message.payload for each in take(again.deliveries, 1)] == [b"mark"]


def test_what_was_asked_for_before_the_start_is_done_after_it(broker: Broker) -> None:
    running = Running(broker.settings())
    ending = running.publish(b"early")
    with running:
        assert ending.sent() is Sent.CONFIRMED
    assert drain(running.deliveries) == []
