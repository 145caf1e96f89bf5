"""A box's part in a group, between a fake link and a clock by hand."""

import json
from typing import Any

import pytest
import structlog

from edged.contract.topics import MemberRoute, ProbeRoute, Topics
from edged.errors import BrokerUnavailable
from edged.fleet.membership import Membership
from edged.fleet.policy import Group
from edged.ports.link import Message
from edged.ports.worker import WorkerState
from edged.testing import FakeLink

TOPICS = Topics(prefix="edged", node="b", group="team")


class Bench:
    def __init__(self) -> None:
        self.now = 0.0
        self.jobs = 0
        self.is_well = True
        self.service_s: float | None = 0.5
        self.link = FakeLink(clock=lambda: self.now, receive_maximum=16)
        self.noted: list[int] = []
        self.group = Group("team", node="b", batch=4, capacity=16, silence_s=90.0)
        self.member = Membership(
            self.group,
            topics=TOPICS,
            link=self.link,
            worker=self.worker,
            is_well=lambda: self.is_well,
            note=self.noted.append,
            clock=lambda: self.now,
        )

    def worker(self) -> WorkerState:
        return WorkerState(
            jobs=self.jobs,
            capacity=16,
            oldest=None,
            last_progress=self.now,
            service_s=self.service_s,
            journal_fault=None,
            died=None,
        )

    def pass_seconds(self, seconds: int) -> int:
        """Gives how often there was news for the others."""
        news = 0
        for _ in range(seconds):
            self.now += 1.0
            news += self.member.tick()
        return news

    def hear(self, topic: str, **body: Any) -> bool:
        """Whether the message was one for a member."""
        return self.hear_payload(topic, json.dumps(body).encode())

    def hear_payload(self, topic: str, payload: bytes) -> bool:
        route = TOPICS.route(topic)
        if not isinstance(route, ProbeRoute | MemberRoute):
            return False
        self.member.hear(route, payload)
        return True


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_takes_work_once_it_starts(bench: Bench) -> None:
    assert not bench.link.shares
    bench.member.start()
    assert bench.link.shares


KEEPER = {"state": "ready", "group": {"name": "team", "speed": 5, "keeps": True}}


def test_it_stops_when_it_has_enough_and_a_faster_one_is_there(bench: Bench) -> None:
    bench.member.start()
    bench.hear(TOPICS.probe)
    bench.pass_seconds(1)
    bench.hear("edged/a/health", **KEEPER)
    bench.jobs = 4
    assert bench.pass_seconds(1) == 1  # that it is no keeper any more, before it stops
    assert bench.link.shares
    assert bench.pass_seconds(3) == 1
    assert not bench.link.shares
    assert not bench.member.must_hand_over
    bench.jobs = 2
    bench.pass_seconds(1)
    assert bench.link.shares
    bench.jobs = 4
    bench.pass_seconds(1)
    assert not bench.link.shares
    bench.hear("edged/a/status", state="offline")
    assert bench.pass_seconds(1) == 1
    assert bench.link.shares


def test_how_fast_it_is_is_told_as_soon_as_it_is_known(bench: Bench) -> None:
    bench.member.start()
    bench.hear(TOPICS.probe)
    bench.service_s = None
    assert bench.pass_seconds(3) == 0
    bench.service_s = 0.5
    assert bench.pass_seconds(1) == 1
    bench.service_s = 5.0
    assert bench.pass_seconds(3) == 0


def test_a_box_that_is_not_well_leaves_the_work_to_one_that_is(bench: Bench) -> None:
    bench.member.start()
    bench.hear(TOPICS.probe)
    bench.hear("edged/a/health", state="ready", group={"name": "team", "speed": -3, "keeps": True})
    bench.pass_seconds(5)
    assert bench.link.shares
    assert bench.member.must_hand_over
    bench.is_well = False
    bench.pass_seconds(5)
    assert not bench.link.shares
    bench.is_well = True
    bench.pass_seconds(1)
    assert bench.link.shares


def test_the_last_one_is_who_hears_that_the_others_have_gone(bench: Bench) -> None:
    assert bench.member.is_last()
    bench.hear("edged/a/health", **KEEPER)
    assert not bench.member.is_last()
    bench.hear("edged/a/status", state="draining")
    assert bench.member.is_last()


def test_after_a_reconnect_nobody_is_counted_on_unheard(bench: Bench) -> None:
    bench.member.start()
    bench.hear(TOPICS.probe)
    bench.hear("edged/a/health", **KEEPER)
    bench.jobs = 4
    bench.pass_seconds(5)
    assert not bench.link.shares
    bench.link.disconnect()
    bench.link.reconnect()
    bench.pass_seconds(1)
    assert bench.link.shares


def test_a_broker_that_delivers_nothing_by_shared_subscriptions_is_refused(bench: Bench) -> None:
    with pytest.raises(BrokerUnavailable, match="shared subscriptions"):
        bench.pass_seconds(30)
    assert {each.topic for each in bench.link.published} == {"edged/b/probe"}


def test_a_probe_that_came_back_is_enough(bench: Bench) -> None:
    bench.pass_seconds(3)
    assert bench.hear(TOPICS.probe)
    probes = len(bench.link.published)
    bench.pass_seconds(100)
    assert len(bench.link.published) == probes


def test_time_without_a_connection_does_not_count(bench: Bench) -> None:
    bench.link.disconnect()
    bench.pass_seconds(100)
    bench.link.reconnect()
    bench.pass_seconds(5)


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[]", b"[" * 5000, b'{"group": 7, "state": 3}'])
def test_others_may_say_what_they_like(bench: Bench, payload: bytes) -> None:
    assert bench.hear_payload("edged/a/health", payload)
    bench.hear(TOPICS.probe)
    bench.pass_seconds(1)


def test_what_is_no_members_is_left_alone(bench: Bench) -> None:
    assert not bench.hear("edged/a/info")
    assert not bench.hear("elsewhere/a/health")


def test_a_box_that_works_alone_listens_to_nobody() -> None:
    assert Membership.subscriptions(Topics(prefix="edged", node="b")) == ()


def test_who_comes_is_greeted_once_and_again_only_after_it_was_gone(bench: Bench) -> None:
    bench.member.start()
    bench.hear(TOPICS.probe)
    bench.pass_seconds(3)
    bench.hear("edged/a/health", **KEEPER)
    bench.hear("edged/c/health", **KEEPER)
    assert bench.pass_seconds(1) == 1  # one report tells both
    bench.pass_seconds(5)
    bench.hear("edged/a/health", **KEEPER)
    assert bench.pass_seconds(3) == 0
    bench.hear("edged/a/status", state="stopped")
    bench.pass_seconds(3)
    bench.hear("edged/a/health", **KEEPER)
    assert bench.pass_seconds(1) == 1


def test_what_was_measured_is_announced_on_the_next_connection(bench: Bench) -> None:
    bench.group.recall(1)
    bench.member.start()
    bench.hear(TOPICS.probe)
    bench.service_s = None
    bench.pass_seconds(1)
    bench.link.disconnect()
    bench.link.reconnect()
    assert bench.member.snapshot()["receive_maximum"] == 16
    bench.service_s = 0.4
    bench.pass_seconds(1)
    assert bench.member.snapshot()["receive_maximum"] == 16
    bench.link.disconnect()
    assert "receive_maximum" not in bench.member.snapshot()
    bench.link.reconnect()
    assert bench.member.snapshot()["receive_maximum"] == 9


def test_what_an_earlier_life_measured_is_announced_at_once_and_told_to_nobody(bench: Bench) -> None:
    bench.link.disconnect()
    bench.member.recall(9)
    bench.link.reconnect()
    told = bench.member.snapshot()
    assert (told["receive_maximum"], told.get("speed")) == (9, None)
    bench.member.start()
    bench.hear(TOPICS.probe)
    bench.service_s = None
    bench.pass_seconds(3)  # until it is measured anew
    bench.link.disconnect()
    bench.link.reconnect()
    assert bench.member.snapshot()["receive_maximum"] == 9


def test_a_first_life_announces_what_it_can_hold(bench: Bench) -> None:
    bench.link.disconnect()
    bench.member.recall(None)
    bench.link.reconnect()
    bench.hear(TOPICS.probe)
    bench.service_s = 0.5
    bench.pass_seconds(100)
    bench.link.disconnect()
    bench.link.reconnect()  # so soon nothing is known of how many answers wait
    assert bench.member.snapshot()["receive_maximum"] == 16


def test_what_it_announces_is_noted_when_it_changes_and_once_a_minute_at_most(bench: Bench) -> None:
    bench.group.recall(1)
    bench.member.start()
    bench.hear(TOPICS.probe)
    bench.service_s = None
    bench.pass_seconds(5)
    assert bench.noted == []
    bench.service_s = 0.5
    bench.pass_seconds(200)
    assert bench.noted == [8]
    bench.service_s = 0.25
    bench.pass_seconds(1)
    bench.service_s = 0.2
    bench.pass_seconds(30)
    assert bench.noted == [8, 12]
    bench.pass_seconds(40)
    assert bench.noted == [8, 12, 14]


def test_answers_that_wait_for_an_earlier_ack_count_where_the_broker_holds_back(bench: Bench) -> None:
    """It has all that it was told to have at us: what comes would pile up there, while others are idle."""
    bench.member.start()
    bench.hear(TOPICS.probe)
    bench.hear("edged/a/health", **KEEPER)
    bench.pass_seconds(5)
    for number in range(16):
        bench.link.deliver(Message(topic="edged/team/in/reply", payload=b"%d" % number, qos=1))
    bench.jobs = 1
    bench.pass_seconds(1)
    assert not bench.link.shares


@pytest.mark.parametrize("speed", [5, -5], ids=["one that keeps the queue", "one that does not"])
def test_after_a_reconnect_it_tells_the_others_that_it_knows_nobody_and_they_answer(bench: Bench, speed: int) -> None:
    bench.member.start()
    bench.hear(TOPICS.probe)
    bench.hear("edged/a/health", state="ready", group={"name": "team", "speed": speed, "keeps": speed > 0})
    bench.pass_seconds(5)
    bench.link.disconnect()
    bench.link.reconnect()
    assert bench.pass_seconds(1) == 1
    assert bench.member.snapshot()["members"] == []
    bench.pass_seconds(5)
    keeper = {"name": "team", "speed": 5, "keeps": True}
    bench.hear("edged/a/health", state="ready", group=keeper | {"members": []})
    assert bench.pass_seconds(1) == 1
    bench.hear("edged/a/health", state="ready", group=keeper | {"members": ["b"]})
    assert bench.pass_seconds(5) == 0


def test_a_box_that_is_named_as_the_group_is_told_of_once(bench: Bench) -> None:
    def warnings() -> list[str]:
        return [each["reason"] for each in logged if each["event"] == "group_namesake"]

    with structlog.testing.capture_logs() as logged:
        bench.hear("edged/team/health", state="offline")
        bench.hear("edged/other/health", state="ready")
        assert warnings() == []
        bench.hear("edged/team/health", state="ready")
        bench.hear("edged/team/health", state="ready")
        [words] = warnings()
        assert "EDGED_NODE" in words
        bench.hear("edged/team/status", state="stopped")
        bench.hear("edged/team/status", state="ready")
        assert len(warnings()) == 2
