"""When a box takes work of its group, and when it leaves it to the others."""

import random
from typing import Any

import pytest

from edged.fleet.policy import HANDOVER_S, TARGET_S, Group

SILENCE_S = 90.0


class Clocked:
    """A group, and a clock that goes on by a handover with each decision."""

    def __init__(self, node: str = "b", *, batch: int = 4, capacity: int = 64, shards: tuple[str, ...] = ()) -> None:
        self.group = Group("team", node=node, shards=shards, batch=batch, capacity=capacity, silence_s=SILENCE_S)
        self.now = 0.0

    def hear(self, node: str, report: dict[str, Any]) -> None:
        self.group.hear(node, report, self.now)

    def decide(self, jobs: int, service_s: float | None = 0.25, *, is_well: bool = True) -> bool:
        self.now += HANDOVER_S
        return self.group.decide(jobs=jobs, service_s=service_s, is_well=is_well, now=self.now)


def tells(
    speed: int | None, *, state: str = "ready", name: str = "team", keeps: bool = True, shards: Any = None
) -> dict[str, Any]:
    told: dict[str, Any] = {} if speed is None else {"speed": speed}
    if shards is not None:
        told["shards"] = shards
    return {"state": state, "group": {"name": name, "takes": True, "keeps": keeps, **told}}


def test_alone_it_always_takes() -> None:
    alone = Clocked()
    assert all(alone.decide(jobs, 0.5) for jobs in (0, 10, 64))
    assert alone.group.is_alone


@pytest.mark.parametrize(("service_s", "window"), [(None, 4), (2.0, 4), (0.25, 8), (0.01, 64)])
def test_it_wants_as_much_in_hand_as_it_can_do_in_a_moment(service_s: float | None, window: int) -> None:
    some = Clocked()
    some.decide(0, service_s)
    assert some.group.snapshot()["window"] == window
    assert service_s is None or window in {4, 64, round(TARGET_S / service_s)}


@pytest.mark.parametrize(("service_s", "receive_maximum"), [(None, None), (2.0, 8), (0.25, 12), (0.01, 64)])
def test_the_broker_is_told_of_a_slow_box_once_it_has_worked(
    service_s: float | None, receive_maximum: int | None
) -> None:
    some = Clocked()
    some.decide(4, service_s)
    assert some.group.receive_maximum == (None if receive_maximum is None else 64)
    for _ in range(3000):
        some.decide(4, service_s)
    assert some.group.receive_maximum == receive_maximum


class Told(Clocked):
    """What the broker is told of a box that answers four requests a second."""

    def decide_by(self, unacked: int, *, jobs: int = 4, after: float = 1.0) -> int | None:
        self.now += after
        self.group.decide(jobs=jobs, service_s=0.25, is_well=True, now=self.now, unacked=unacked)
        return self.group.receive_maximum


def test_there_is_room_for_the_answers_that_were_seen_to_wait_for_an_ack() -> None:
    some = Told()
    some.group.recall(1)
    assert some.decide_by(4) == 8 + 4  # a batch at least
    assert some.decide_by(24) == 8 + 4  # these may have come a moment ago
    assert some.decide_by(64, after=0.1) == 8 + 4
    assert some.decide_by(28) == 8 + 20
    assert some.decide_by(4) == 8 + 20
    assert [some.decide_by(100), some.decide_by(100)][-1] == 64


def test_what_was_seen_to_wait_is_forgotten_by_work_and_not_by_a_quiet_night() -> None:
    some = Told()
    some.group.recall(40)
    assert some.decide_by(4) == 40  # and no more with each restart
    assert [some.decide_by(0, jobs=0) for _ in range(3_000)][-1] == 40
    told = [some.decide_by(4, after=0.1 * n) for n in range(1, 400)]  # however often it decides
    assert told == sorted(told, reverse=True)  # type: ignore[type-var]
    assert told[-1] == 8 + 4


def test_one_long_answer_does_not_keep_the_broker_from_bringing_more() -> None:
    """However little the broker is told at first: with each connection it is more, until the model has enough."""
    some = Clocked()
    some.group.recall(1)
    bound, told = 8, []
    for _ in range(8):
        # One that takes long is the first; all behind it are answered, and the model has nothing else.
        for _ in range(2):
            some.now += 1
            some.group.decide(jobs=1, service_s=1.0, is_well=True, now=some.now, unacked=bound, bound=bound)
        bound = some.group.receive_maximum or 0
        told.append(bound)
    assert told[:3] == [11, 14, 17]


def test_who_is_given_less_than_it_wants_has_enough_with_that() -> None:
    some = Clocked()
    some.hear("a", tells(30))
    some.decide(0, 0.01)

    def decide(jobs: int, unacked: int) -> bool:
        some.now += HANDOVER_S
        return some.group.decide(jobs=jobs, service_s=0.01, is_well=True, now=some.now, unacked=unacked, bound=10)

    assert [decide(jobs, jobs) for jobs in (9, 10, 6, 5)] == [True, False, False, True]
    assert [decide(1, unacked) for unacked in (9, 10, 9)] == [True, False, True]


def test_a_slow_box_that_has_enough_stops_until_half_of_it_is_done() -> None:
    slow = Clocked()
    slow.hear("a", tells(3))
    taken = [slow.decide(jobs) for jobs in (0, 7, 8, 9, 5, 4, 7, 8)]
    assert taken == [True, True, False, False, False, True, True, False]
    assert slow.group.snapshot()["pauses"] == 2


@pytest.mark.parametrize(
    ("ours", "theirs", "may_leave_it_to_them"),
    [
        ((), None, True),
        (("0", "1"), ["1", "0"], True),
        (("0",), ["0", "1"], True),
        (("0", "1"), ["1", "2"], False),
        (("0",), None, False),
        ((), ["0"], False),
        (("0",), "0", False),
        (("0",), [["0"], 0], False),
    ],
)
def test_work_is_left_to_a_box_that_takes_the_same_shards(
    ours: tuple[str, ...], theirs: Any, may_leave_it_to_them: bool
) -> None:
    slow = Clocked(shards=ours)
    slow.hear("a", tells(3, shards=theirs))
    assert [slow.decide(64) for _ in range(3)][-1] is not may_leave_it_to_them
    assert slow.group.is_alone is not may_leave_it_to_them


def test_the_fastest_box_never_stops() -> None:
    fast = Clocked()
    fast.hear("a", tells(1))
    assert all(fast.decide(64) for _ in range(3))
    assert fast.group.keeps


@pytest.mark.parametrize(("node", "takes"), [("a", False), ("z", True)])
def test_of_two_equals_one_alone_stays(node: str, takes: bool) -> None:
    equal = Clocked(node)
    equal.hear("m", tells(2))
    equal.decide(64)
    assert equal.decide(64) is takes


def test_before_it_stops_it_waits_for_what_the_others_say() -> None:
    slow = Clocked()
    slow.hear("a", tells(3))
    taken = [slow.group.decide(jobs=64, service_s=0.25, is_well=True, now=at) for at in (0.0, 1.0, 2.9, 3.0)]
    assert taken == [True, True, True, False]
    assert not slow.group.keeps


@pytest.mark.parametrize(
    "report",
    [
        tells(9, state="offline"),
        tells(9, state="draining"),
        tells(9, state="loading"),
        tells(9, state="degraded"),
        tells(9, keeps=False),
        tells(9, name="another"),
        {"state": "ready", "group": {"name": "team"}},
        {"state": "offline"},  # the last will
        {"state": "ready", "group": {"name": "team", "speed": "fast", "keeps": True}},
    ],
)
def test_a_box_that_does_not_keep_the_queue_takes_no_work_off_us(report: dict[str, Any]) -> None:
    last = Clocked()
    last.hear("a", tells(9))
    last.decide(64)
    assert not last.decide(64)
    last.hear("a", report)
    assert last.decide(64)
    assert last.group.keeps


def test_a_box_that_falls_silent_is_not_counted_on() -> None:
    last = Clocked()
    last.hear("a", tells(9))
    last.decide(64)
    assert not last.decide(64)
    last.now += SILENCE_S
    assert last.decide(64)
    assert last.group.snapshot()["members"] == []


def test_who_is_not_well_leaves_the_work_to_whoever_is() -> None:
    ill = Clocked()
    assert ill.decide(64, is_well=False)  # nobody else is there
    ill.hear("a", tells(-5))
    ill.decide(0, is_well=False)
    assert not ill.decide(0, is_well=False)
    assert ill.decide(0)


@pytest.mark.parametrize("report", [{"state": "ready"}, {"state": "degraded", "reasons": ["hot"]}])
def test_a_status_says_nothing_of_the_group(report: dict[str, Any]) -> None:
    some = Clocked()
    some.hear("a", tells(9))
    some.hear("a", report)
    assert some.group.snapshot()["members"] == ["a"]


def test_what_it_hears_of_itself_is_no_news() -> None:
    some = Clocked()
    some.hear("b", tells(9))
    assert some.group.snapshot()["members"] == []


def test_before_it_knows_its_speed_it_does_not_stop() -> None:
    new = Clocked()
    new.hear("a", tells(9))
    assert all(new.decide(64, None) for _ in range(3))
    assert "speed" not in new.group.snapshot()


@pytest.mark.parametrize("seed", range(20))
def test_somebody_always_takes_whatever_they_know_of_each_other(seed: int) -> None:
    """Speeds change all the time, reports come every 30 s and with each change of mind, and take up to a second."""
    chance = random.Random(seed)
    names = "abcd"
    groups = {name: Group("team", node=name, batch=1, capacity=64, silence_s=SILENCE_S) for name in names}
    service = dict.fromkeys(names, 0.25)
    ill = dict.fromkeys(names, False)
    on_its_way: list[tuple[float, str, str, dict[str, Any]]] = []
    paused = 0
    for now in range(2000):
        for name in names:
            if chance.random() < 0.1:
                service[name] = chance.choice((0.05, 0.1, 0.25, 0.5, 1.0))
            if chance.random() < 0.02:
                ill[name] = not ill[name]
            heard = [each for each in on_its_way if each[1] == name and each[0] <= now]
            on_its_way = [each for each in on_its_way if each not in heard]
            for _, _, sender, report in heard:
                groups[name].hear(sender, report, now)
            group = groups[name]
            before = group.snapshot()
            group.decide(jobs=64, service_s=service[name], is_well=not ill[name], now=now)
            after = group.snapshot()
            if now % 30 == 0 or before["keeps"] != after["keeps"] or before["takes"] != after["takes"]:
                report = {"state": "degraded" if ill[name] else "ready", "group": after}
                on_its_way += [(now + chance.random(), to, name, report) for to in names if to != name]
        takes = [group.snapshot()["takes"] for group in groups.values()]
        assert any(takes), now
        paused += takes.count(False)
    assert paused > 2000  # of 8000: they do leave work to each other


@pytest.mark.parametrize(
    ("ours", "theirs", "members", "is_greeted"),
    [
        ((), None, [], True),
        ((), None, ["c"], True),
        ((), None, ["b", "c"], False),
        ((), None, "b", False),
        (("0", "1"), ["1"], [], True),
        (("0",), ["0", "1"], [], False),
        ((), ["0"], [], False),
        (("0",), None, [], False),
        ((), [["0"]], [], False),
    ],
)
def test_who_knows_others_and_not_us_is_greeted_if_it_could_count_on_us(
    ours: tuple[str, ...], theirs: Any, members: Any, is_greeted: bool
) -> None:
    one = Clocked(shards=ours).group
    told = tells(3, shards=theirs)
    told["group"]["members"] = ["b"]
    one.hear("a", told, 0.0)  # it was met before
    told["group"]["members"] = members
    assert one.hear("a", told, 1.0) is is_greeted


def test_boxes_that_have_met_greet_each_other_no_more() -> None:
    for shards in (((), ()), (("0", "1"), ("0",)), (("0",), ("1",))):
        boxes = {node: Clocked(node, shards=each).group for node, each in zip("ab", shards, strict=True)}
        greets = {"a", "b"}
        for turn in range(10):
            heard = set()
            for node in greets:
                other = {"a": "b", "b": "a"}[node]
                report = {"state": "ready", "group": boxes[node].snapshot()}
                if boxes[other].hear(node, report, float(turn)):
                    heard.add(other)
            greets = heard
        assert greets == set()
