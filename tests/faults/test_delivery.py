"""Nothing lost, nothing doubled, whatever breaks: the real daemon, a real broker, and faults at random moments.

The short run is part of every test run. `EDGED_TEST_FAULTS=long` makes it 10,000 requests through 50 faults. The seed
is printed, and `EDGED_TEST_SEED` repeats it as far as chance allows (see tests/support/seeds.py).
"""

import os
import random
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
import pytest

from tests.support import brokers, seeds
from tests.support.broker import Broker
from tests.support.brokers import AnyBroker
from tests.support.daemon import Daemon
from tests.support.faults import (
    ASK_AGAIN_S,
    FAULTS,
    Stage,
    broker_killed,
    cable_cut,
    daemon_killed,
    daemon_restarted,
    duplicates,
    half_open,
    packet_torn,
    small_disk,
    unmount,
)
from tests.support.proxy import Proxy
from tests.support.traffic import Ask, Asker, Observer

IS_LONG = os.environ.get("EDGED_TEST_FAULTS") == "long"
STALLED_S = 180.0  # without any answer, on a busy box
SESSIONS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at the daemon's process."""

    pid: int
    answered: int
    rss: int
    threads: int
    files: int


class Watch:
    """Looks at the daemon's process twice a second."""

    def __init__(self, stage: Stage) -> None:
        self.looks: list[Look] = []
        self._stage = stage
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.5):
            try:
                process = self._stage.daemon.process
                with process.oneshot():
                    look = Look(
                        pid=process.pid,
                        answered=len(self._stage.asker.answers),
                        rss=process.memory_info().rss,
                        threads=process.num_threads(),
                        files=process.num_fds(),
                    )
            except (psutil.Error, AssertionError):
                continue  # it was killed just now
            self.looks.append(look)


MakeStage = Callable[..., AbstractContextManager[Stage]]
Record = Callable[[str, object], None]


@pytest.fixture(params=list(seeds.chosen()))
def seed(request: pytest.FixtureRequest) -> int:
    return seeds.chosen()[request.param]


@pytest.fixture
def make_stage(tmp_path: Path, make_broker: Callable[..., Broker], seed: int) -> MakeStage:
    """Give what sets up a daemon with the scripted engine, or with the small real model, all of it to be broken."""

    @contextmanager
    def make(
        *, has_real_model: bool = False, broker: AnyBroker | None = None, asks_again: bool = False
    ) -> Iterator[Stage]:
        broker = broker or make_broker(["max_queued_messages 0", "max_inflight_messages 0"])
        disk = small_disk(tmp_path / "disk")
        observer = Observer()
        clock = tmp_path / "clock"
        scripted = ("-m", "tests.support.scripted_daemon", "--work-ms", "5", "--clock", str(clock))
        with Proxy(broker.port, observe=observer) as cable, Proxy(broker.port, observe=lambda *_: None) as askers_cable:
            daemon = Daemon(
                folder=tmp_path,
                broker=broker,
                port=cable.port,
                program=("-m", "edged", "run") if has_real_model else scripted,
                more={
                    "EDGED_LOG__LEVEL": "info",
                    "EDGED_HEALTH__INTERVAL": "2",
                    "EDGED_ENGINE__MAX_NEW_TOKENS": "8",
                    **({} if disk is None else {"EDGED_STATE_DIR": str(disk / "state")}),
                },
            )
            began = time.monotonic()
            daemon.start()
            try:
                with Asker(askers_cable.port, daemon.root) as asker:
                    stage = Stage(
                        random=random.Random(seed),
                        broker=broker,
                        daemon=daemon,
                        cable=cable,
                        askers_cable=askers_cable,
                        asker=asker,
                        observer=observer,
                        clock=clock,
                        disk=disk,
                        asks_again=asks_again,
                    )
                    stage.await_ready("start", began)
                    yield stage
            finally:
                daemon.kill()
                if disk is not None:
                    unmount(disk)

    return make


def some_ask(number: int, rng: random.Random) -> Ask:
    text = f"request {number}: {'a bad day' if rng.random() < 0.3 else 'a good day'}"
    return Ask(
        id=f"ask-{number}",
        text=text,
        task=rng.choice(("message", "message", "sentiment", "reply")),
        session=f"session-{rng.randrange(SESSIONS)}" if rng.random() < 0.4 else None,
    )


def feed(
    stage: Stage, requests: int, rng: random.Random, *, pending: Callable[[], int], until: threading.Event
) -> None:
    """Ask until all was asked, with at most so many open."""
    for number in range(requests):
        while stage.asker.pending >= pending():
            if until.wait(0.005):
                return
        ask = some_ask(number, rng)
        stage.asked.append(ask)
        stage.asker.ask(ask)


def wait_answered(stage: Stage, number: int) -> None:
    asked_at = time.monotonic()
    while len(stage.asker.answers) < number:
        now = time.monotonic()
        quiet = now - stage.asker.last_answer
        if stage.asks_again and min(quiet, now - asked_at) > ASK_AGAIN_S:
            asked_at = now
            stage.asker.ask_again()
        assert quiet < STALLED_S, (
            f"{len(stage.asker.answers)} answered, none for {quiet:.0f} s; "
            f"open: {stage.asker.unanswered[:20]}; the daemon's log ends:\n{stage.daemon.log[-3000:]}"
        )
        time.sleep(0.01)


def moments(requests: int, faults: int, rng: random.Random) -> list[int]:
    """After how many answers each fault begins: the last ones leave something to be answered."""
    return sorted(rng.sample(range(requests * 95 // 100), faults))


@pytest.mark.timeout(3600 if IS_LONG else 900)
def test_nothing_is_lost_and_nothing_doubled(make_stage: MakeStage, seed: int, record_property: Record) -> None:
    faults = 50 if IS_LONG else len(FAULTS)
    with make_stage() as stage:
        rounds = [each for _ in range(-(-faults // len(FAULTS))) for each in stage.random.sample(FAULTS, len(FAULTS))]
        watch = break_and_count(stage, 10_000 if IS_LONG else 1500, rounds[:faults], seed, record_property)
    assert max(each.threads for each in watch.looks) <= 8
    assert max(each.files for each in watch.looks) <= 40


def test_nor_with_a_real_model(make_stage: MakeStage, seed: int, record_property: Record) -> None:
    faults = [cable_cut, broker_killed, daemon_killed, daemon_restarted, duplicates]
    with make_stage(has_real_model=True) as stage:
        break_and_count(stage, 150, faults, seed, record_property)


@contextmanager
def running(name: str) -> Iterator[AnyBroker]:
    """Run one of the brokers in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="edged-") as folder:
        broker = brokers.make(name, Path(folder))
        try:
            broker.start()
            yield broker
        finally:
            broker.stop()


@pytest.mark.parametrize("name", brokers.OTHERS)
def test_nor_on_another_broker(name: str, make_stage: MakeStage, seed: int, record_property: Record) -> None:
    faults = [cable_cut, daemon_killed, half_open, broker_killed, duplicates, packet_torn]
    asks_again = not brokers.ABILITIES[name].stores_first
    with running(name) as broker, make_stage(broker=broker, asks_again=asks_again) as stage:
        break_and_count(stage, 300, faults, seed, record_property)


def break_and_count(
    stage: Stage, requests: int, faults: Sequence[Callable[[Stage], None]], seed: int, record: Record
) -> Watch:
    """Ask so many requests while one fault after the other befalls them; in the end all must be as if none had."""
    over = threading.Event()
    # Now few requests are open, now thousands.
    feeder = threading.Thread(
        target=feed,
        args=(stage, requests, random.Random(seed + 1)),
        kwargs={"pending": lambda: 100 if len(stage.asked) % 3000 < 2000 else 1500, "until": over},
    )
    begin = time.monotonic()
    with Watch(stage) as watch:
        feeder.start()
        try:
            for answered, fault in zip(moments(requests, len(faults), stage.random), faults, strict=True):
                wait_answered(stage, answered)
                stage.rest(0.0, 0.05)
                fault(stage)
            wait_answered(stage, requests)
        finally:
            over.set()
            feeder.join()
    seconds = time.monotonic() - begin
    assert stage.daemon.stop() == 0
    record(seeds.REPORT, f"seed {seed}: {report(stage, watch, len(faults), seconds)}")
    check_answers(stage, requests)
    check_turns(stage)
    assert (stage.observer.out_of_order, stage.observer.unanswered) == (0, set())
    return watch


def check_answers(stage: Stage, requests: int) -> None:
    answers = stage.asker.answers
    assert set(answers) == {f"ask-{number}" for number in range(requests)}
    assert [each for each, got in answers.items() if len(got.contents) > 1] == []
    assert [each for each, got in answers.items() if '"status": "ok"' not in next(iter(got.contents))] == []


def check_turns(stage: Stage) -> None:
    """Each request of a session that keeps history is in it, once, with the answer behind it."""
    with closing(sqlite3.connect(f"file:{state_dir(stage) / 'journal.db'}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT session, role, content FROM turns ORDER BY number").fetchall()
    kept = Counter((session, content) for session, role, content in rows if role == "user")
    asked = Counter(
        (each.session, each.text) for each in stage.asked if each.session is not None and each.task != "sentiment"
    )
    assert (kept - asked, asked - kept) == (Counter(), Counter()), "turns too many, turns too few"
    assert len(rows) == 2 * kept.total()


def state_dir(stage: Stage) -> Path:
    return (stage.disk or stage.daemon.folder) / "state"


def report(stage: Stage, watch: Watch, faults: int, seconds: float) -> str:
    answers = stage.asker.answers.values()
    payloads = sum(sum(each.payloads.values()) for each in answers)
    slowest = max(stage.recoveries, key=lambda each: each[1])
    return (
        f"{len(answers)} answered of {len(stage.asked)} (sent {stage.asker.sent}, delivered "
        f"{stage.observer.deliveries}, answers {payloads}), {faults} faults, {seconds:.0f} s; "
        f"ids with two contents {sum(len(each.contents) > 1 for each in answers)}, with two payloads "
        f"{sum(len(each.payloads) > 1 for each in answers)}; acks out of order {stage.observer.out_of_order}; "
        f"slowest to ready: {slowest[0]} {slowest[1]:.2f} s; processes {len({each.pid for each in watch.looks})}, "
        f"threads <= {max(each.threads for each in watch.looks)}, files <= {max(each.files for each in watch.looks)}, "
        f"memory <= {max(each.rss for each in watch.looks) >> 20} MB"
    )
