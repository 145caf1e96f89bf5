"""When a box takes work of its group, and when it leaves it to the others."""

from typing import Any

import pytest

from edged.group import TARGET_S, Group


def group(node: str = "b", *, batch: int = 4, capacity: int = 64) -> Group:
    return Group("team", node=node, batch=batch, capacity=capacity)


def tells(speed: int | None, *, state: str = "ready", name: str = "team") -> dict[str, Any]:
    told = {} if speed is None else {"speed": speed}
    return {"state": state, "group": {"name": name, "takes": True, **told}}


def test_alone_it_always_takes() -> None:
    alone = group()
    assert all(alone.decide(jobs=jobs, service_s=0.5) for jobs in (0, 10, 64))


@pytest.mark.parametrize(("service_s", "window"), [(None, 4), (2.0, 4), (0.25, 8), (0.01, 64)])
def test_it_wants_as_much_in_hand_as_it_can_do_in_a_moment(service_s: float | None, window: int) -> None:
    some = group()
    some.decide(jobs=0, service_s=service_s)
    assert some.snapshot()["window"] == window
    assert service_s is None or window in {4, 64, round(TARGET_S / service_s)}


def test_a_slow_box_that_has_enough_stops_until_half_of_it_is_done() -> None:
    slow = group()
    slow.hear("a", tells(3))
    taken = [slow.decide(jobs=jobs, service_s=0.25) for jobs in (0, 7, 8, 9, 5, 4, 7, 8)]
    assert taken == [True, True, False, False, False, True, True, False]
    assert slow.snapshot()["pauses"] == 2


def test_the_fastest_box_never_stops() -> None:
    fast = group()
    fast.hear("a", tells(1))
    assert all(fast.decide(jobs=64, service_s=0.25) for _ in range(3))


@pytest.mark.parametrize(("node", "takes"), [("a", False), ("z", True)])
def test_of_two_equals_one_alone_stays(node: str, takes: bool) -> None:
    equal = group(node)
    equal.hear("m", tells(2))
    assert equal.decide(jobs=64, service_s=0.25) is takes


@pytest.mark.parametrize(
    "report",
    [
        tells(9, state="offline"),
        tells(9, state="draining"),
        tells(9, state="loading"),
        tells(9, name="another"),
        {"state": "ready", "group": {"name": "team"}},
        {"state": "offline"},  # the last will
        {"state": "ready", "group": {"name": "team", "speed": "fast"}},
    ],
)
def test_a_box_that_is_not_there_takes_no_work_off_us(report: dict[str, Any]) -> None:
    last = group()
    last.hear("a", tells(9))
    assert not last.decide(jobs=64, service_s=0.25)
    last.hear("a", report)
    assert last.decide(jobs=64, service_s=0.25)


@pytest.mark.parametrize("report", [{"state": "ready"}, {"state": "degraded", "reasons": ["hot"]}])
def test_a_status_says_nothing_of_the_group(report: dict[str, Any]) -> None:
    some = group()
    some.hear("a", tells(9))
    some.hear("a", report)
    assert some.snapshot()["members"] == ["a"]


def test_what_it_hears_of_itself_is_no_news() -> None:
    some = group()
    some.hear("b", tells(9))
    assert some.snapshot()["members"] == []


def test_before_it_knows_its_speed_it_does_not_stop() -> None:
    new = group()
    new.hear("a", tells(9))
    assert new.decide(jobs=64, service_s=None)
    assert "speed" not in new.snapshot()
