"""`/metrics` over HTTP: the exporter alone, and that of a real daemon."""

import time
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edged.contract.health import HealthReport
from edged.errors import ExitCode, SettingsError
from edged.monitoring.prometheus import Exporter
from tests.support.broker import free_port
from tests.support.daemon import SCRIPTED, Daemon, Watcher, daemon_on_a_broker, publish
from tests.support.report import REPORT
from tests.support.waiting import TIMEOUT


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    program = (*SCRIPTED, "--load-s", "1")
    with daemon_on_a_broker(program=program, more={"EDGED_METRICS__PORT": str(free_port())}) as daemon:
        yield daemon


def scrape(daemon: Daemon) -> dict[str, float]:
    """The samples by name; of several with one name the sum."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{daemon.more['EDGED_METRICS__PORT']}/metrics", timeout=TIMEOUT
    ) as page:
        families = text_string_to_metric_families(page.read().decode())
        found: dict[str, float] = {}
        for sample in (each for family in families for each in family.samples):
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found


def test_the_figures_are_there_while_it_loads_and_move_with_the_requests(daemon: Daemon) -> None:
    daemon.start()
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            loading = scrape(daemon)
            break
        except OSError:
            assert time.monotonic() < deadline, daemon.log
            time.sleep(0.05)
    assert loading["edged_state"] == 1
    assert "edged_model_info" not in loading
    daemon.wait_ready()
    watcher = Watcher(daemon.broker, f"{daemon.root}/out/#")
    publish(daemon.broker, f"{daemon.root}/in/message", "how are you?")
    publish(daemon.broker, f"{daemon.root}/in/nothing", "how are you?")
    for _ in range(2):
        watcher.next()
    watcher.stop()
    after = scrape(daemon)
    assert (after["edged_requests_answered_total"], after["edged_requests_failed_total"]) == (1, 1)
    assert after["edged_mqtt_connected"] == after["edged_model_info"] == 1
    assert after["edged_request_duration_seconds"] > 0
    assert daemon.stop() == 0


def test_a_port_that_is_taken_is_said_at_once(daemon: Daemon) -> None:
    daemon.more = {"EDGED_METRICS__PORT": str(daemon.broker.port)}
    daemon.start()
    assert daemon.wait() == ExitCode.USAGE
    assert "metrics.host, metrics.port: it is not possible to listen at 127.0.0.1" in daemon.log


def test_it_is_served_anew_at_every_scrape_until_it_stops() -> None:
    port, report = free_port(), dict(REPORT)
    exporter = Exporter(host="127.0.0.1", port=port, node="box", snapshot=lambda: HealthReport.model_validate(report))
    url = f"http://127.0.0.1:{port}/metrics"
    try:
        report["uptime_s"] = 77.0
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert b"\nedged_uptime_seconds 77.0\n" in answer.read()
        with pytest.raises(SettingsError, match=f"listen at 127.0.0.1:{port}: Address already in use"):
            Exporter(host="127.0.0.1", port=port, node="box", snapshot=lambda: HealthReport.model_validate(report))
    finally:
        exporter.stop()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=TIMEOUT)
