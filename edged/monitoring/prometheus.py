"""`/metrics` for Prometheus: the report of `R/health` in its names and units. Opt-in; numbers only, never text.

Names follow prometheus.io/docs/practices/naming and those of llama.cpp's server and of vLLM, whose dashboards people
know: base units, `_total` for what only grows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from edged.contract.status import State
from edged.errors import SettingsError

if TYPE_CHECKING:
    from prometheus_client import Metric

log = structlog.get_logger(__name__)

Report = Mapping[str, Any]

_MS = 1e-3
_MIB = 2.0**20


@dataclass(frozen=True, slots=True)
class _Figure:
    """One number of the report: where it is, and what it is called; `scale` makes it a base unit."""

    path: str
    name: str
    help: str
    scale: float = 1.0


_COUNTERS = (
    _Figure("requests.received", "edged_requests_received", "Messages that came as requests."),
    _Figure("requests.shared", "edged_requests_shared", "Of those, what came by the queue of a group."),
    _Figure("requests.answered", "edged_requests_answered", "Requests that got their result."),
    _Figure("requests.duplicates", "edged_requests_duplicate", "Requests answered from the journal or a running one."),
    _Figure("requests.redelivered", "edged_requests_redelivered", "Messages that the broker sent again."),
    _Figure("tokens.prompt_total", "edged_prompt_tokens", "Prompt tokens of all requests, cached ones included."),
    _Figure("tokens.cached_total", "edged_cached_tokens", "Prompt tokens that came from the prefix cache."),
    _Figure("tokens.completion_total", "edged_completion_tokens", "Tokens that were generated."),
    _Figure("cache.prefix_hits", "edged_prefix_cache_hits", "Prompts that found a prefix of theirs in the cache."),
    _Figure("cache.prefix_misses", "edged_prefix_cache_misses", "Prompts that found none."),
    _Figure("mqtt.reconnects", "edged_mqtt_reconnects", "Connections to the broker after the first."),
)
_GAUGES = (
    _Figure("uptime_s", "edged_uptime_seconds", "Since the start of the process."),
    _Figure("queue.depth", "edged_requests_waiting_or_running", "Requests in hand."),
    _Figure("queue.running", "edged_sequences_running", "Sequences that the engine runs now."),
    _Figure("queue.capacity", "edged_queue_capacity", "Requests that may be in hand."),
    _Figure("queue.oldest_age_s", "edged_queue_oldest_age_seconds", "Age of the oldest request in hand."),
    _Figure("tokens.prompt_per_s", "edged_prompt_tokens_per_second", "Prompt tokens computed, over five minutes."),
    _Figure("tokens.completion_per_s", "edged_completion_tokens_per_second", "Tokens generated, over five minutes."),
    _Figure("tokens.batch_mean", "edged_batch_rows_mean", "Rows of a step of the engine, since the start."),
    _Figure("cache.bytes", "edged_prefix_cache_bytes", "Memory that the prefix cache takes."),
    _Figure("cache.capacity", "edged_prefix_cache_capacity_bytes", "Memory that it may take."),
    _Figure("mqtt.unacked", "edged_mqtt_unacked_messages", "Messages that came and are not acknowledged yet."),
    _Figure("mqtt.outbox", "edged_mqtt_outbox_messages", "Messages that go out and are not confirmed yet."),
    _Figure("model.parameters", "edged_model_parameters", "Parameters of the model."),
    _Figure("model.weight_bytes", "edged_model_weight_bytes", "Memory that its weights take."),
    _Figure("model.threads", "edged_model_threads", "CPU threads that it runs on."),
    _Figure("model.load_s", "edged_model_load_seconds", "How long it took to load."),
    _Figure("system.cpu_percent", "edged_system_cpu_ratio", "The box's CPU in use, 0 to 1.", 0.01),
    _Figure("system.load", "edged_system_load1", "The box's load over a minute."),
    _Figure("system.memory_rss_mb", "edged_process_resident_memory_bytes", "Memory of the daemon.", _MIB),
    _Figure("system.memory_available_mb", "edged_system_memory_available_bytes", "Memory free for use.", _MIB),
    _Figure("system.temperature_c", "edged_system_temperature_celsius", "Of the processor."),
    _Figure("system.throttled", "edged_system_throttled", "1 while the board slows itself down."),
    _Figure("system.disk_free_mb", "edged_system_disk_free_bytes", "Of the disk with the journal.", _MIB),
    _Figure("probe.ok", "edged_probe_success", "1 if the last try to decode a token did."),
    _Figure("probe.age_s", "edged_probe_age_seconds", "Since that try, or since a request's token."),
    _Figure("probe.ms", "edged_probe_duration_seconds", "How long that try took.", _MS),
)
_LATENCIES = {
    "total": "edged_request_duration_seconds",
    "queue": "edged_request_queue_seconds",
    "first_token": "edged_request_first_token_seconds",
    "sentiment": "edged_request_sentiment_seconds",
}
_LATENCY_HELP = "From receipt, quantiles over five minutes: of `{}`. They do not add up over nodes."

# What is told in another form (labels, or a sum of others), or is no number.
ELSEWHERE = (
    "state",
    "reasons",
    "boot_id",
    "version",
    "time",
    "model.id",
    "model.format",
    "model.device",
    "mqtt.connected_since",
    "mqtt.protocol",
    "requests.errors",
    "requests.expired",
    "requests.cancelled",
    "latency_ms",
)


def families(report: Report, *, node: str) -> Iterator["Metric"]:
    """The report as metric families; what it does not tell (None) is left out."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily  # noqa: PLC0415

    build = InfoMetricFamily("edged_build", "The daemon.")
    build.add_metric([], {"version": str(report["version"]), "node": node})
    yield build
    if (model := report["model"]) is not None:
        info = InfoMetricFamily("edged_model", "The model.")
        info.add_metric([], {name: str(model[name]) for name in ("id", "format", "device")})
        yield info
    state = GaugeMetricFamily("edged_state", "1 for the state that the daemon is in.", labels=["state"])
    for name in State:
        state.add_metric([str(name)], float(report["state"] == name))
    yield state
    yield GaugeMetricFamily(
        "edged_mqtt_connected", "1 while connected to the broker.", float(report["mqtt"]["connected_since"] is not None)
    )
    errors = CounterMetricFamily("edged_requests_failed", "Requests that got an error.", labels=["code"])
    for code, count in report["requests"]["errors"].items():
        errors.add_metric([code], count)
    yield errors
    for figures, kind in ((_COUNTERS, CounterMetricFamily), (_GAUGES, GaugeMetricFamily)):
        for each in figures:
            if (value := at(report, each.path)) is not None:
                yield kind(each.name, each.help, float(value) * each.scale)
    for latency, metric in _LATENCIES.items():
        # No summary: its count and sum are of all time, and these are of five minutes.
        family = GaugeMetricFamily(metric, _LATENCY_HELP.format(latency), labels=["quantile"])
        for quantile, value in report["latency_ms"][latency].items():
            if value is not None:
                family.add_metric([f"{int(quantile[1:]) / 100:g}"], value * _MS)
        yield family


def at(report: Report, path: str) -> Any:
    """What the report holds at a dotted path; None where there is nothing."""
    value: Any = report
    for part in path.split("."):
        if value is None:
            return None
        value = value[part]
    return value


class Exporter:
    """Serves `/metrics` by prometheus-client, in threads of its own.

    Raises:
        SettingsError: prometheus-client is not installed, or one cannot listen at this address.
    """

    def __init__(self, *, host: str, port: int, node: str, snapshot: Callable[[], Report]) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 - of an extra
        except ImportError:
            raise SettingsError(
                "metrics.port is set, and prometheus-client is not installed: pip install 'edged[metrics]', or set "
                "metrics.port to 0"
            ) from None
        registry = CollectorRegistry()  # not the global one, which tells of the interpreter too
        registry.register(_Reports(snapshot, node))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise SettingsError(
                f"metrics.host, metrics.port: it is not possible to listen at {host}:{port}: {error.strerror}"
            ) from error
        log.info("metrics", url=f"http://{host}:{port}/metrics")

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@dataclass(frozen=True, slots=True)
class _Reports:
    """prometheus_client's `Collector`: a new report for each scrape."""

    snapshot: Callable[[], Report]
    node: str

    def collect(self) -> Iterator["Metric"]:
        return families(self.snapshot(), node=self.node)

    def describe(self) -> list["Metric"]:
        return []  # or it would be asked for a report when it is registered
