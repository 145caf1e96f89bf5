"""The worker at a glance. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class SenderCounts:
    """The requests and tokens of one sender since the start; `in_hand`: its requests that have no answer yet."""

    requests: int
    refused: int
    tokens: int
    in_hand: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerState:
    """The worker at a glance; `oldest` and `last_progress` in monotonic seconds.

    `service_s` is the mean time between two answers of a box that has all the work that it can do side by side, as far
    as can be told from what it had; None before the first answer. `senders` has those that took the most.
    """

    jobs: int
    capacity: int
    oldest: float | None
    last_progress: float
    service_s: float | None
    journal_fault: str | None
    died: str | None
    senders: Mapping[str, SenderCounts] = field(default_factory=dict)
