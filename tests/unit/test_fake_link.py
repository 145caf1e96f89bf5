"""The fake link keeps the contract of the real one."""

import pytest

from edged.mqtt.limits import Limits
from edged.ports.link import Delivery, Message, Outcome, Sent
from edged.testing import FakeLink
from tests.support.link_contract import (
    RECEIVE_MAXIMUM,
    REQUESTS,
    RESULTS,
    Bench,
    Ending,
    LinkContract,
    result,
    ticket_of,
)


class FakeBench(Bench):
    def __init__(self) -> None:
        super().__init__()
        self.link: FakeLink = FakeLink(
            self.on_delivery, on_change=self.changes.put, receive_maximum=RECEIVE_MAXIMUM, clock=lambda: 1.0
        )
        self._seen = 0

    def send(self, payload: bytes, *, qos: int = 1) -> None:
        self.link.deliver(Message(topic=REQUESTS, payload=payload, qos=qos))

    def results(self, number: int) -> list[bytes]:
        seen, self._seen = self._seen, self._seen + number
        found = [each.payload for each in self.link.published if each.topic == RESULTS][seen : self._seen]
        assert len(found) == number
        return found

    def drop(self) -> None:
        self.link.disconnect()

    def restore(self) -> None:
        self.link.reconnect()


@pytest.fixture
def bench() -> Bench:
    return FakeBench()


class TestFakeLink(LinkContract):
    pass


def test_publications_can_be_held_refused_and_found_too_large() -> None:
    link, endings = FakeLink(auto=False), [Ending(), Ending()]
    for ending in endings:
        link.publish(result(b"hello"), ending)
    assert all(each.outcomes.empty() for each in endings)
    link.finish()
    link.finish(Outcome(sent=Sent.REFUSED, reason="quota exceeded"))
    assert [each.sent() for each in endings] == [Sent.CONFIRMED, Sent.REFUSED]

    link.limits = Limits(maximum_packet_size=100)
    link.publish(result(b"x" * 200), endings[0])
    assert endings[0].sent() is Sent.TOO_LARGE


def test_what_was_in_flight_goes_out_again_after_a_reconnect() -> None:
    link, ending = FakeLink(auto=False), Ending()
    link.publish(result(b"hello"), ending)
    link.disconnect()
    link.auto = True
    link.reconnect()
    assert [each.payload for each in link.published] == [b"hello", b"hello"]
    assert ending.sent() is Sent.CONFIRMED
    assert ending.outcomes.empty()


def test_a_link_that_was_taken_over_drops_all() -> None:
    link, waiting, late = FakeLink(auto=False), Ending(), Ending()
    link.publish(result(b"hello"), waiting)
    link.disconnect(taken_over=True)
    link.publish(result(b"hello"), late)
    assert link.state().taken_over
    assert [waiting.sent(), late.sent()] == [Sent.DROPPED, Sent.DROPPED]


def test_acks_are_listed_in_order_and_mistakes_of_callbacks_too() -> None:
    def on_delivery(delivery: Delivery) -> None:
        link.settle(ticket_of(delivery))

    link = FakeLink(on_delivery)
    for number in range(3):
        link.deliver(Message(topic=REQUESTS, payload=b"%d" % number, qos=1))
    link.deliver(Message(topic=REQUESTS, payload=b"no ticket", qos=0))
    assert [each.message.payload for each in link.acked] == [b"0", b"1", b"2"]
    assert [type(each) for each in link.errors] == [AssertionError]


def test_nothing_can_be_delivered_without_a_connection() -> None:
    link = FakeLink()
    link.disconnect()
    with pytest.raises(ConnectionError):
        link.deliver(Message(topic=REQUESTS, payload=b"hello", qos=1))
