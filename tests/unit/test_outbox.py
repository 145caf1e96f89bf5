"""Which publication goes next, how many at once, and how each one ends."""

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edged.mqtt.delivery import MAX_ATTEMPTS, WINDOW, Ended, Entry, Outbox
from edged.mqtt.limits import Limits, packet_size, unsendable
from edged.ports.link import Outcome, Publication, Sent

PLAIN = Publication(topic="t", payload=b"", content_type=None)


def entry(name: str, qos: int = 1) -> Entry:
    return Entry(Publication(topic=name, payload=b"", qos=qos))


def names(entries: list[Entry]) -> list[str]:
    return [each.publication.topic for each in entries]


def take_all(outbox: Outbox) -> list[Entry]:
    """Send all that may be sent now; packet ids are given in order, from 1 on."""
    taken = []
    while (each := outbox.take()) is not None:
        taken.append(each)
        if each.publication.qos:
            outbox.sent(each, len(taken))
    return taken


def connected(*names: str, limits: Limits | None = None) -> Outbox:
    outbox = Outbox(capacity=1000)
    outbox.connected(limits or Limits())
    for name in names:
        assert outbox.offer(entry(name)) is None
    return outbox


# sizes


@pytest.mark.parametrize(
    ("publication", "properties", "size"),
    [
        (PLAIN, False, 2 + 3),
        (PLAIN, True, 2 + 3 + 1),
        (replace(PLAIN, qos=1), False, 2 + 3 + 2),
        (replace(PLAIN, topic="拓扑"), False, 2 + 2 + 6),
        (replace(PLAIN, content_type="a/b"), False, 2 + 3),
        (replace(PLAIN, content_type="a/b"), True, 2 + 3 + 1 + 6),
        (replace(PLAIN, response_topic="r", correlation_data=b"cc", expiry_s=7), True, 2 + 3 + 1 + 4 + 5 + 5),
        (replace(PLAIN, payload=b"x" * 124), False, 1 + 1 + 3 + 124),  # a remaining length of 127
        (replace(PLAIN, payload=b"x" * 125), False, 1 + 2 + 3 + 125),  # and of 128
        (replace(PLAIN, payload=b"x" * 16380), False, 1 + 2 + 3 + 16380),
        (replace(PLAIN, payload=b"x" * 16381), False, 1 + 3 + 3 + 16381),
        (replace(PLAIN, correlation_data=b"x" * 125), True, 2 + 1 + 3 + 2 + 128),  # 128 bytes of properties
    ],
)
def test_the_size_of_a_packet_is_exact(publication: Publication, properties: bool, size: int) -> None:
    assert packet_size(publication, properties=properties) == size


def test_what_is_larger_than_the_broker_takes_is_known() -> None:
    limits = Limits(maximum_packet_size=10)
    assert limits.refusal(replace(PLAIN, payload=b"1234")) is None
    refusal = limits.refusal(replace(PLAIN, payload=b"12345"))
    assert refusal is not None
    assert refusal.sent is Sent.TOO_LARGE
    assert "11 bytes" in refusal.reason
    assert Limits().refusal(replace(PLAIN, payload=b"x" * 10**7)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"qos": 2},
        {"topic": ""},
        {"topic": "a/#"},
        {"topic": "a/+"},
        {"topic": "$SYS/a"},
        {"topic": "a\0"},
        {"topic": "\ud800"},
        {"topic": "x" * 65536},
        {"content_type": "\0"},
        {"response_topic": "\ud800"},
        {"response_topic": "x" * 65536},
        {"correlation_data": b"x" * 65536},
        {"expiry_s": -1},
        {"expiry_s": 2**32},
    ],
)
def test_what_no_broker_could_take_is_known(change: dict[str, object]) -> None:
    assert unsendable(PLAIN) is None
    assert unsendable(replace(PLAIN, **change))  # type: ignore[arg-type]
    outcome = Outbox(capacity=10).offer(Entry(replace(PLAIN, **change)))  # type: ignore[arg-type]
    assert outcome is not None
    assert outcome.sent is Sent.REFUSED


@pytest.mark.parametrize(
    "change", [{"correlation_data": b"x" * 65535}, {"expiry_s": 2**32 - 1}, {"topic": "x" * 65535}]
)
def test_the_longest_that_a_broker_could_take_is_taken(change: dict[str, object]) -> None:
    assert unsendable(replace(PLAIN, **change)) is None  # type: ignore[arg-type]


# order and pace


def test_the_window_opens_with_each_puback() -> None:
    outbox = connected(*(str(number) for number in range(500)))
    in_flight: list[int] = []
    next_id, most = 1, []
    while len(outbox):
        while (each := outbox.take()) is not None:
            outbox.sent(each, next_id)
            in_flight.append(next_id)
            next_id += 1
        most.append(len(in_flight))
        outbox.confirmed(in_flight.pop(0), None)
    assert most[:8] == [1, 2, 4, 8, 16, 32, 64, WINDOW]
    assert max(most) == WINDOW


def test_the_window_is_no_wider_than_the_broker_wants() -> None:
    outbox = connected("a", "b", "c", "d", "e", limits=Limits(receive_maximum=2))
    for packet_id in (1, 1, 1):
        take_all(outbox)
        outbox.confirmed(packet_id, None)
    outbox.disconnected(by_broker=False)
    outbox.connected(Limits(receive_maximum=1))
    assert len(take_all(outbox)) == 1


def test_qos_0_is_not_held_up_by_the_window_and_not_overtaken_by_its_result() -> None:
    outbox = connected("other", "waits")
    assert names(take_all(outbox)) == ["other"]
    for each in (entry("chunk 0", 0), entry("chunk 1", 0), entry("result")):
        outbox.offer(each)
    outbox.confirmed(1, None)
    assert names(take_all(outbox)) == ["chunk 0", "chunk 1", "waits", "result"]


def test_what_was_in_flight_goes_first_after_a_reconnect() -> None:
    outbox = connected("a", "b", "c", "d")
    take_all(outbox)
    outbox.confirmed(1, None)
    assert names(take_all(outbox)) == ["b", "c"]
    assert outbox.disconnected(by_broker=True) == []
    assert outbox.take() is None
    outbox.connected(Limits())
    order = []
    while (each := outbox.take()) is not None:
        order.append(each)
        outbox.sent(each, 1)
        outbox.confirmed(1, None)
    assert names(order) == ["b", "c", "d"]


# ends


def test_a_puback_ends_one_publication_once() -> None:
    outbox = connected("a")
    [a] = take_all(outbox)
    assert outbox.confirmed(2, None) is None
    assert outbox.confirmed(1, None) == (a, Outcome(sent=Sent.CONFIRMED))
    assert outbox.confirmed(1, None) is None
    assert len(outbox) == 0


def test_a_failure_comes_with_its_reason() -> None:
    outbox = connected("a")
    [a] = take_all(outbox)
    assert outbox.confirmed(1, "quota exceeded") == (a, Outcome(sent=Sent.REFUSED, reason="quota exceeded"))


def test_qos_0_does_not_outlive_the_connection() -> None:
    outbox = Outbox(capacity=10)
    without = outbox.offer(entry("early", 0))
    assert without is not None
    assert without.sent is Sent.DROPPED
    outbox.connected(Limits())
    waiting = entry("waiting", 0)
    outbox.offer(waiting)
    [(ended, outcome)] = outbox.disconnected(by_broker=False)
    assert (ended, outcome.sent) == (waiting, Sent.DROPPED)


@pytest.mark.parametrize("qos", [0, 1])
def test_more_than_the_capacity_is_dropped(qos: int) -> None:
    outbox = Outbox(capacity=2)
    outbox.connected(Limits())
    assert [outbox.offer(entry("a", qos)), outbox.offer(entry("b", qos))] == [None, None]
    assert outbox.offer(entry("other", 1 - qos)) is None  # chunks of a stream take no room from results
    full = outbox.offer(entry("c", qos))
    assert full is not None
    assert full.sent is Sent.DROPPED
    take_all(outbox)  # one is in flight now, and waits no more
    assert outbox.offer(entry("c", qos)) is None


def lose(outbox: Outbox, *, by_broker: bool = True) -> list[Ended]:
    """A connection on which all that may be sent is sent, and nothing confirmed."""
    outbox.connected(Limits())
    take_all(outbox)
    return outbox.disconnected(by_broker=by_broker)


def test_a_publication_over_which_the_broker_hangs_up_ends() -> None:
    outbox = connected("poison", "good")
    for _ in range(MAX_ATTEMPTS - 1):
        assert lose(outbox) == []
    [(ended, outcome)] = lose(outbox)
    assert (ended.publication.topic, outcome.sent) == ("poison", Sent.REFUSED)
    outbox.connected(Limits())
    assert names(take_all(outbox)) == ["good"]


def test_a_bad_network_ends_no_publication() -> None:
    outbox = connected("a")
    for _ in range(3 * MAX_ATTEMPTS):
        assert lose(outbox, by_broker=False) == []
    outbox.connected(Limits())
    assert names(take_all(outbox)) == ["a"]


def test_clear_ends_all() -> None:
    outbox = connected("in flight", "waits")
    take_all(outbox)
    outbox.offer(entry("chunk", 0))
    ended = outbox.clear("stopped")
    assert sorted(names([each for each, _ in ended])) == ["chunk", "in flight", "waits"]
    assert {outcome for _, outcome in ended} == {Outcome(sent=Sent.DROPPED, reason="stopped")}
    assert len(outbox) == 0


def test_a_publication_is_lowered_to_what_the_broker_offers() -> None:
    publication = replace(PLAIN, qos=1, retain=True)
    assert Limits().adapt(publication) == publication
    assert Limits(maximum_qos=0).adapt(publication) == replace(publication, qos=0)
    assert Limits(retain_available=False).adapt(publication) == replace(publication, retain=False)


class OutboxMachine(RuleBasedStateMachine):
    """Whatever happens: each publication has one end at most, QoS 1 is first sent in order, the window holds."""

    CAPACITY = 5
    RECEIVE_MAXIMUM = 3

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(capacity=self.CAPACITY)
        self.is_connected = False
        self.offered: list[Entry] = []
        self.ended: list[Entry] = []
        self.first_sent: list[Entry] = []
        self.in_flight: dict[int, Entry] = {}
        self.next_id = 1

    def end(self, *entries: Entry) -> None:
        for each in entries:
            assert each not in self.ended, "an end comes once"
            assert each in self.offered
            self.ended.append(each)

    @rule(qos=st.integers(0, 1))
    def offer(self, qos: int) -> None:
        each = entry(str(len(self.offered)), qos)
        self.offered.append(each)
        if self.outbox.offer(each) is not None:
            self.end(each)

    @precondition(lambda self: not self.is_connected)
    @rule()
    def connect(self) -> None:
        self.outbox.connected(Limits(receive_maximum=self.RECEIVE_MAXIMUM))
        self.is_connected = True

    @precondition(lambda self: self.is_connected)
    @rule()
    def send(self) -> None:
        each = self.outbox.take()
        if each is None:
            return
        if each.publication.qos == 0:
            self.end(each)
            return
        self.outbox.sent(each, self.next_id)
        self.in_flight[self.next_id] = each
        self.next_id += 1
        if each not in self.first_sent:
            self.first_sent.append(each)

    @precondition(lambda self: bool(self.in_flight))
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        packet_id = data.draw(st.sampled_from(sorted(self.in_flight)))
        expected = self.in_flight.pop(packet_id)
        found = self.outbox.confirmed(packet_id, None)
        assert found is not None
        assert found[0] is expected
        self.end(expected)

    @precondition(lambda self: self.is_connected)
    @rule(by_broker=st.booleans())
    def disconnect(self, by_broker: bool) -> None:
        self.end(*(each for each, _ in self.outbox.disconnected(by_broker=by_broker)))
        self.in_flight.clear()
        self.is_connected = False

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.outbox) == len(self.offered) - len(self.ended)

    @invariant()
    def the_window_holds(self) -> None:
        assert len(self.in_flight) <= self.RECEIVE_MAXIMUM

    @invariant()
    def qos_1_is_first_sent_in_order(self) -> None:
        assert self.first_sent == [each for each in self.offered if each in self.first_sent]

    def teardown(self) -> None:
        self.end(*(each for each, _ in self.outbox.clear("stopped")))
        assert set(map(id, self.ended)) == set(map(id, self.offered))


TestOutboxMachine = OutboxMachine.TestCase
