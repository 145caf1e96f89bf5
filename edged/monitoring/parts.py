"""Reads the states of engine, worker and link, and says in words what is wrong with them. Changes nothing in them."""

from collections.abc import Callable
from dataclasses import dataclass

from edged.monitoring.probe import Probe
from edged.ports.engine import Engine, EngineState
from edged.ports.link import Link, LinkState
from edged.ports.worker import WorkerState


@dataclass(frozen=True, kw_only=True, slots=True)
class Glance:
    """The states of all parts at one moment."""

    engine: EngineState
    worker: WorkerState
    link: LinkState

    def silence_s(self, now: float) -> float:
        """Seconds since the last progress of the part that has made none for the longest time."""
        return max(now - part.last_progress for part in (self.engine, self.worker, self.link))


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The parts that health looks at."""

    engine: Engine
    worker: Callable[[], WorkerState]
    link: Link

    def look(self) -> Glance:
        """The states of this moment."""
        return Glance(engine=self.engine.state(), worker=self.worker(), link=self.link.state())


def reasons_for_degraded(glance: Glance, *, probe: Probe | None, stall_after: float, now: float) -> tuple[str, ...]:
    """Why the daemon is not fully well, in words; empty when it is. Pure.

    Args:
        glance: the states of the parts.
        probe: the last proof that the engine can decode, or that it cannot.
        stall_after: seconds without progress after which a part counts as stalled.
        now: monotonic seconds.
    """
    engine, worker, link = glance.engine, glance.worker, glance.link
    reasons: list[str] = []
    if engine.fault is not None:
        reasons.append(engine.fault)
    elif now - engine.last_progress > stall_after:
        reasons.append(f"the engine has not finished a step for more than {stall_after:g} s")
    elif engine.away is not None:
        reasons.append(engine.away)
    if probe is not None and not probe.ok:
        reasons.append("the probe failed: no token was decoded")
    if worker.died is not None:
        reasons.append(worker.died)
    elif now - worker.last_progress > stall_after:
        reasons.append(f"the worker has not turned for more than {stall_after:g} s")
    if worker.journal_fault is not None:
        reasons.append(f"journal: {worker.journal_fault}")
    if link.fault is not None:
        reasons.append(f"broker: {link.fault}")
    elif now - link.last_progress > stall_after:
        reasons.append(f"the network thread has not turned for more than {stall_after:g} s")
    return tuple(reasons)
