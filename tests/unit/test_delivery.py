"""Messages between broker and daemon: what is acked when, what is sent again, how each publication ends."""

import pytest

from edged.mqtt.delivery import CONFIRMED, CONNECTION_LOST, Entry, Inbox, MessageFlow, Outbox
from edged.mqtt.limits import Limits
from edged.ports.link import Delivery, Message, Outcome, Publication, Sent, Ticket


class FakeWire:
    """A connection that notes what leaves."""

    def __init__(self) -> None:
        self.acked: list[int] = []
        self.published: list[Publication] = []
        self.is_open = True
        self.is_congested = False
        self.fault: Exception | None = None

    def ack(self, packet_id: int) -> None:
        self.acked.append(packet_id)

    def publish(self, publication: Publication) -> int | None:
        if self.fault is not None:
            raise self.fault
        self.published.append(publication)
        return len(self.published) if publication.qos else None


class Bench:
    """A flow with a daemon behind it that notes what it gets."""

    def __init__(self, *, receive_maximum: int = 10) -> None:
        self.deliveries: list[Delivery] = []
        self.ended: list[tuple[str, Outcome]] = []
        self.daemon_works = True
        self.wire = FakeWire()
        self.flow = MessageFlow(
            inbox=Inbox(receive_maximum=receive_maximum),
            outbox=Outbox(capacity=10),
            deliver=self._deliver,
            end=lambda entry, outcome: self.ended.append((entry.publication.topic, outcome)),
        )

    def _deliver(self, delivery: Delivery) -> bool:
        self.deliveries.append(delivery)
        return self.daemon_works

    def connect(self, limits: Limits | None = None) -> None:
        self.wire = FakeWire()
        self.flow.connected(self.wire, limits or Limits())

    def arrive(self, *packet_ids: int, qos: int = 1) -> None:
        for packet_id in packet_ids:
            message = Message(topic="t", payload=b"%d" % packet_id, qos=qos)
            self.flow.arrived(message, packet_id=packet_id, redelivered=False, now=0.0)

    def ticket(self, index: int) -> Ticket:
        ticket = self.deliveries[index].ticket
        assert ticket is not None
        return ticket

    def publish(self, *topics: str, qos: int = 1) -> None:
        for topic in topics:
            self.flow.offer(Entry(Publication(topic=topic, payload=b"", qos=qos)))
        self.flow.flush()

    def sent(self) -> list[str]:
        return [each.topic for each in self.wire.published]


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.connect()
    return made


def test_acks_leave_in_the_order_of_arrival(bench: Bench) -> None:
    bench.arrive(7, 8, 9)
    bench.flow.settle(bench.ticket(1))
    assert bench.wire.acked == []
    bench.flow.settle(bench.ticket(0))
    assert bench.wire.acked == [7, 8]


def test_a_ticket_of_an_earlier_connection_acks_nothing(bench: Bench) -> None:
    bench.arrive(7)
    bench.flow.disconnected(by_broker=False)
    bench.flow.settle(bench.ticket(0))
    bench.connect()
    bench.arrive(7)
    bench.flow.settle(bench.ticket(0))
    assert bench.wire.acked == []
    bench.flow.settle(bench.ticket(1))
    assert bench.wire.acked == [7]


def test_an_ack_makes_room_for_the_next_message() -> None:
    bench = Bench(receive_maximum=1)
    bench.connect()
    bench.arrive(1, 2)
    assert len(bench.deliveries) == 1
    bench.flow.settle(bench.ticket(0))
    assert [each.message.payload for each in bench.deliveries] == [b"1", b"2"]


def test_messages_on_which_the_daemon_fails_are_acked_and_hold_nothing_up() -> None:
    bench = Bench(receive_maximum=1)
    bench.connect()
    bench.daemon_works = False
    bench.arrive(1, 2, 3)
    assert bench.wire.acked == [1, 2, 3]
    assert len(bench.deliveries) == 3


def test_after_drain_only_qos_0_is_handed_over(bench: Bench) -> None:
    bench.flow.drain()
    bench.arrive(1)
    bench.arrive(2, qos=0)
    assert [each.message.payload for each in bench.deliveries] == [b"2"]
    assert bench.flow.unacked == 1


@pytest.mark.parametrize(("qos", "acked"), [(0, []), (1, [5])])
def test_what_is_skipped_is_acked_and_not_handed_over(bench: Bench, qos: int, acked: list[int]) -> None:
    bench.flow.skip(qos=qos, packet_id=5)
    assert (bench.wire.acked, bench.deliveries) == (acked, [])


def test_publications_without_a_puback_go_first_on_the_next_connection(bench: Bench) -> None:
    bench.publish("a", "b")
    bench.flow.confirmed(1, None)
    bench.flow.flush()
    assert bench.flow.awaits_puback
    bench.flow.disconnected(by_broker=False)
    bench.publish("c")
    bench.connect()
    bench.flow.flush()
    assert bench.sent() == ["b"]  # the window starts at one
    bench.flow.confirmed(1, None)
    bench.flow.flush()
    bench.flow.confirmed(2, None)
    assert bench.ended == [("a", CONFIRMED), ("b", CONFIRMED), ("c", CONFIRMED)]
    assert not bench.flow.awaits_puback


def test_qos_0_ends_with_the_socket_and_waits_for_no_connection(bench: Bench) -> None:
    bench.publish("a", qos=0)
    bench.wire.is_congested = True
    bench.publish("b", qos=0)
    bench.flow.disconnected(by_broker=False)
    bench.publish("c", qos=0)
    assert bench.ended[:2] == [("a", CONFIRMED), ("b", CONNECTION_LOST)]
    assert [(topic, outcome.sent) for topic, outcome in bench.ended[2:]] == [("c", Sent.DROPPED)]


def test_qos_0_is_dropped_if_the_connection_ends_while_it_is_sent(bench: Bench) -> None:
    publish = bench.wire.publish

    def lose(publication: Publication) -> int | None:
        bench.wire.is_open = False
        return publish(publication)

    bench.wire.publish = lose  # type: ignore[method-assign]
    bench.publish("a", qos=0)
    assert bench.ended == [("a", CONNECTION_LOST)]


def test_a_packet_over_the_brokers_limit_ends_unsent(bench: Bench) -> None:
    bench.connect(Limits(maximum_packet_size=10))
    bench.publish("much/too/long")
    assert [outcome.sent for _, outcome in bench.ended] == [Sent.TOO_LARGE]
    assert bench.sent() == []


def test_a_publication_that_cannot_be_sent_ends_and_the_error_is_raised(bench: Bench) -> None:
    bench.wire.fault = ConnectionError("the connection is closed")
    with pytest.raises(ConnectionError):
        bench.publish("a")
    assert [outcome.sent for _, outcome in bench.ended] == [Sent.REFUSED]
