"""Laws of trimming: what is kept is the newest, whole, within the budget, and as much as fits."""

from collections.abc import Sequence
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.tasks.conversation import Turn, exchanges, trim

_TURNS = st.lists(
    st.builds(Turn, role=st.sampled_from(("user", "assistant")), content=st.text("ab", max_size=6)), max_size=12
)
_BUDGET = st.integers(-5, 60)


def length(turn: Turn) -> int:
    return len(turn.content)


def total(turns: Sequence[Turn]) -> int:
    return sum(map(length, turns))


def talk(*contents: str) -> list[Turn]:
    """Turns of user and assistant by turns, the user first."""
    return [Turn(role="assistant" if i % 2 else "user", content=content) for i, content in enumerate(contents)]


@given(_TURNS)
@settings(deadline=None)
def test_exchanges_are_the_turns_in_order_and_each_begins_at_the_user(turns: list[Turn]) -> None:
    groups = exchanges(turns)
    assert list(chain(*groups)) == turns
    assert all(group for group in groups)
    assert all(turn.role == "assistant" for group in groups for turn in group[1:])
    assert all(group[0].role == "user" for group in groups[1:])


@given(_TURNS, _BUDGET)
@settings(deadline=None)
def test_what_is_kept_is_a_tail_of_whole_exchanges_within_the_budget(turns: list[Turn], budget: int) -> None:
    kept = trim(turns, count=length, budget=budget)
    groups = exchanges(turns)
    tails = [tuple(chain(*groups[i:])) for i in range(len(groups) + 1)]
    assert kept in tails
    assert not kept or total(kept) <= budget


@given(_TURNS, _BUDGET)
@settings(deadline=None)
def test_no_more_could_have_been_kept(turns: list[Turn], budget: int) -> None:
    kept = trim(turns, count=length, budget=budget)
    rest = exchanges(turns[: len(turns) - len(kept)])
    assert not rest or total(rest[-1]) + total(kept) > budget


@given(_TURNS, _BUDGET, st.integers(0, 20))
@settings(deadline=None)
def test_a_larger_budget_keeps_at_least_as_much(turns: list[Turn], budget: int, more: int) -> None:
    small = trim(turns, count=length, budget=budget)
    large = trim(turns, count=length, budget=budget + more)
    assert large[len(large) - len(small) :] == small


@pytest.mark.parametrize(("budget", "kept"), [(-1, 0), (3, 0), (4, 2), (9, 2), (10, 4), (100, 6)])
def test_an_answer_never_loses_its_question(budget: int, kept: int) -> None:
    turns = talk("a", "bb", "ccc", "ddd", "ee", "ff")
    assert trim(turns, count=length, budget=budget) == tuple(turns[6 - kept :])


def test_no_turns_at_all() -> None:
    assert exchanges([]) == []
    assert trim([], count=length, budget=10) == ()
