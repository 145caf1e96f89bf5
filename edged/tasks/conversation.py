"""A conversation as turns, and how it is shortened to a number of tokens. Pure: token counts come as arguments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

MAX_TURNS = 1000  # how many of the newest turns of a session are read; more fit into no context

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one side said in a conversation."""

    role: Role
    content: str


def exchanges(turns: Sequence[Turn]) -> list[tuple[Turn, ...]]:
    """Group turns into exchanges. Each begins with a user's turn; the first may begin with an assistant's."""
    groups: list[list[Turn]] = []
    for turn in turns:
        if turn.role == "user" or not groups:
            groups.append([])
        groups[-1].append(turn)
    return [tuple(group) for group in groups]


def trim(turns: Sequence[Turn], *, count: Callable[[Turn], int], budget: int) -> tuple[Turn, ...]:
    """Keep the newest whole exchanges that have at most `budget` tokens together.

    A conversation is never cut inside an exchange, because an answer without its question misleads the model.

    Args:
        turns: the oldest first.
        count: gives the tokens that one turn takes in the prompt, with the template around it.
        budget: tokens that are left for the history; with a negative number nothing is kept.
    """
    kept: list[Turn] = []
    for exchange in reversed(exchanges(turns)):
        budget -= sum(map(count, exchange))
        if budget < 0:
            break
        kept[:0] = exchange
    return tuple(kept)
