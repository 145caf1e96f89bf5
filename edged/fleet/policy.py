"""Whether a box takes work of its group now. Pure.

Brokers deal the messages of a shared subscription out in turn; mosquitto does so whatever a member has in hand, and
whatever its Receive Maximum is. Messages beyond that wait at the broker for this member, while other members are idle.
So a box that has enough work ends its subscription for a while, and so does a box that is not well.

At least one box must stay subscribed: brokers throw away messages to a shared subscription without subscribers. That
box is called a keeper. Boxes know each other's state with some delay, so no box decides from its own view alone which
one is the keeper. Each box says in its `R/health` whether it is one:
- A box that has heard of no keeper becomes a keeper.
- A keeper that hears of a faster keeper (of two equally fast ones, of the one whose name sorts last) says that it is
  a keeper no more, waits for `HANDOVER_S` to hear whether the other still is, and only then may pause.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TARGET_S = 2.0  # of work that a box keeps in hand
HANDOVER_S = 3.0  # in which all boxes have got a report of one of them, and have acted on it
_SETTLED_S = 0.5  # between two looks: a delivery that has just come is counted as unacked before it is a job
_HALF_LIFE_S = 600.0  # of work, in which the remembered number of answers that waited for an ack halves
_WELL = "ready"
_ALIVE = {_WELL, "degraded"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    """The last report of another box.

    Attributes:
        keeper: its rank (its speed, then its name) if it says that it is a keeper and how fast it is; else None.
        heard: monotonic seconds.
    """

    keeper: tuple[int, str] | None
    heard: float


class Group:
    """A box's view of its group. For one thread; times are monotonic seconds."""

    def __init__(
        self, name: str, *, node: str, shards: Sequence[str] = (), batch: int, capacity: int, silence_s: float
    ) -> None:
        """Begin as a keeper, since no other box is known.

        Args:
            name: of the group.
            node: this box.
            shards: the parts of the work that it takes; empty: all of it.
            batch: requests that the model answers side by side: the fewest that a box wants in hand.
            capacity: the most requests in hand.
            silence_s: a box that has not reported for so long is not relied on.
        """
        self.name = name
        self._node = node
        self._shards = frozenset(shards)
        self._batch = min(batch, capacity)
        self._capacity = capacity
        self._silence_s = silence_s
        self._window = self._batch
        self._waiting = 0  # answered and not acked, at the last look
        self._held = float(capacity)  # the most of those lately; until the first look, as many as possible
        self._looked_at = float("-inf")
        self._recalled: int | None = None
        self._speed: int | None = None
        self._others: dict[str, _Member] = {}
        self._met: set[str] = set()
        self._pauses = 0
        self._takes = True
        self._keeps_not_since: float | None = None

    @property
    def keeps(self) -> bool:
        """Whether this box is a keeper: it takes work however much it has, and others rely on that."""
        return self._keeps_not_since is None

    @property
    def has_speed(self) -> bool:
        """Whether this box knows how fast it is; until then, the others cannot count on it as a keeper."""
        return self._speed is not None

    @property
    def is_alone(self) -> bool:
        """Whether no other box is known that could take work."""
        return not self._others

    @property
    def receive_maximum(self) -> int | None:
        """How many requests without an ack the broker may have at this box; None: it was not measured yet.

        Acks go out in the order of arrival: an answered request waits for slower ones before it. If the broker brought
        no more meanwhile, the model would wait too. So this is what the box wants in hand, and as many more as were
        seen to wait for their ack, at least a batch.
        """
        if self._speed is None:
            return None
        return min(self._window + max(self._batch, math.ceil(self._held)), self._capacity)

    def recall(self, receive_maximum: int) -> None:
        """Begin with the number that an earlier process measured; it counts once the speed of this process is known."""
        self._recalled = receive_maximum

    def hear(self, node: str, report: Mapping[str, Any], now: float) -> bool:
        """Take in a box's `health` or `status`, which may be its last will.

        Returns:
            Whether that box seems not to know this one: it is new, or this one is not among those it says it knows.
        """
        if node == self._node:
            return False
        state = report.get("state")
        if state not in _ALIVE:
            self._others.pop(node, None)
            self._met.discard(node)
            return False
        group = report.get("group")
        if not isinstance(group, Mapping):
            return False  # a status, or a box that works alone
        is_new = node not in self._met or self._is_missed(group)
        self._met.add(node)
        if group.get("name") == self.name and self._takes_what_we_take(group.get("shards")):
            speed = group.get("speed")
            rank = (speed, node) if isinstance(speed, int) else None
            keeps = state == _WELL and group.get("keeps") is True
            self._others[node] = _Member(keeper=rank if keeps else None, heard=now)
        else:
            self._others.pop(node, None)
        return is_new

    def _takes_what_we_take(self, shards: object) -> bool:
        """Whether a box with these shards can do all our work; work is left to no other box."""
        theirs = {each for each in shards if isinstance(each, str)} if isinstance(shards, list) else set()
        return self._shards <= theirs if self._shards else not theirs

    def _is_missed(self, group: Mapping[str, Any]) -> bool:
        """Whether a box that reports this of its group does not count on this box, though it could."""
        members, shards = group.get("members"), group.get("shards") or []
        if group.get("name") != self.name or not isinstance(members, list) or not isinstance(shards, list):
            return False
        # By its own rule: two boxes that can never count on each other would greet each other without end.
        can_count_on_us = self._shards.issuperset(map(str, shards)) if shards else not self._shards
        return can_count_on_us and self._node not in members

    def forget(self) -> None:
        """Drop the reports of the others: they are outdated."""
        self._others.clear()  # `_met` stays: the others know this box

    def decide(
        self,
        *,
        jobs: int,
        service_s: float | None,
        is_well: bool,
        now: float,
        unacked: int = 0,
        bound: int | None = None,
    ) -> bool:
        """Whether to take work now.

        Args:
            jobs: requests in hand.
            service_s: mean seconds between two answers while there is work; None: not known yet.
            is_well: whether this box can answer, as far as it knows.
            now: the time.
            unacked: requests without an ack: those in hand, and answered ones whose turn for the ack has not come.
            bound: how many of those the broker was told to bring at most; None: it was told nothing.
        """
        self._look(waiting=unacked - jobs, has_work=jobs > 0, now=now)
        if service_s is not None:
            # As a power of two, so that what was told to the others does not change with every answer.
            self._speed = round(math.log2(1 / max(service_s, 1e-4)))
            self._window = min(max(self._batch, round(TARGET_S / max(service_s, 1e-4))), self._capacity)
            if self._recalled is not None:
                self._held = float(max(self._recalled - self._window, 0))
                self._recalled = None
        enough = self._window
        if bound is not None:
            enough = min(enough, bound)
            # Further requests wait at the broker, where this box does not see them.
            jobs = max(jobs, unacked) if unacked >= bound else jobs
        self._others = {node: each for node, each in self._others.items() if now - each.heard <= self._silence_s}
        self._decide_to_keep(is_well=is_well, now=now)
        if self._keeps_not_since is None or now - self._keeps_not_since < HANDOVER_S:
            takes = True
        elif not is_well:
            takes = False
        elif self._takes:
            takes = jobs < enough
        else:
            takes = jobs <= enough // 2
        self._pauses += self._takes and not takes
        self._takes = takes
        return takes

    def _look(self, *, waiting: int, has_work: bool, now: float) -> None:
        """Learn how many answers wait for an ack."""
        if (since := now - self._looked_at) < _SETTLED_S:
            return
        if has_work and since < self._silence_s:  # an idle box measures nothing, and keeps its number
            self._held *= 0.5 ** (since / _HALF_LIFE_S)
        self._held = max(min(waiting, self._waiting), self._held)  # seen twice
        self._waiting, self._looked_at = waiting, now

    def _decide_to_keep(self, *, is_well: bool, now: float) -> None:
        keepers = [each.keeper for each in self._others.values() if each.keeper is not None]
        if not keepers:
            keeps = True
        elif not is_well:
            keeps = False
        else:
            keeps = self._speed is None or (self._speed, self._node) > max(keepers)
        if keeps:
            self._keeps_not_since = None
        elif self._keeps_not_since is None:
            self._keeps_not_since = now

    def snapshot(self) -> dict[str, Any]:
        """The figures of the group for `R/health`, ready to be written as JSON."""
        told = {} if self._speed is None else {"speed": self._speed}
        return {
            "name": self.name,
            **({"shards": sorted(self._shards)} if self._shards else {}),
            "takes": self._takes,
            "keeps": self.keeps,
            "window": self._window,
            **told,
            "pauses": self._pauses,
            "members": sorted(self._others),
        }
