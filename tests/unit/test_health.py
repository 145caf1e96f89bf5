import json
from dataclasses import replace
from typing import Any

import pytest

from edged.contract.health import SystemFigures
from edged.contract.results import rfc3339
from edged.contract.status import Identity, State
from edged.contract.topics import Topics
from edged.errors import ModelError
from edged.monitoring.health import Health
from edged.monitoring.metrics import Metrics
from edged.monitoring.parts import Glance, Parts, reasons_for_degraded
from edged.monitoring.probe import Probe, Prober, Probing
from edged.monitoring.report import Reporter
from edged.ports.worker import WorkerState
from edged.testing import FakeLink, ScriptedEngine
from tests.support.report import REPORT

STALL_AFTER = 30.0
NOTHING = SystemFigures.model_validate(dict.fromkeys(SystemFigures.model_fields))


class Bench:
    """Health with everything that it looks at in hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.group: dict[str, Any] | None = None
        self.link = FakeLink(clock=self.clock)
        self.engine = ScriptedEngine(clock=self.clock)
        self.worker = WorkerState(
            jobs=0, capacity=8, oldest=None, last_progress=self.now, service_s=None, journal_fault=None, died=None
        )
        self.worker_turns = True
        self.identity = Identity(boot_id="boot", started=rfc3339(self.now), version="1", client="mark")
        parts = Parts(engine=self.engine, worker=self.worker_state, link=self.link)
        prober = Prober(self.engine, clock=self.clock, timeout_s=5.0)
        probing = Probing(prober, interval=60.0, give_up_after=STALL_AFTER, clock=self.clock)
        reporter = Reporter(
            identity=self.identity,
            parts=parts,
            metrics=Metrics(),
            probing=probing,
            system=lambda: NOTHING,
            group=lambda: self.group,
            started=self.now,
            clock=self.clock,
            wall_clock=self.clock,
        )
        self.health = Health(
            topics=Topics(prefix="edged", node="box"),
            identity=self.identity,
            parts=parts,
            probing=probing,
            reporter=reporter,
            stall_after=STALL_AFTER,
            interval=30.0,
            clock=self.clock,
            wall_clock=self.clock,
        )

    def clock(self) -> float:
        return self.now

    def worker_state(self) -> WorkerState:
        return replace(self.worker, last_progress=self.now) if self.worker_turns else self.worker

    def told(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(each.payload) for each in self.link.published if each.topic == f"edged/box/{topic}"]


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.health.become(State.READY)
    return bench


def test_ready_is_earned_by_a_real_token(bench: Bench) -> None:
    bench.health.tick()
    assert [work.params.max_tokens for work in bench.engine.submitted] == [1]
    assert bench.health.state is State.READY
    assert bench.told("health")[-1]["probe"] is None or bench.told("health")[-1]["probe"]["ok"]


def test_a_part_that_others_can_do_without_makes_it_degraded_until_it_is_well(bench: Bench) -> None:
    wrong: list[str] = []
    bench.health.watch(lambda: wrong[0] if wrong else None)
    bench.health.become(State.READY)
    bench.health.tick()
    assert bench.health.state is State.READY
    wrong.append("http: gone")
    bench.health.tick()
    assert (bench.health.state, bench.health.reasons) == (State.DEGRADED, ("http: gone",))
    assert bench.told("status")[-1]["reasons"] == ["http: gone"]
    assert bench.told("health")[-1]["reasons"] == ["http: gone"]
    wrong.clear()
    bench.health.tick()
    assert bench.health.state is State.READY


def test_no_probe_while_requests_decode(bench: Bench) -> None:
    bench.health.tick()
    for _ in range(20):
        bench.now += 10
        bench.engine._last = bench.now  # a request's token
        bench.health.tick()
    assert len(bench.engine.submitted) == 1


def test_a_silent_engine_is_probed_again(bench: Bench) -> None:
    for _ in range(3):
        bench.health.tick()
        bench.now += 61
    assert len(bench.engine.submitted) == 3


def test_a_failed_probe_degrades_and_a_good_one_heals(bench: Bench) -> None:
    bench.engine.faults["OK"] = ModelError("broken")
    bench.health.tick()
    bench.health.tick()
    assert bench.health.state is State.DEGRADED
    assert bench.told("status")[-1]["reasons"] == ["the probe failed: no token was decoded"]
    bench.engine.faults.clear()
    bench.now += 61
    bench.health.tick()
    bench.health.tick()
    assert bench.told("status")[-1]["state"] == "ready"


def test_an_engine_that_is_away_degrades_and_is_probed_often(bench: Bench) -> None:
    bench.health.tick()
    bench.engine.auto = False
    bench.engine.away = "the model's server: nothing listens there"
    bench.now += 6.0
    bench.health.tick()
    assert (bench.health.state, bench.health.reasons) == (State.DEGRADED, (bench.engine.away,))
    assert len(bench.engine.submitted) == 2
    bench.engine.away = None
    bench.health.tick()
    assert bench.health.state is State.READY


def test_while_a_model_takes_the_place_of_another_the_daemon_is_loading(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.health.tick()
    state = replace(bench.engine.state(), switching="another model comes")
    monkeypatch.setattr(bench.engine, "state", lambda: state)
    bench.now += 100.0
    bench.health.tick()
    assert (bench.health.state, bench.health.reasons) == (State.LOADING, ("another model comes",))
    assert len(bench.engine.submitted) == 1  # it is not probed
    monkeypatch.undo()
    bench.health.tick()
    assert bench.health.state is State.READY
    assert bench.told("status")[-2]["state"] == "loading"


def test_after_a_failed_probe_the_next_one_comes_soon(bench: Bench) -> None:
    bench.engine.faults["OK"] = ModelError("broken")
    bench.health.tick()
    bench.health.tick()
    assert bench.told("status")[-1]["state"] == "degraded"
    bench.engine.faults.clear()
    bench.now += 6.0
    bench.health.tick()
    bench.health.tick()
    assert bench.told("status")[-1]["state"] == "ready"


def test_a_probe_that_never_ends_degrades(bench: Bench) -> None:
    bench.engine.auto = False
    bench.health.tick()
    bench.now += 31
    bench.health.tick()
    assert bench.health.state is State.DEGRADED


def test_the_journals_fault_is_told_and_health_follows_it(bench: Bench) -> None:
    bench.worker = replace(bench.worker, journal_fault="the disk is full")
    bench.health.tick()
    assert bench.told("status")[-1]["state"] == "degraded"
    assert bench.told("status")[-1]["reasons"] == ["journal: the disk is full"]
    bench.worker = replace(bench.worker, journal_fault=None)
    bench.health.tick()
    assert bench.told("status")[-1]["state"] == "ready"


def test_status_is_told_on_change_and_after_a_reconnect_only(bench: Bench) -> None:
    for _ in range(5):
        bench.health.tick()
    count = len(bench.told("status"))
    bench.link.disconnect()
    bench.health.tick()
    bench.link.reconnect()
    bench.health.tick()
    states = [each["state"] for each in bench.told("status")[count:]]
    assert states[-1] == "ready"
    assert bench.health.state is State.READY


def test_reports_come_at_their_interval_and_only_while_connected(bench: Bench) -> None:
    bench.health.tick()
    count = len(bench.told("health"))
    bench.now += 31
    bench.health.tick()
    assert len(bench.told("health")) == count + 1
    bench.link.disconnect()
    bench.health.tick()
    before = len(bench.told("health"))
    bench.now += 100
    bench.health.tick()
    assert len(bench.told("health")) == before


def test_since_tells_when_the_state_began_not_when_its_reasons_changed(bench: Bench) -> None:
    bench.now += 5
    bench.health.become(State.DEGRADED, ("one",))
    bench.now += 5
    bench.health.become(State.DEGRADED, ("two",))
    one, two = bench.told("status")[-2:]
    assert one["since"] == two["since"]
    assert two["reasons"] == ["two"]


@pytest.mark.parametrize(
    ("engine", "worker", "link", "words"),
    [
        ({"fault": "it died"}, {}, {}, "it died"),
        ({"last_progress": 0.0}, {}, {}, "step"),
        ({}, {"died": "the worker stopped"}, {}, "the worker stopped"),
        ({}, {"last_progress": 0.0}, {}, "worker has not turned"),
        ({}, {}, {"fault": "refused"}, "broker: refused"),
        ({}, {}, {"last_progress": 0.0}, "network thread"),
    ],
)
def test_each_fault_has_its_words(
    bench: Bench, engine: dict[str, Any], worker: dict[str, Any], link: dict[str, Any], words: str
) -> None:
    def reasons(**changes: Any) -> tuple[str, ...]:
        glance = Glance(
            engine=replace(bench.engine.state(), **changes.get("engine", {})),
            worker=replace(bench.worker, **changes.get("worker", {})),
            link=replace(bench.link.state(), **changes.get("link", {})),
        )
        probe = Probe(ok=True, at=bench.now, ms=1.0)
        return reasons_for_degraded(glance, probe=probe, stall_after=STALL_AFTER, now=bench.now)

    assert reasons() == ()
    (reason,) = reasons(engine=engine, worker=worker, link=link)
    assert words in reason


def test_a_thread_that_stands_still_starves_the_watchdog(bench: Bench) -> None:
    assert bench.health.makes_progress
    bench.worker_turns = False
    bench.now += 31
    assert not bench.health.makes_progress


def test_what_another_says_in_our_name_is_corrected_once(bench: Bench) -> None:
    bench.health.tick()
    count = len(bench.told("status"))
    bench.health.hear_status({"state": "offline", "boot_id": "boot"})
    bench.health.tick()
    bench.health.hear_status({"state": "ready", "boot_id": "boot"})  # our own word comes back
    bench.health.tick()
    assert [each["state"] for each in bench.told("status")[count:]] == ["ready"]


@pytest.mark.parametrize(
    ("changes", "is_rival"),
    [
        ({}, True),
        ({"boot_id": "boot"}, False),
        ({"state": "offline"}, False),
        ({"state": "stopped"}, False),
        ({"started": "1970-01-01T00:00:00.000Z"}, False),
        ({"started": "1970-01-01T00:16:40.000Z", "boot_id": "c"}, True),  # as we did
        ({"started": "1970-01-01T00:16:40.000Z", "boot_id": "a"}, False),
        ({"started": None}, False),
    ],
)
def test_a_rival_lives_and_started_after_us(bench: Bench, changes: dict[str, Any], is_rival: bool) -> None:
    status = {"state": "ready", "boot_id": "other", "started": "2100-01-01T00:00:00.000Z"} | changes
    assert bench.identity.is_rival(status) is is_rival


def shape(value: Any) -> Any:
    return {name: shape(each) for name, each in value.items()} if isinstance(value, dict) else None


def test_the_report_has_the_form_that_dashboards_are_tested_with(bench: Bench) -> None:
    bench.health.tick()
    bench.health.tick()
    report = bench.health.snapshot().body()
    assert report["probe"] is not None
    report["requests"] |= {name: REPORT["requests"][name] for name in ("errors", "route_errors")}
    report["senders"] = {name: REPORT["senders"][name] for name in report["senders"]}
    assert shape(report) == shape(REPORT)


def test_a_report_has_a_group_only_where_there_is_one(bench: Bench) -> None:
    assert "group" not in bench.told("health")[-1]
    bench.group = {"name": "team", "takes": True, "keeps": False, "window": 2, "pauses": 1, "members": ["a"]}
    bench.health.report()
    assert bench.told("health")[-1]["group"] == bench.group


def test_a_message_on_the_status_topic_says_who_sent_it(bench: Bench) -> None:
    status = bench.told("status")[-1]
    assert status == {
        "state": "ready",
        "boot_id": "boot",
        "since": rfc3339(1000.0),
        "started": rfc3339(1000.0),
        "version": "1",
        "client": "mark",
    }
    assert bench.identity.is_ours(status)
    assert bench.identity.has_our_client(status)
    assert bench.identity.last_will().body() == {"state": "offline", "boot_id": "boot", "version": "1"}
