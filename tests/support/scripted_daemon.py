"""The real daemon with an engine by rule instead of a model: `python -m tests.support.scripted_daemon [--options]`.

Everything but the engine is what ships, with the settings of the environment. What a text asks for in square brackets
is done to the work on it, for the tests of what may befall an engine: see `_befall`.
"""

import argparse
import heapq
import itertools
import json
import os
import queue
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

_real_time = time.time


def _obey_clock(file: Path) -> None:
    """Shift the wall clock by the number of seconds in a file; to be called before other modules are imported."""

    def jumped() -> float:
        try:
            return _real_time() + float(file.read_text() or 0)
        except OSError:
            return _real_time()

    time.time = jumped


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work-ms", type=float, default=0.0, help="the longest that a piece of work takes")
    parser.add_argument("--slots", type=int, default=0, help="pieces of work at a time; 0 for any number")
    parser.add_argument("--seed", type=int, default=0, help="of how long each takes")
    parser.add_argument("--load-s", type=float, default=0.0, help="how long it takes to load the model")
    parser.add_argument("--broken", action="store_true", help="after that, the model cannot be loaded")
    parser.add_argument("--clock", type=Path, help="a file with the seconds by which the wall clock is wrong")
    parser.add_argument("--times", type=Path, help="write there when each request went through which door")
    return parser.parse_args()


_OPTIONS = _options() if __name__ == "__main__" else argparse.Namespace(clock=None)
if _OPTIONS.clock is not None:
    _obey_clock(_OPTIONS.clock)

from edged import logs  # noqa: E402 - the clock first
from edged.contract.topics import AskedRoute  # noqa: E402
from edged.daemon import Daemon  # noqa: E402
from edged.errors import FatalError, ModelError, ModelUnavailable  # noqa: E402
from edged.monitoring.probe import PROBE  # noqa: E402
from edged.mqtt.connection import Connection  # noqa: E402
from edged.ports.engine import EngineState, Failed, ModelInfo, TextDelta, Work, WorkEvent  # noqa: E402  # noqa: E402
from edged.ports.link import Delivery  # noqa: E402
from edged.serving.worker import Worker  # noqa: E402
from edged.settings import load as config  # noqa: E402 - the clock first
from edged.settings.schema import Settings  # noqa: E402
from edged.tasks.specs import Tasks  # noqa: E402
from edged.testing import ScriptedEngine  # noqa: E402

_BEHEST = re.compile(r"\[(die|hang|exit|fail|slow)(?::(\d+))?\]")
_IDLE_S = 0.5

Emit = Callable[[WorkEvent], None]


class PacedEngine(ScriptedEngine):
    """Answers by rule in a thread of its own, each piece of work after a time of its own, and so in any order."""

    def __init__(self, *, work_s: float, seed: int, slots: int = 0, load_s: float = 0.0, broken: bool = False) -> None:
        super().__init__(auto=False, clock=time.monotonic)
        self._work_s = work_s
        self._slots = [0.0] * slots  # when each is free; a heap
        self._load_s = load_s
        self._broken = broken
        self._loaded = threading.Event()
        self._random = random.Random(seed)
        self._inbox: queue.SimpleQueue[tuple[Work, Emit] | str | None] = queue.SimpleQueue()
        self._due: list[tuple[float, int, str]] = []
        self._numbers = itertools.count()
        self._last_progress = time.monotonic()
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait_ready(self, timeout: float | None = None) -> bool:
        is_loaded = self._loaded.wait(timeout)
        if is_loaded and self._broken:
            raise ModelUnavailable("the model is broken")
        return is_loaded

    @property
    def model(self) -> ModelInfo:
        if self._broken or not self._loaded.is_set():
            raise ModelError("the model is not loaded yet")
        return super().model

    def stop(self, timeout: float = 10.0) -> None:
        self._inbox.put(None)
        self._thread.join(timeout)

    def submit(self, work: Work, on_event: Emit) -> None:
        self._inbox.put((work, on_event))

    def cancel(self, key: str) -> None:
        self._inbox.put(key)

    def state(self) -> EngineState:
        state = super().state()
        progress = {"last_progress": self._last_progress, "fault": self._fault}
        return EngineState(**{name: getattr(state, name) for name in EngineState.__slots__} | progress)

    def _main(self) -> None:
        time.sleep(self._load_s)
        self._last_progress = time.monotonic()
        self._loaded.set()
        try:
            while self._turn():
                self._last_progress = time.monotonic()
        except Exception as error:  # noqa: BLE001 - the top of the thread
            self._fault = f"the engine stopped: {error}"

    def _turn(self) -> bool:
        now = time.monotonic()
        wait = min(_IDLE_S, max(0.0, self._due[0][0] - now)) if self._due else _IDLE_S
        try:
            asked = self._inbox.get(timeout=wait) if wait > 0 else self._inbox.get_nowait()
        except queue.Empty:
            asked = ""
        if asked is None:
            super().stop()
            return False
        if isinstance(asked, tuple):
            self._take(*asked)
        elif asked:
            super().cancel(asked)
        while self._due and self._due[0][0] <= time.monotonic():
            key = heapq.heappop(self._due)[2]
            if key in self._open:
                self.finish(key)
        return True

    def _take(self, work: Work, on_event: Emit) -> None:
        super().submit(work, on_event)
        self.submitted.clear()
        seconds = self._random.uniform(0, self._work_s)
        if (behest := _BEHEST.search(work.text)) is not None:
            seconds = self._befall(work.key, behest[1], float(behest[2] or 0) / 1000) or seconds
        due = time.monotonic() + seconds
        if self._slots:
            due = max(due, heapq.heappop(self._slots) + seconds)
            heapq.heappush(self._slots, due)
        heapq.heappush(self._due, (due, next(self._numbers), work.key))

    def _befall(self, key: str, what: str, seconds: float) -> float:
        """[die]: the thread ends. [hang]: it stands still. [exit]: the process is gone. [fail]: only this work fails.

        [slow:500]: the work takes 500 ms.
        """
        if what == "die":
            raise MemoryError("there is no more memory")
        if what == "hang":
            threading.Event().wait()
        if what == "exit":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "fail":
            self._end(key, Failed(key=key, error=ModelError("this one cannot be answered")))
        return seconds


class Doors:
    """The times in seconds at which each delivery arrived, went to the engine, came back and was acked, by arrival."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.times: dict[str, list[float]] = {"received": [], "submitted": [], "answered": [], "acked": []}
        self._unacked: set[int] = set()

    def watch(self, engine: PacedEngine) -> None:
        self._watch_link()
        submit = engine.submit

        def timed(work: Work, on_event: Emit) -> None:
            if work.spec is PROBE:
                submit(work, on_event)
                return
            self.times["submitted"].append(time.monotonic())

            def told(event: WorkEvent) -> None:
                if not isinstance(event, TextDelta):
                    self.times["answered"].append(time.monotonic())
                on_event(event)

            submit(work, told)

        engine.submit = timed  # type: ignore[method-assign]

    def _watch_link(self) -> None:
        on_delivery, ack = Worker.on_delivery, Connection.ack

        def received(worker: Worker, route: AskedRoute, delivery: Delivery) -> None:
            assert delivery.ticket is not None
            self._unacked.add(delivery.ticket.packet_id)
            self.times["received"].append(time.monotonic())
            on_delivery(worker, route, delivery)

        def acked(connection: Connection, packet_id: int) -> None:
            if packet_id in self._unacked:  # else it is no request's: our own status comes back to us too
                self._unacked.remove(packet_id)
                self.times["acked"].append(time.monotonic())
            ack(connection, packet_id)

        Worker.on_delivery = received  # type: ignore[method-assign, assignment]
        Connection.ack = acked  # type: ignore[method-assign, assignment]

    def write(self) -> None:
        self._file.write_text(json.dumps(self.times))


def main() -> int:
    settings = config.load(flags={}, config_file=None)
    logs.configure(settings.log.level, settings.log.format)
    engine = PacedEngine(
        work_s=_OPTIONS.work_ms / 1000,
        seed=_OPTIONS.seed,
        slots=_OPTIONS.slots,
        load_s=_OPTIONS.load_s,
        broken=_OPTIONS.broken,
    )
    doors = None if _OPTIONS.times is None else Doors(_OPTIONS.times)
    if doors is not None:
        doors.watch(engine)

    def make_engine(_: Settings, __: Tasks) -> PacedEngine:
        return engine

    try:
        read = partial(config.load_with_sources, flags={}, config_file=None)
        return Daemon(settings, config.systemd(), read_settings=read, make_engine=make_engine).run()
    except FatalError as error:
        print(f"edged: {error}", file=sys.stderr)  # noqa: T201 - as the real command does
        return error.exit_code
    finally:
        if doors is not None:
            doors.write()


if __name__ == "__main__":
    sys.exit(main())
