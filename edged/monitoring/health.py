"""Decides the state of the daemon and publishes status and report. It reads the parts' states and changes nothing in
them.

Health is earned: `ready` means that a real token was decoded lately, that the threads make progress and that the queue
moves.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from edged.contract.health import HealthReport
from edged.contract.results import encode, rfc3339
from edged.contract.status import Identity, State
from edged.contract.topics import Topics
from edged.monitoring.parts import Parts, reasons_for_degraded
from edged.monitoring.probe import Probing
from edged.monitoring.report import Reporter
from edged.ports.link import Publication

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Standing:
    """The state in force, why it is not a better one, and since when it is in force (RFC 3339, UTC)."""

    state: State
    reasons: tuple[str, ...]
    since: str


class Health:
    """Decides the state, and publishes `R/status` and `R/health`. The main thread calls `tick` about once a second."""

    def __init__(
        self,
        *,
        topics: Topics,
        identity: Identity,
        parts: Parts,
        probing: Probing,
        reporter: Reporter,
        stall_after: float,
        interval: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """Assign.

        Args:
            topics: where status and report go.
            identity: what the status says of this daemon.
            parts: what is looked at; its link publishes.
            probing: proves that the engine decodes.
            reporter: makes the report.
            stall_after: seconds without progress after which a part counts as stalled.
            interval: seconds between two reports.
            clock: monotonic seconds.
            wall_clock: seconds since the epoch.
        """
        self._topics = topics
        self._identity = identity
        self._parts = parts
        self._probing = probing
        self._reporter = reporter
        self._stall_after = stall_after
        self._interval = interval
        self._clock = clock
        self._wall_clock = wall_clock
        self._standing = _Standing(state=State.LOADING, reasons=(), since=identity.started)
        self._faults: list[Callable[[], str | None]] = []
        self._has_been_ready = False
        self._reported_at = float("-inf")
        self._was_connected = False
        self._must_correct = False
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        return self._standing.state

    @property
    def reasons(self) -> tuple[str, ...]:
        return self._standing.reasons

    @property
    def makes_progress(self) -> bool:
        """Whether every thread has made progress lately: as long as it has, the watchdog is fed."""
        return self._parts.look().silence_s(self._clock()) <= self._stall_after

    def watch(self, fault: Callable[[], str | None]) -> None:
        """Watch one more part, which others can do without: `fault` says what is wrong with it, or gives None."""
        self._faults.append(fault)

    def tick(self) -> None:
        """Look at every part, publish a changed state, send the report when it is due, and probe the engine."""
        now = self._clock()
        if self._has_been_ready and self.state in {State.READY, State.DEGRADED, State.LOADING}:
            self._look_at_parts(now)
        is_connected = self._is_connected()
        if self._must_correct or (is_connected and not self._was_connected):
            # While there was no connection, the broker may have published the last will.
            self._must_correct = False
            self._publish_status()
            self.report()
        self._was_connected = is_connected
        if now - self._reported_at >= self._interval:
            self.report()

    def _look_at_parts(self, now: float) -> None:
        engine = self._parts.engine.state()
        if engine.switching is not None:
            self.become(State.LOADING, (engine.switching,))
            return
        self._probing.tick(engine)
        reasons = reasons_for_degraded(
            self._parts.look(), probe=self._probing.last, stall_after=self._stall_after, now=now
        )
        reasons += tuple(fault for each in self._faults if (fault := each()) is not None)
        self.become(State.DEGRADED if reasons else State.READY, reasons)

    def become(self, state: State, reasons: tuple[str, ...] = ()) -> None:
        """Go to a state, and publish it if the state or its reasons have changed."""
        with self._lock:
            before = self._standing
            if (state, reasons) == (before.state, before.reasons):
                return
            log.info("state", state=state, reasons=list(reasons), before=before.state)
            since = before.since if state is before.state else rfc3339(self._wall_clock())
            self._standing = _Standing(state=state, reasons=reasons, since=since)
            self._has_been_ready |= state in {State.READY, State.DEGRADED}
        self._publish_status()
        self.report()

    def status(self, state: State | None = None) -> Publication:
        """The retained message of `R/status`: of the state in force, or of `state`."""
        standing = self._standing
        status = self._identity.status(
            state or standing.state, since=standing.since, reasons=standing.reasons if state is None else ()
        )
        return Publication(topic=self._topics.status, payload=encode(status.body()), qos=1, retain=True)

    def hear_status(self, status: Mapping[str, Any]) -> None:
        """Take note of a message on this daemon's status topic; if it is not true, the next tick corrects it.

        A last will that comes late, or the last status of an earlier daemon of this name, must not stay there.
        """
        if not self._identity.is_ours(status) or status.get("state") == State.OFFLINE:
            self._must_correct = True

    def report(self) -> None:
        """Publish `R/health`. Without a connection nothing is kept for later: an old report is worth nothing."""
        self._reported_at = self._clock()
        if self._is_connected():
            payload = encode(self.snapshot().body())
            self._parts.link.publish(Publication(topic=self._topics.health, payload=payload, qos=1, retain=True))

    def snapshot(self) -> HealthReport:
        """The report of this moment."""
        standing = self._standing
        # A daemon may be stopped before it has a model.
        return self._reporter.report(standing.state, standing.reasons, has_model=self._has_been_ready)

    def _is_connected(self) -> bool:
        return self._parts.link.state().connected_since is not None

    def _publish_status(self) -> None:
        self._parts.link.publish(self.status())
