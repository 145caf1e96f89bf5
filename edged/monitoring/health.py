"""The state that the daemon tells the world, and the figures behind it. Looks on; touches nothing.

Health is earned: `ready` means that a real token was decoded lately, the threads turn and the queue moves.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from edged.contract.results import encode, rfc3339
from edged.contract.status import State
from edged.contract.topics import Topics
from edged.monitoring.metrics import Metrics
from edged.monitoring.probe import Prober
from edged.ports.box import Readings
from edged.ports.engine import Engine, EngineState
from edged.ports.link import Link, LinkState, Publication
from edged.ports.worker import WorkerState

log = structlog.get_logger(__name__)


_AWAY_PROBE_S = 5.0  # between two probes of an engine that can answer nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """The last time a token was decoded for its own sake, or a request's token took its place."""

    ok: bool
    at: float
    ms: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Seconds after which silence counts as a fault."""

    probe_interval: float
    stall_after: float


def reasons_for_degraded(
    *, engine: EngineState, worker: WorkerState, link: LinkState, probe: Probe | None, limits: Limits, now: float
) -> tuple[str, ...]:
    """Why the daemon is not fully well, in words; empty when it is. Pure."""
    reasons: list[str] = []
    if engine.fault is not None:
        reasons.append(engine.fault)
    elif now - engine.last_progress > limits.stall_after:
        reasons.append(f"the engine has not finished a step for more than {limits.stall_after:g} s")
    elif engine.away is not None:
        reasons.append(engine.away)
    if probe is not None and not probe.ok:
        reasons.append("the probe failed: no token was decoded")
    if worker.died is not None:
        reasons.append(worker.died)
    elif now - worker.last_progress > limits.stall_after:
        reasons.append(f"the worker has not turned for more than {limits.stall_after:g} s")
    if worker.journal_fault is not None:
        reasons.append(f"journal: {worker.journal_fault}")
    if link.fault is not None:
        reasons.append(f"broker: {link.fault}")
    elif now - link.last_progress > limits.stall_after:
        reasons.append(f"the network thread has not turned for more than {limits.stall_after:g} s")
    return tuple(reasons)


class Health:
    """Watches the parts and reports. `tick` is called about once a second by the main thread."""

    def __init__(
        self,
        *,
        topics: Topics,
        engine: Engine,
        link: Link,
        worker: Callable[[], WorkerState],
        metrics: Metrics,
        system: Callable[[], Readings],
        prober: Prober,
        limits: Limits,
        interval: float,
        group: Callable[[], Mapping[str, Any] | None] = lambda: None,
        client: str = "",
        boot_id: str,
        version: str,
        started: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._topics = topics
        self._engine = engine
        self._link = link
        self._worker = worker
        self._metrics = metrics
        self._system = system
        self._prober = prober
        self._limits = limits
        self._interval = interval
        self._group = group
        self._client = client
        self._boot_id = boot_id
        self._version = version
        self._started = started
        self._clock = clock
        self._wall_clock = wall_clock
        self._state = State.LOADING
        self._reasons: tuple[str, ...] = ()
        self._since = rfc3339(wall_clock())
        self._started_text = self._since
        self._probe: Probe | None = None
        self._probing_since: float | None = None
        self._reported = float("-inf")
        self._connected = False
        self._must_correct = False
        self._has_been_ready = False
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        return self._state

    @property
    def reasons(self) -> tuple[str, ...]:
        return self._reasons

    @property
    def makes_progress(self) -> bool:
        """Whether every thread turned lately: what a watchdog is fed by."""
        now, limit = self._clock(), self._limits.stall_after
        parts = (self._engine.state(), self._worker(), self._link.state())
        return all(now - part.last_progress <= limit for part in parts)

    def tick(self) -> None:
        """Look at every part; tell what changed; send the report when it is due; probe when nothing else decodes."""
        now = self._clock()
        if self._state in {State.READY, State.DEGRADED}:
            self._probe_if_due(now)
            reasons = reasons_for_degraded(
                engine=self._engine.state(),
                worker=self._worker(),
                link=self._link.state(),
                probe=self._probe,
                limits=self._limits,
                now=now,
            )
            self.become(State.DEGRADED if reasons else State.READY, reasons)
        connected = self._link.state().connected_since is not None
        if self._must_correct or (connected and not self._connected):
            # The will, or another, may have spoken in our name.
            self._must_correct = False
            self._publish_status()
            self.report()
        self._connected = connected
        if now - self._reported >= self._interval:
            self.report()

    def become(self, state: State, reasons: tuple[str, ...] = ()) -> None:
        """Go to a state and tell it, if it is another."""
        with self._lock:
            if (state, reasons) == (self._state, self._reasons):
                return
            log.info("state", state=state, reasons=list(reasons), before=self._state)
            if state is not self._state:
                self._since = rfc3339(self._wall_clock())
            self._state, self._reasons = state, reasons
            self._has_been_ready |= state is State.READY
        self._publish_status()
        self.report()

    def status(self, state: State | None = None) -> Publication:
        """The retained message of `R/status`, of the state in force or of `state`."""
        body: dict[str, Any] = {"state": state or self._state, "boot_id": self._boot_id, "since": self._since}
        if state is None and self._reasons:
            body["reasons"] = list(self._reasons)
        body |= {"started": self._started_text, "version": self._version, "client": self._client}
        return Publication(topic=self._topics.status, payload=encode(body), qos=1, retain=True)

    def hear_status(self, status: Mapping[str, Any]) -> None:
        """Take note of what stands on our status topic: what another says in our name is corrected with the next tick.

        A late will, or the last word of a daemon that had our name before, must not stick.
        """
        if status.get("boot_id") != self._boot_id or status.get("state") == State.OFFLINE:
            self._must_correct = True

    def is_ours(self, status: Mapping[str, Any]) -> bool:
        """Whether a message on our own status topic is of this process."""
        return status.get("boot_id") == self._boot_id

    def is_rival(self, status: Mapping[str, Any]) -> bool:
        """Whether a status is of another daemon that lives and started after us.

        Of two daemons with one name, or one client id, the older one gives way, so that they do not take it from each
        other for ever.
        """
        started = status.get("started")
        return (
            status.get("boot_id") != self._boot_id
            and status.get("state") not in {State.OFFLINE, State.STOPPED}
            and isinstance(started, str)
            # RFC 3339, UTC, of one length; of two that started in one moment, one is still the older.
            and (started, str(status.get("boot_id"))) > (self._started_text, self._boot_id)
        )

    def has_our_client(self, status: Mapping[str, Any]) -> bool:
        """Whether the status of another box says that it connects by our client id."""
        return status.get("client") == self._client

    def report(self) -> None:
        """Publish `R/health`; while there is no connection an old report is worth nothing, so none is kept."""
        self._reported = self._clock()
        if self._link.state().connected_since is not None:
            payload = encode(self.snapshot())
            self._link.publish(Publication(topic=self._topics.health, payload=payload, qos=1, retain=True))

    def snapshot(self) -> dict[str, Any]:
        """The report, JSON-ready."""
        now = self._clock()
        engine, worker, link = self._engine.state(), self._worker(), self._link.state()
        figures = self._metrics.snapshot(now)
        group = self._group()
        return {
            "state": self._state,
            "reasons": list(self._reasons),
            "uptime_s": round(now - self._started, 1),
            "boot_id": self._boot_id,
            "version": self._version,
            "time": rfc3339(self._wall_clock()),
            "model": self._model(),
            "queue": {
                "depth": worker.jobs,
                "capacity": worker.capacity,
                "oldest_age_s": None if worker.oldest is None else round(now - worker.oldest, 2),
                "running": engine.running,
            },
            "requests": figures["requests"],
            "latency_ms": figures["latency_ms"],
            "tokens": {
                "prompt_total": engine.prompt_tokens,
                "cached_total": engine.cached_tokens,
                "completion_total": engine.completion_tokens,
                **figures["tokens"],
                "batch_mean": round(engine.step_rows / engine.steps, 2) if engine.steps else None,
            },
            "cache": {
                "prefix_hits": engine.cache_hits,
                "prefix_misses": engine.cache_misses,
                "bytes": engine.cache_bytes,
                "capacity": engine.cache_capacity,
            },
            "mqtt": {
                "connected_since": None
                if link.connected_since is None
                else rfc3339(self._wall_clock() - (now - link.connected_since)),
                "reconnects": link.reconnects,
                "unacked": link.unacked,
                "outbox": link.outbox,
                "protocol": link.protocol,
            },
            "system": asdict(self._system()),
            "probe": self._probe_fields(now),
            **({} if group is None else {"group": group}),
        }

    def _model(self) -> dict[str, Any] | None:
        if not self._has_been_ready:  # it may be stopped before it has a model
            return None
        model = self._engine.model
        return {
            "id": model.id,
            "format": model.format,
            "device": model.device,
            "threads": model.threads,
            "parameters": model.parameters,
            "weight_bytes": model.weight_bytes,
            "load_s": round(model.load_s, 2),
        }

    def _probe_fields(self, now: float) -> dict[str, Any] | None:
        probe = self._probe
        if probe is None:
            return None
        return {
            "ok": probe.ok,
            "age_s": round(now - probe.at, 1),
            "ms": None if probe.ms is None else round(probe.ms, 1),
        }

    def _probe_if_due(self, now: float) -> None:
        """A request's token is as good a proof as a probe's."""
        decoded = self._engine.state().last_token_at
        latest = max((at for at in (decoded, self._probe.at if self._probe else None) if at is not None), default=None)
        if decoded is not None and (self._probe is None or (decoded > self._probe.at and not self._probing_since)):
            self._probe = Probe(ok=True, at=decoded, ms=self._probe.ms if self._probe else None)
        if self._probing_since is not None:
            if now - self._probing_since > self._limits.stall_after:
                self._probe = Probe(ok=False, at=now, ms=None)
            return
        # Of an engine that is away a probe alone may tell that it is back: this box may be left no other work.
        interval = self._limits.probe_interval if self._engine.state().away is None else _AWAY_PROBE_S
        if latest is None or now - latest >= interval:
            self._probing_since = now
            self._prober.probe(self._probed)

    def _probed(self, ms: float | None) -> None:
        self._probe = Probe(ok=ms is not None, at=self._clock(), ms=ms)
        self._probing_since = None

    def _publish_status(self) -> None:
        self._link.publish(self.status())
