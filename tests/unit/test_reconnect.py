"""How long to wait, which version of MQTT to try, and when another client has our client id."""

import random

import pytest

from edged.mqtt.reconnect import Backoff, Contention, VersionChoice, versions


class Longest(random.Random):
    """Draws the upper end."""

    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002 - as the base class has it
        return b


def test_the_wait_doubles_up_to_the_ceiling() -> None:
    backoff = Backoff(first=1, ceiling=10, random=Longest())
    assert [backoff.next(lived=0) for _ in range(6)] == [1, 2, 4, 8, 10, 10]


def test_a_connection_that_lasted_makes_the_wait_short_again() -> None:
    backoff = Backoff(first=1, ceiling=10, lasting=60, random=Longest())
    assert [backoff.next(lived=lived) for lived in (0, 0, 59, 60, 0)] == [1, 2, 4, 1, 2]


def test_the_wait_is_anywhere_between_nothing_and_the_longest() -> None:
    waits = [Backoff(first=1, random=random.Random(seed)).next(lived=0) for seed in range(100)]
    assert 0 <= min(waits) < 0.1
    assert 0.9 < max(waits) <= 1


def test_a_thousand_failures_are_no_overflow() -> None:
    backoff = Backoff(random=Longest())
    assert [backoff.next(lived=0) for _ in range(2000)][-1] == backoff.ceiling


@pytest.mark.parametrize(("setting", "allowed"), [("auto", ("5", "3.1.1")), ("5", ("5",)), ("3.1.1", ("3.1.1",))])
def test_the_setting_says_which_versions_are_tried(setting: str, allowed: tuple[str, ...]) -> None:
    assert versions(setting) == allowed  # type: ignore[arg-type]


def test_a_version_that_was_refused_is_not_tried_again() -> None:
    choice = VersionChoice(versions("auto"))
    assert choice.refused()
    assert choice.current == "3.1.1"
    choice.understood()
    assert choice.current == "3.1.1"
    assert not choice.unanswered()  # it works: this was a fault of another kind
    assert choice.current == "3.1.1"


def test_a_version_without_an_answer_is_left_for_one_connection() -> None:
    choice = VersionChoice(versions("auto"))
    assert choice.unanswered()
    tried = [choice.current]
    choice.understood()
    tried.append(choice.current)
    assert tried == ["3.1.1", "5"]


def test_after_the_last_version_comes_the_first_again_but_not_at_once() -> None:
    choice = VersionChoice(versions("auto"))
    assert [choice.unanswered() for _ in range(4)] == [True, False, True, False]
    assert choice.current == "5"


@pytest.mark.parametrize("setting", ["5", "3.1.1"])
def test_a_version_that_was_set_is_kept(setting: str) -> None:
    choice = VersionChoice(versions(setting))  # type: ignore[arg-type]
    assert not choice.refused()
    assert not choice.unanswered()
    assert choice.current == setting


def test_a_broker_that_is_replaced_by_an_older_one_is_believed() -> None:
    choice = VersionChoice(versions("auto"))
    choice.understood()
    assert choice.refused()
    assert choice.current == "3.1.1"


@pytest.mark.parametrize(
    ("lives", "suspected"),
    [
        ([1, 1], False),
        ([1, 1, 1], True),
        ([1, 1, 60, 1, 1], False),  # a long one between
        ([1, 1, None, 1, 1], False),  # an attempt without a connection between
    ],
)
def test_short_lived_connections_in_a_row_raise_the_suspicion(lives: list[float | None], suspected: bool) -> None:
    contention = Contention(lasting=60)
    for lived in lives:
        contention.ended(was_up=lived is not None, lived=lived or 0, taken_over=False)
    assert contention.is_suspected(connected_for=None) is suspected
    assert contention.is_suspected(connected_for=59) is suspected
    assert not contention.is_suspected(connected_for=60)
    assert not contention.is_certain


@pytest.mark.parametrize(
    ("takeovers", "certain"),
    [
        ([(1, True)], False),
        ([(1, True), (1, True)], True),
        ([(1, True), (1, False), (1, True)], True),
        ([(1, True), (60, False), (1, True)], False),  # a connection that lasted between
        ([(60, True), (60, True)], False),
    ],
)
def test_the_second_takeover_in_a_row_is_another_client(takeovers: list[tuple[float, bool]], certain: bool) -> None:
    contention = Contention(lasting=60)
    for lived, taken_over in takeovers:
        contention.ended(was_up=True, lived=lived, taken_over=taken_over)
    assert contention.is_certain is certain
