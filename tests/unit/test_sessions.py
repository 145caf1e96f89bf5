from hypothesis import given
from hypothesis import strategies as st

from edged.serving.sessions import Sessions


def test_the_first_goes_at_once_and_the_next_when_it_leaves() -> None:
    sessions: Sessions[str] = Sessions()
    assert sessions.enter("s", "one")
    assert not sessions.enter("s", "two")
    assert sessions.enter("t", "other")
    assert list(sessions.waiting()) == ["two"]
    assert sessions.leave("s", "one") == "two"
    assert sessions.leave("s", "two") is None


def test_one_that_gives_up_while_it_waits_starts_nobody() -> None:
    sessions: Sessions[str] = Sessions()
    for turn in ("one", "two", "three"):
        sessions.enter("s", turn)
    assert sessions.leave("s", "two") is None
    assert sessions.leave("s", "one") == "three"


def test_leaving_twice_or_unknown_does_nothing() -> None:
    sessions: Sessions[str] = Sessions()
    sessions.enter("s", "one")
    sessions.enter("s", "two")
    assert sessions.leave("s", "one") == "two"
    assert sessions.leave("s", "one") is None
    assert sessions.leave("nowhere", "one") is None


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=40))
def test_at_most_one_of_a_session_runs_and_order_is_kept(steps: list[tuple[str, bool]]) -> None:
    sessions: Sessions[tuple[str, int]] = Sessions()
    running: dict[str, tuple[str, int]] = {}
    started: dict[str, list[int]] = {"a": [], "b": []}
    for number, (name, ends) in enumerate(steps):
        turn: tuple[str, int] | None = None
        if ends and name in running:
            turn = sessions.leave(name, running.pop(name))
        elif not ends and sessions.enter(name, (name, number)):
            turn = (name, number)
        if turn is not None:
            assert name not in running
            running[name] = turn
            started[name].append(turn[1])
    assert all(order == sorted(order) for order in started.values())
