"""The worker at a glance. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerState:
    """The worker at a glance; `oldest` and `last_progress` in monotonic seconds.

    `service_s` is the mean time between two answers of a box that has all the work that it can do side by side, as far
    as can be told from what it had; None before the first answer.
    """

    jobs: int
    capacity: int
    oldest: float | None
    last_progress: float
    service_s: float | None
    journal_fault: str | None
    died: str | None
