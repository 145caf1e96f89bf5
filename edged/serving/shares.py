"""Fair shares of the model: which piece of work is next. Pure.

This is start-time fair queueing (Goyal, Vin and Cheng 1996). Like deficit round robin it gives each sender that waits
the same number of tokens, whatever the others send. Beyond that, each piece of work gets a number that says where it
belongs, so that the engine can let the first request of a sender pass what it has of others and has not begun.

A sender's own work is in the order of priority. A level of priority is worth `AGEING_S` seconds of waiting, so that
low priorities wait longer and never for ever.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

AGEING_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class _Waiting:
    """A piece of work that waits; the least is the next of its sender."""

    rank: float
    number: int
    key: str = field(compare=False)
    cost: int = field(compare=False)


@dataclass(slots=True)
class _Sender:
    """A sender, and where its next work begins, in tokens of virtual time."""

    start: float
    waiting: list[_Waiting] = field(default_factory=list)  # a heap


@dataclass(frozen=True, slots=True)
class _Running:
    sender: str
    start: float
    cost: int


class Shares:
    """Work that waits for the engine, and what the engine has.

    The engine gets some more work than it can run side by side, so that it never waits for the next.
    """

    def __init__(self, *, room: int) -> None:
        """The engine has `room` for more work than it runs side by side."""
        self._room = room
        self._senders: dict[str, _Sender] = {}
        self._running: dict[str, _Running] = {}
        self._left: set[str] = set()  # keys that wait no longer, and are still in a heap
        self._keys: dict[str, str] = {}  # of what waits, with the sender
        self._now = 0.0  # virtual time: where the work begins that runs
        self._numbers = 0

    def enter(self, key: str, *, sender: str, cost: int, priority: int, at: float) -> None:
        """Let a piece of work wait.

        Args:
            key: names it.
            sender: whose share it takes.
            cost: the tokens that it is likely to take; corrected by `end`.
            priority: higher values first, among the work of this sender.
            at: when it came, in seconds.
        """
        self._numbers += 1
        self._move_on()
        known = self._senders.setdefault(sender, _Sender(self._now))
        if not known.waiting:
            known.start = max(known.start, self._now)
        self._keys[key] = sender
        rank = at - AGEING_S * priority
        heapq.heappush(known.waiting, _Waiting(rank=rank, number=self._numbers, key=key, cost=max(cost, 1)))

    def take(self) -> tuple[str, int] | None:
        """The next piece of work for the engine, and where it belongs; None if nothing waits or there is no room."""
        self._drop_idle()
        is_full = len(self._running) >= self._room
        # Where the room is taken, a sender with a share left, of which the engine has nothing, is let in all the same.
        present = {each.sender for each in self._running.values()} if is_full else set[str]()
        waiting = [
            (each.start, each.waiting[0].number, name)
            for name, each in self._senders.items()
            if each.waiting and not (is_full and (name in present or each.start > self._now))
        ]
        if not waiting or len(self._running) >= 2 * self._room:
            return None
        start, _, name = min(waiting)
        sender = self._senders[name]
        chosen = heapq.heappop(sender.waiting)
        self._drop_left(sender)
        del self._keys[chosen.key]
        self._running[chosen.key] = _Running(name, start, chosen.cost)
        sender.start = start + chosen.cost
        return chosen.key, int(start)

    def end(self, key: str, cost: int | None = None) -> None:
        """The engine has done with a piece of work; `cost`: the tokens that it took, where that is known."""
        done = self._running.get(key)
        if done is None:
            return
        self._move_on()
        del self._running[key]
        sender = self._senders.get(done.sender)
        if sender is not None and cost is not None:
            sender.start += cost - done.cost
        if not self._running and not self._keys:
            self._senders.clear()  # an idle box owes nobody

    def leave(self, key: str) -> bool:
        """Take out a piece of work that need not be done; False if it does not wait."""
        name = self._keys.pop(key, None)
        if name is None:
            return False
        self._left.add(key)
        self._drop_left(self._senders[name])
        return True

    def waiting(self) -> Iterator[str]:
        """The keys of all that waits."""
        return iter(list(self._keys))

    def _drop_idle(self) -> None:
        """Forget the senders that have had no more than their share."""
        for name in [name for name, each in self._senders.items() if not each.waiting and each.start <= self._now]:
            del self._senders[name]

    def _drop_left(self, sender: _Sender) -> None:
        while sender.waiting and sender.waiting[0].key in self._left:
            self._left.remove(heapq.heappop(sender.waiting).key)

    def _move_on(self) -> None:
        """Move the virtual time on to the earliest work that runs: a sender that comes now is no later than any."""
        if self._running:
            self._now = max(self._now, min(each.start for each in self._running.values()))
