"""The turns of one conversation are answered one after the other: each needs the answer before it. Pure."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Sessions(Generic[T]):
    """A queue for each session; the first turn in it is being answered."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[T]] = {}

    def enter(self, session: str, turn: T) -> bool:
        """Join the session's queue; True when the turn may begin at once."""
        line = self._lines.setdefault(session, deque())
        line.append(turn)
        return len(line) == 1

    def leave(self, session: str, turn: T) -> T | None:
        """Take out a turn that is answered or given up; gives the turn that may begin now, if one may."""
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
        """The turns that wait for an earlier one."""
        return (turn for line in list(self._lines.values()) for turn in list(line)[1:])
