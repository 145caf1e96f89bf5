"""A conversation as turns, and how it is cut to fit a budget of tokens. Pure: token counts come as arguments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

MAX_TURNS = 1000  # of a session that are read: the newest; more fit no context

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One side's words in a conversation."""

    role: Role
    content: str


def exchanges(turns: Sequence[Turn]) -> list[tuple[Turn, ...]]:
    """Group turns into exchanges, each starting at a user's turn (the first may start with the assistant's)."""
    groups: list[list[Turn]] = []
    for turn in turns:
        if turn.role == "user" or not groups:
            groups.append([])
        groups[-1].append(turn)
    return [tuple(group) for group in groups]


def trim(turns: Sequence[Turn], *, count: Callable[[Turn], int], budget: int) -> tuple[Turn, ...]:
    """Keep the newest whole exchanges whose tokens sum to at most `budget`.

    A conversation is never cut inside an exchange: an answer without its question misleads the model.

    Args:
        turns: oldest first.
        count: the tokens that one turn takes in the prompt, template included.
        budget: tokens left for history; negative keeps nothing.
    """
    kept: list[Turn] = []
    for exchange in reversed(exchanges(turns)):
        budget -= sum(map(count, exchange))
        if budget < 0:
            break
        kept[:0] = exchange
    return tuple(kept)
