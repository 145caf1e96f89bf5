"""Which work of its group a box takes: all of it that comes, until it has enough and a faster box is there. Pure.

Brokers deal the messages of a shared subscription out in turn, mosquitto without regard to what a member has in hand
or to its Receive Maximum: what is too much waits in that member's queue, while others are idle. So a box that has
enough ends its subscription for a while. Somebody must keep his: what nobody subscribes to, brokers throw away. That
is the fastest member that lives, by what all of them tell in `health`; of equals the one whose name sorts last.
"""

import math
from collections.abc import Mapping
from typing import Any

TARGET_S = 2.0  # of work that a box keeps in hand
_ALIVE = {"ready", "degraded"}


class Group:
    """A box's view of its group. For one thread."""

    def __init__(self, name: str, *, node: str, batch: int, capacity: int) -> None:
        """Begin with nobody else known, and so as a box that keeps its subscription.

        Args:
            name: of the group.
            node: this box.
            batch: requests that the model answers side by side: the least that is worth having in hand.
            capacity: the most requests in hand.
        """
        self.name = name
        self._node = node
        self._batch = min(batch, capacity)
        self._capacity = capacity
        self._window = self._batch
        self._speed: int | None = None
        self._others: dict[str, tuple[int, str]] = {}
        self._pauses = 0
        self._takes = True

    def hear(self, node: str, report: Mapping[str, Any]) -> None:
        """Take in what a box says in its `health` or `status`, or what its last will says for it."""
        if node == self._node:
            return
        if report.get("state") not in _ALIVE:
            self._others.pop(node, None)
            return
        group = report.get("group")
        if not isinstance(group, Mapping):
            return  # a status, or a box that works alone
        speed = group.get("speed")
        if group.get("name") == self.name and isinstance(speed, int):
            self._others[node] = (speed, node)
        else:
            self._others.pop(node, None)

    def decide(self, *, jobs: int, service_s: float | None) -> bool:
        """Whether to take work now.

        Args:
            jobs: requests in hand.
            service_s: mean seconds between two answers while there is work; None: not known yet.
        """
        if service_s is not None:
            # A power of two: what is told every few seconds must not be outdated by every answer.
            self._speed = round(math.log2(1 / max(service_s, 1e-4)))
            self._window = min(max(self._batch, round(TARGET_S / max(service_s, 1e-4))), self._capacity)
        if self._is_last_resort():
            takes = True
        elif self._takes:
            takes = jobs < self._window
        else:
            takes = jobs <= self._window // 2
        self._pauses += self._takes and not takes
        self._takes = takes
        return takes

    def _is_last_resort(self) -> bool:
        own = (self._speed, self._node)
        return own[0] is None or not self._others or own >= max(self._others.values())

    def snapshot(self) -> dict[str, Any]:
        """What `health` says of it, JSON-ready."""
        told = {} if self._speed is None else {"speed": self._speed}
        return {
            "name": self.name,
            "takes": self._takes,
            "window": self._window,
            **told,
            "pauses": self._pauses,
            "members": sorted(self._others),
        }
