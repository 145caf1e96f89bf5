"""What every `ports.Link` does, the fake and the real one alike. Each runs these tests on a bench of its own."""

import queue
from abc import ABC, abstractmethod
from collections.abc import Callable

import pytest

from edged.ports.link import Delivery, Link, LinkState, Outcome, Publication, Sent, Ticket
from tests.support.waiting import TIMEOUT, drain, eventually, take

RECEIVE_MAXIMUM = 4
REQUESTS = "bench/in"
RESULTS = "bench/out"


class Bench(ABC):
    """A link and its broker, controlled by a test.

    Attributes:
        link: what is tested; it takes `RECEIVE_MAXIMUM` deliveries and is subscribed to `REQUESTS`.
        deliveries: what it handed over.
        changes: what it told of its connection.
        in_delivery: called with each delivery in the callback, after it was noted.
        marks_redelivery: whether the broker sets DUP when it sends a message again, as MQTT wants it.
        wait_resent: waits until the broker has sent again what was not acknowledged, where new messages may come first.
        wait_acked: waits until the broker has stored so many acks, where it confirms later packets before that.
        keeps_order: whether messages come in the order in which the broker took them.
        qos_0_overtakes: whether messages at QoS 0 come while those at QoS 1 wait for our acks.
    """

    link: Link
    marks_redelivery = True
    keeps_order = True
    qos_0_overtakes = True

    def __init__(self) -> None:
        self.deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.changes: queue.SimpleQueue[LinkState] = queue.SimpleQueue()
        self.in_delivery: Callable[[Delivery], None] = lambda _: None
        self.wait_resent: Callable[[], None] = lambda: None
        self.wait_acked: Callable[[int], None] = lambda _: None
        self._handed_over = 0  # on this connection, at QoS 1

    @abstractmethod
    def send(self, payload: bytes, *, qos: int = 1) -> None:
        """Publish to `REQUESTS`, as another client does."""

    @abstractmethod
    def results(self, number: int) -> list[bytes]:
        """The next payloads that a subscriber of `RESULTS` receives."""

    @abstractmethod
    def drop(self) -> None:
        """Cut the connection, and let no new one be made."""

    @abstractmethod
    def restore(self) -> None:
        """Let connections be made again, and wait for one."""

    def on_delivery(self, delivery: Delivery) -> None:
        self._handed_over += delivery.ticket is not None
        self.deliveries.put(delivery)
        self.in_delivery(delivery)

    def send_and_take(self, *payloads: bytes) -> list[Delivery]:
        """Send one after the other has come: not every broker keeps the order of what it has at once."""
        taken = []
        for payload in payloads:
            self.send(payload)
            taken += take(self.deliveries, 1)
        return taken

    def settle(self, delivery: Delivery) -> None:
        self.link.settle(ticket_of(delivery))

    def wait_heard(self) -> None:
        """Wait until the broker has got all acks: they go before this publication, and its confirmation comes after.

        A broker that does not take its packets in turn is waited for by `wait_acked`, with the number of acks.
        """
        ending = Ending()
        self.link.publish(result(b"", topic="bench/heard"), ending)
        assert ending.sent() is Sent.CONFIRMED
        self.wait_acked(self._handed_over - self.link.state().unacked)

    def wait_unacked(self, number: int) -> None:
        eventually(lambda: self.link.state().unacked == number, f"{number} unacked deliveries")

    def come_again(self) -> list[tuple[bytes, bool]]:
        """Lose the connection and make a new one: what comes again, in order, and whether it says so.

        A last message marks the end of what there is; a broker that sends new messages before old ones is waited for by
        `wait_resent`. Where the broker never says so, True is assumed.
        """
        self.drop()
        drain(self.deliveries)
        self._handed_over = 0
        self.restore()
        self.wait_resent()
        self.send(b"end", qos=0)
        found = []
        while (delivery := self.deliveries.get(timeout=TIMEOUT)).message.payload != b"end":
            found.append((delivery.message.payload, delivery.redelivered or not self.marks_redelivery))
        return found


class Ending:
    """An `on_done` that keeps what it was told."""

    def __init__(self) -> None:
        self.outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def __call__(self, outcome: Outcome) -> None:
        self.outcomes.put(outcome)

    def sent(self) -> Sent:
        return self.outcomes.get(timeout=TIMEOUT).sent


def ticket_of(delivery: Delivery) -> Ticket:
    assert delivery.ticket is not None
    return delivery.ticket


def result(payload: bytes, *, qos: int = 1, topic: str = RESULTS) -> Publication:
    return Publication(topic=topic, payload=payload, qos=qos)


class LinkContract:
    """The tests. A subclass brings the fixture `bench`."""

    # deliveries

    def test_a_request_is_handed_over(self, bench: Bench) -> None:
        [delivery] = bench.send_and_take(b"hello")
        assert (delivery.message.topic, delivery.message.payload, delivery.message.qos) == (REQUESTS, b"hello", 1)
        assert delivery.ticket is not None
        assert not delivery.redelivered
        assert bench.link.state().unacked == 1

    def test_a_request_at_qos_0_has_nothing_to_settle(self, bench: Bench) -> None:
        bench.send(b"hello", qos=0)
        [delivery] = take(bench.deliveries, 1)
        assert (delivery.ticket, delivery.message.qos) == (None, 0)
        assert bench.link.state().unacked == 0

    def test_what_is_settled_does_not_come_again_and_what_is_not_does(self, bench: Bench) -> None:
        first, second, *_ = bench.send_and_take(b"1", b"2", b"3", b"4")
        bench.settle(second)
        bench.settle(first)
        bench.wait_heard()
        assert bench.link.state().unacked == 2
        assert bench.come_again() == [(b"3", True), (b"4", True)]

    def test_acks_wait_for_what_came_before(self, bench: Bench) -> None:
        _, second, third = bench.send_and_take(b"1", b"2", b"3")
        bench.settle(third)
        bench.settle(second)
        bench.wait_heard()
        assert bench.come_again() == [(b"1", True), (b"2", True), (b"3", True)]

    def test_a_ticket_of_an_earlier_connection_settles_nothing(self, bench: Bench) -> None:
        old = bench.send_and_take(b"1", b"2")
        bench.come_again()
        for delivery in old:
            bench.settle(delivery)
        bench.wait_heard()
        assert bench.come_again() == [(b"1", True), (b"2", True)]

    def test_a_ticket_settles_once(self, bench: Bench) -> None:
        first, *_ = bench.send_and_take(b"1", b"2")
        bench.settle(first)
        bench.settle(first)
        bench.wait_heard()
        assert bench.come_again() == [(b"2", True)]

    def test_what_is_announced_is_told_on_the_next_connection(self, bench: Bench) -> None:
        tells = bench.link.state().protocol == "5"  # 3.1.1 has no word for it
        bench.link.announce(2)
        assert bench.link.state().receive_maximum == (RECEIVE_MAXIMUM if tells else None)
        bench.come_again()
        assert bench.link.state().receive_maximum == (2 if tells else None)

    def test_no_more_are_handed_over_than_the_receive_maximum(self, bench: Bench) -> None:
        for number in range(RECEIVE_MAXIMUM + 2):
            bench.send(b"%d" % number)
        first, *_ = take(bench.deliveries, RECEIVE_MAXIMUM)
        bench.send(b"mark", qos=0)
        if bench.qos_0_overtakes:
            assert [each.message.payload for each in take(bench.deliveries, 1)] == [b"mark"]
        else:
            assert bench.deliveries.empty()
        bench.settle(first)
        [following] = take(bench.deliveries, 1)
        waiting = (
            [b"%d" % RECEIVE_MAXIMUM]
            if bench.keeps_order
            else [b"%d" % number for number in range(RECEIVE_MAXIMUM + 2)]
        )
        assert following.message.payload in waiting

    def test_a_delivery_can_be_settled_within_its_callback(self, bench: Bench) -> None:
        bench.in_delivery = bench.settle
        bench.send_and_take(b"1", b"2", b"3", b"4", b"5", b"6")
        bench.wait_unacked(0)

    def test_after_unsubscribe_the_broker_keeps_what_comes(self, bench: Bench) -> None:
        [before] = bench.send_and_take(b"before")
        bench.link.unsubscribe()
        bench.send(b"after")
        bench.wait_unacked(2)
        bench.send(b"mark", qos=0)  # nobody keeps it, so its sender must be told something
        assert [each.message.payload for each in take(bench.deliveries, 1)] == [b"mark"]
        bench.settle(before)
        bench.wait_unacked(1)

    def test_a_callback_that_raises_costs_nobody_anything(self, bench: Bench) -> None:
        def fail_once(_: Delivery) -> None:
            bench.in_delivery = lambda _: None
            raise RuntimeError("a mistake in on_delivery")

        bench.in_delivery = fail_once
        _, second = bench.send_and_take(b"1", b"2")
        bench.settle(second)
        bench.wait_unacked(0)  # nobody could have settled the first
        assert bench.link.state().reconnects == 0

    # publications

    def test_publications_arrive_in_order_and_end_once(self, bench: Bench) -> None:
        payloads = [b"%d" % number for number in range(50)]
        endings = [Ending() for _ in payloads]
        for payload, ending in zip(payloads, endings, strict=True):
            bench.link.publish(result(payload), ending)
        assert bench.results(50) == payloads
        assert [each.sent() for each in endings] == [Sent.CONFIRMED] * 50
        assert bench.link.state().outbox == 0
        assert bench.come_again() == []
        assert all(each.outcomes.empty() for each in endings)

    def test_a_publication_at_qos_0_ends_when_it_was_handed_to_the_network(self, bench: Bench) -> None:
        ending = Ending()
        bench.link.publish(result(b"hello", qos=0), ending)
        assert ending.sent() is Sent.CONFIRMED
        assert bench.results(1) == [b"hello"]

    @pytest.mark.parametrize("topic", ["", "a/#", "a/+/b", "$SYS/x", "nul\0", "lone\ud800"])
    def test_what_no_broker_could_take_is_refused_and_the_link_stays(self, bench: Bench, topic: str) -> None:
        bad, good = Ending(), Ending()
        bench.link.publish(result(b"bad", topic=topic), bad)
        bench.link.publish(result(b"good"), good)
        assert bad.sent() is Sent.REFUSED
        assert good.sent() is Sent.CONFIRMED
        assert bench.link.state().reconnects == 0

    def test_without_a_connection_qos_1_waits_and_qos_0_does_not(self, bench: Bench) -> None:
        bench.drop()
        kept, dropped = Ending(), Ending()
        bench.link.publish(result(b"kept"), kept)
        bench.link.publish(result(b"dropped", qos=0), dropped)
        assert dropped.sent() is Sent.DROPPED
        assert bench.link.state().outbox == 1
        bench.restore()
        assert kept.sent() is Sent.CONFIRMED
        assert bench.results(1) == [b"kept"]

    def test_an_on_done_that_raises_costs_nobody_anything(self, bench: Bench) -> None:
        def fail(_: Outcome) -> None:
            raise RuntimeError("a mistake in on_done")

        after = Ending()
        bench.link.publish(result(b"1"), fail)
        bench.link.publish(result(b"2"), after)
        assert after.sent() is Sent.CONFIRMED
        assert bench.link.state().reconnects == 0

    def test_an_on_done_may_publish(self, bench: Bench) -> None:
        after = Ending()
        bench.link.publish(result(b"1"), lambda _: bench.link.publish(result(b"2"), after))
        assert after.sent() is Sent.CONFIRMED
        assert bench.results(2) == [b"1", b"2"]

    # the connection

    def test_the_state_tells_of_the_connection_and_so_does_on_change(self, bench: Bench) -> None:
        state = bench.link.state()
        assert state.connected_since is not None
        assert (state.reconnects, state.fault, state.taken_over) == (0, None, False)
        bench.drop()  # what told of the connection may come after `state`
        lost = eventually(lambda: next((each for each in drain(bench.changes) if each.connected_since is None), None))
        assert lost.fault
        assert bench.link.state().connected_since is None
        bench.restore()
        made = eventually(
            lambda: next((each for each in drain(bench.changes) if each.connected_since is not None), None)
        )
        assert (made.reconnects, made.fault) == (1, None)
