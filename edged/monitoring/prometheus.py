"""`/metrics` for Prometheus: the report of `R/health` in its names and units. Opt-in; numbers only, never text.

What each figure is called stands beside it in `contract/health.py`. The names follow
prometheus.io/docs/practices/naming and those of llama.cpp's server and of vLLM, whose dashboards people know: base
units, `_total` for a number that only grows.
"""

import http.client
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import structlog

from edged import extras
from edged.contract.figures import Metric, Place, places
from edged.contract.health import HealthReport, Quantiles
from edged.errors import SettingsError

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

log = structlog.get_logger(__name__)

_ANSWER_S = 1.0  # for `/metrics` of a daemon on this box
_MAX_BYTES = 1 << 20
_BUILD = "edged_build"  # the metric that tells of which node the others are


def families(report: HealthReport, *, node: str) -> Iterator["Family"]:
    """The report as metric families; a figure that the report does not tell (None) is left out."""
    infos: dict[str, list[Place]] = {}
    for place in places(type(report)):
        metric = place.figure.metric
        if metric is None:
            continue
        if metric.kind == "info":
            infos.setdefault(metric.name, []).append(place)
        elif metric.kind == "presence" or place.value(report) is not None:
            yield _family(place, metric, place.value(report))
    for name, members in infos.items():
        labels = {"node": node} if name == _BUILD else {}
        labels |= {each.path[-1]: str(value) for each in members if (value := each.value(report)) is not None}
        if labels:
            yield _info(name, labels, help_text=" ".join(each.figure.text for each in members))


def _info(name: str, labels: dict[str, str], *, help_text: str) -> "Family":
    from prometheus_client.core import InfoMetricFamily  # noqa: PLC0415 - of an extra

    return InfoMetricFamily(name, help_text, labels)


def _family(place: Place, metric: Metric, value: Any) -> "Family":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - of an extra

    # No summary for quantiles: its count and sum are since the start, and these are of five minutes.
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    scale = 1.0 if place.figure.unit is None else place.figure.unit.scale
    if metric.kind == "presence":
        return kind(metric.name, place.figure.text, float(value is not None))
    if not metric.label:
        return kind(metric.name, place.figure.text, float(value) * scale)
    family = kind(metric.name, place.figure.text, labels=[metric.label])
    for label, number in _labelled(value):
        family.add_metric([label], number * scale)
    return family


def _labelled(value: Any) -> Iterator[tuple[str, float]]:
    """The numbers of a figure of several, each with the value of its label; None is left out."""
    if isinstance(value, StrEnum):
        yield from ((str(each), float(each is value)) for each in type(value))
    elif isinstance(value, Quantiles):
        told = value.model_dump(exclude_none=True)
        yield from ((f"{int(name[1:]) / 100:g}", number) for name, number in told.items())
    else:
        yield from ((label, float(number)) for label, number in value.items())


class Exporter:
    """Serves `/metrics` with prometheus-client, in threads of its own.

    Raises:
        SettingsError: prometheus-client is not installed, or it is not possible to listen at this address.
    """

    def __init__(self, *, host: str, port: int, node: str, snapshot: Callable[[], HealthReport]) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 - of an extra
        except ImportError:
            raise SettingsError(
                f"metrics.port needs the library prometheus-client: {extras.how_to_install('metrics')}; or set "
                "metrics.port to 0"
            ) from None
        registry = CollectorRegistry()  # the global one tells of the interpreter too
        registry.register(_Reports(snapshot, node))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise _refusal(host, port, error) from error
        log.info("metrics", url=f"http://{host}:{port}/metrics")

    def fault(self) -> str | None:
        """Why `/metrics` is not served any more, in words; None while it is."""
        if self._thread.is_alive():
            return None
        return "metrics: they are not served any more; a restart of the daemon mends it"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def exposition(report: HealthReport, *, node: str) -> bytes:
    """The report as Prometheus reads it (text format 0.0.4); needs prometheus-client."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - of an extra

    registry = CollectorRegistry()
    registry.register(_Reports(lambda: report, node))
    return generate_latest(registry)


def try_to_listen(host: str, port: int) -> None:
    """Listen for a moment where an `Exporter` would.

    Raises:
        SettingsError: it is not possible; the message is that of the `Exporter`.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        raise _refusal(host, port, error) from error


def is_served(host: str, port: int, *, node: str) -> bool:
    """Whether the daemon of this node serves `/metrics` there."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - of an extra

    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read(_MAX_BYTES).decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return any(each.name == f"{_BUILD}_info" and each.labels.get("node") == node for each in samples)


def _refusal(host: str, port: int, error: OSError) -> SettingsError:
    return SettingsError(f"metrics.host, metrics.port: it is not possible to listen at {host}:{port}: {error.strerror}")


@dataclass(frozen=True, slots=True)
class _Reports:
    """prometheus_client's `Collector`: a new report for each scrape."""

    snapshot: Callable[[], HealthReport]
    node: str

    def collect(self) -> Iterator["Family"]:
        return families(self.snapshot(), node=self.node)

    def describe(self) -> list["Family"]:
        return []  # without this method the collector would be asked for a report when it is registered
