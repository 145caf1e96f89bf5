"""Turns of one conversation go one after the other: each needs the answer before it. Pure."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Sessions(Generic[T]):
    """For each session a line; the first in it is being answered."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[T]] = {}

    def enter(self, session: str, turn: T) -> bool:
        """Join the session's line; True when it is this turn's time already."""
        line = self._lines.setdefault(session, deque())
        line.append(turn)
        return len(line) == 1

    def leave(self, session: str, turn: T) -> T | None:
        """Take a turn out, answered or given up; gives the one whose time it now is, if that changed."""
        line = self._lines.get(session)
        if line is None or turn not in line:
            return None
        was_first = line[0] is turn
        line.remove(turn)
        if not line:
            del self._lines[session]
            return None
        return line[0] if was_first else None

    def waiting(self) -> Iterator[T]:
        """The turns whose time has not come."""
        return (turn for line in list(self._lines.values()) for turn in list(line)[1:])
