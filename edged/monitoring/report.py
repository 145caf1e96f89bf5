"""Makes the report of `R/health` from the states of the parts. What each figure means is in `contract/health.py`."""

from collections.abc import Callable, Mapping
from typing import Any

from edged.contract.health import (
    CacheFigures,
    GroupFigures,
    HealthReport,
    ModelFigures,
    MqttFigures,
    ProbeFigures,
    QueueFigures,
    SenderFigures,
    SystemFigures,
    TokenFigures,
)
from edged.contract.results import rfc3339
from edged.contract.status import Identity, State
from edged.monitoring.metrics import Metrics
from edged.monitoring.parts import Glance, Parts
from edged.monitoring.probe import Probing
from edged.ports.engine import EngineState, ModelInfo


class Reporter:
    """Makes reports."""

    def __init__(
        self,
        *,
        identity: Identity,
        parts: Parts,
        metrics: Metrics,
        probing: Probing,
        system: Callable[[], SystemFigures],
        group: Callable[[], Mapping[str, Any] | None] = lambda: None,
        started: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """Assign.

        Args:
            identity: what this daemon is in `R/status`.
            parts: the engine, the worker and the link.
            metrics: the counts and latencies of the requests.
            probing: knows when a token was last decoded.
            system: reads the box.
            group: the fields of `GroupFigures`; None without a group.
            started: when the process started, by `clock`.
            clock: monotonic seconds.
            wall_clock: seconds since the epoch.
        """
        self._identity = identity
        self._parts = parts
        self._metrics = metrics
        self._probing = probing
        self._system = system
        self._group = group
        self._started = started
        self._clock = clock
        self._wall_clock = wall_clock

    def report(self, state: State, reasons: tuple[str, ...], *, has_model: bool) -> HealthReport:
        """The figures of this moment. `has_model`: whether the engine has loaded one."""
        now = self._clock()
        glance = self._parts.look()
        measured = self._metrics.snapshot(now)
        engine, group = glance.engine, self._group()
        return HealthReport(
            state=state,
            reasons=reasons,
            uptime_s=round(now - self._started, 1),
            boot_id=self._identity.boot_id,
            version=self._identity.version,
            time=rfc3339(self._wall_clock()),
            model=_model(self._parts.engine.model, engine) if has_model else None,
            queue=_queue(glance, now),
            requests=measured.requests,
            latency_ms=measured.latency_ms,
            tokens=TokenFigures(
                prompt_total=engine.prompt_tokens,
                cached_total=engine.cached_tokens,
                completion_total=engine.completion_tokens,
                prompt_per_s=measured.prompt_per_s,
                completion_per_s=measured.completion_per_s,
                batch_mean=round(engine.step_rows / engine.steps, 2) if engine.steps else None,
            ),
            senders=_senders(glance),
            cache=CacheFigures(
                prefix_hits=engine.cache_hits,
                prefix_misses=engine.cache_misses,
                bytes=engine.cache_bytes,
                capacity=engine.cache_capacity,
            ),
            mqtt=self._mqtt(glance, now),
            system=self._system(),
            probe=self._probe(now),
            group=None if group is None else GroupFigures.model_validate(group),
        )

    def _mqtt(self, glance: Glance, now: float) -> MqttFigures:
        link = glance.link
        since = None if link.connected_since is None else self._wall_clock() - (now - link.connected_since)
        return MqttFigures(
            connected_since=None if since is None else rfc3339(since),
            reconnects=link.reconnects,
            unacked=link.unacked,
            outbox=link.outbox,
            protocol=link.protocol,
        )

    def _probe(self, now: float) -> ProbeFigures | None:
        probe = self._probing.last
        if probe is None:
            return None
        return ProbeFigures(
            ok=probe.ok,
            age_s=round(now - probe.at, 1),
            ms=None if probe.ms is None else round(probe.ms, 1),
        )


def _model(model: ModelInfo, engine: EngineState) -> ModelFigures:
    return ModelFigures(
        id=model.id,
        format=model.format,
        device=model.device,
        threads=model.threads,
        parameters=model.parameters,
        weight_bytes=model.weight_bytes,
        load_s=round(model.load_s, 2),
        duty=engine.duty,
    )


def _queue(glance: Glance, now: float) -> QueueFigures:
    worker = glance.worker
    return QueueFigures(
        depth=worker.jobs,
        capacity=worker.capacity,
        oldest_age_s=None if worker.oldest is None else round(now - worker.oldest, 2),
        running=glance.engine.running,
    )


def _senders(glance: Glance) -> SenderFigures:
    senders = glance.worker.senders
    return SenderFigures(
        requests={name: each.requests for name, each in senders.items()},
        refused={name: each.refused for name, each in senders.items()},
        tokens={name: each.tokens for name, each in senders.items()},
        in_hand={name: each.in_hand for name, each in senders.items()},
    )
