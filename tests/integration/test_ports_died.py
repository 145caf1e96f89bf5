"""The threads that serve HTTP and metrics: one that ended says so, for health to tell."""

import pytest
import uvicorn
from starlette.applications import Starlette

from edged.contract.health import HealthReport
from edged.http.server import HttpServer
from edged.monitoring.prometheus import Exporter
from tests.support.waiting import eventually


def test_a_server_of_http_that_died_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise RuntimeError("made up")

    monkeypatch.setattr(uvicorn.Server, "run", die)
    server = HttpServer(Starlette(), host="127.0.0.1", port=0)
    assert server.fault() is None  # it was not started
    server.start()
    eventually(lambda: server.fault() is not None)
    assert "http: " in str(server.fault())
    server.stop()
    assert server.fault() is None


def test_a_server_of_http_is_well_while_it_runs_and_after_it_was_stopped() -> None:
    server = HttpServer(Starlette(), host="127.0.0.1", port=0)
    server.start()
    assert server.fault() is None
    server.stop()
    assert server.fault() is None


def test_an_exporter_that_died_says_so() -> None:
    exporter = Exporter(host="127.0.0.1", port=0, node="box", snapshot=_no_report)
    assert exporter.fault() is None
    exporter.stop()
    assert "metrics: " in str(exporter.fault())


def _no_report() -> HealthReport:
    raise AssertionError("nobody asked for metrics")
