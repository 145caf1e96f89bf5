"""Faults of mixed kinds against a running daemon: each begins, lasts a while, and is over when its function returns."""

import contextlib
import random
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.brokers import AnyBroker
from tests.support.daemon import Daemon
from tests.support.proxy import Proxy
from tests.support.traffic import Ask, Asker, Observer

READY_S = 180.0  # on a busy box
ASK_AGAIN_S = 5.0
MEGABYTE = 1 << 20


@dataclass(slots=True, kw_only=True)
class Stage:
    """The parts that a fault may break.

    Attributes:
        cable: the proxy between the daemon and the broker.
        askers_cable: the proxy between the asker and the broker.
        clock: the file that sets the daemon's wall clock wrong.
        disk: the mount point of a small file system that holds the state folder; None without the right to mount.
        asks_again: the asker sends a request again that was not answered for `ASK_AGAIN_S`, as a careful service does
            with a broker that loses messages which it acknowledged.
        recoveries: for each fault, its name and the seconds from its end to the daemon's next `ready`.
    """

    random: random.Random
    broker: AnyBroker
    daemon: Daemon
    cable: Proxy
    askers_cable: Proxy
    asker: Asker
    observer: Observer
    clock: Path
    disk: Path | None
    asks_again: bool
    asked: list[Ask] = field(default_factory=list)
    recoveries: list[tuple[str, float]] = field(default_factory=list)

    def rest(self, shortest: float, longest: float) -> None:
        time.sleep(self.random.uniform(shortest, longest))

    def await_ready(self, fault: str, since: float) -> None:
        """Wait until the daemon publishes that it is ready."""
        deadline = time.monotonic() + READY_S
        while not (said := [each for each in self.observer.ready_at if each >= since]):
            if time.monotonic() > deadline or not self.daemon.is_alive:
                raise AssertionError(
                    f"not ready again after {fault}; the daemon's log ends:\n{self.daemon.log[-4000:]}"
                )
            time.sleep(0.01)
        self.recoveries.append((fault, said[0] - since))


# ---------------------------------------------------------------------------------------------------- the network


def cable_cut(stage: Stage) -> None:
    stage.cable.cut()
    stage.rest(0.0, 1.0)
    stage.cable.restore()
    stage.await_ready("cable_cut", time.monotonic())


def packet_torn(stage: Stage) -> None:
    stage.cable.tear()
    stage.rest(0.2, 0.8)


def cable_stalled(stage: Stage) -> None:
    stage.cable.pause()
    stage.rest(0.3, 2.0)
    stage.cable.resume()


def half_open(stage: Stage) -> None:
    to_broker = stage.random.random() < 0.5
    stage.cable.pause(to_broker=to_broker, from_broker=not to_broker)
    stage.rest(0.3, 1.5)
    stage.cable.cut()  # this is how a half-open connection ends in practice
    stage.cable.restore()
    stage.await_ready("half_open", time.monotonic())


def slow_cable(stage: Stage) -> None:
    stage.cable.delay_s = stage.random.uniform(0.02, 0.2)
    stage.rest(0.5, 2.0)
    stage.cable.delay_s = 0.0


def slow_consumer(stage: Stage) -> None:
    stage.askers_cable.pause()
    stage.rest(0.5, 2.0)
    stage.askers_cable.resume()


def asker_cut(stage: Stage) -> None:
    stage.askers_cable.cut()
    stage.rest(0.0, 0.5)
    stage.askers_cable.restore()


# ----------------------------------------------------------------------------------------------------- the broker


def broker_killed(stage: Stage) -> None:
    """Kill the broker and start it again. It may have lost requests that it had acknowledged: they are sent again."""
    stage.broker.kill()
    stage.rest(0.0, 1.0)
    stage.broker.start()
    stage.await_ready("broker_killed", time.monotonic())
    stage.asker.ask_again()


def broker_restarted(stage: Stage) -> None:
    stage.broker.stop()
    stage.rest(0.0, 1.0)
    stage.broker.start()
    stage.await_ready("broker_restarted", time.monotonic())
    stage.asker.ask_again()


def broker_without_memory(stage: Stage) -> None:
    """Kill the broker and start it again without its stored sessions."""
    stage.broker.kill()
    stage.broker.forget()
    stage.broker.start()
    stage.await_ready("broker_without_memory", time.monotonic())
    stage.asker.ask_again()


def broker_frozen(stage: Stage) -> None:
    stage.broker.freeze()
    stage.rest(0.3, 2.0)
    stage.broker.thaw()


# ----------------------------------------------------------------------------------------------------- the daemon


def daemon_killed(stage: Stage) -> None:
    stage.daemon.kill()
    stage.rest(0.0, 0.5)
    stage.daemon.start()
    stage.await_ready("daemon_killed", time.monotonic())


def daemon_restarted(stage: Stage) -> None:
    assert stage.daemon.stop() == 0
    stage.daemon.start()
    stage.await_ready("daemon_restarted", time.monotonic())


def daemon_frozen(stage: Stage) -> None:
    stage.daemon.process.suspend()
    stage.rest(0.3, 2.0)
    stage.daemon.process.resume()


# -------------------------------------------------------------------------------------------------------- the box


def disk_full(stage: Stage) -> None:
    """Fill the daemon's disk, make room again, and wait until the daemon reports no fault of its journal."""
    if stage.disk is None:
        with _no_larger_files(stage.daemon):
            stage.rest(0.5, 2.0)
    else:
        filler = stage.disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        stage.rest(0.5, 2.0)
        filler.unlink()
    time.sleep(0.1)
    begin = time.monotonic()
    while "journal" in _reasons(stage) and time.monotonic() - begin < READY_S:
        time.sleep(0.1)


def clock_jumped(stage: Stage) -> None:
    stage.clock.write_text(str(stage.random.uniform(-6, 6) * 3600))


def duplicates(stage: Stage) -> None:
    """Send some requests again under the same ids, answered ones and open ones."""
    for each in stage.random.choices(stage.asked, k=20) if stage.asked else ():
        stage.asker.ask(each)


@contextlib.contextmanager
def _no_larger_files(daemon: Daemon) -> Iterator[None]:
    pid = daemon.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (MEGABYTE // 4, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        if daemon.is_alive:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def _reasons(stage: Stage) -> str:
    """The daemon's last log line about its state."""
    states = [line for line in stage.daemon.log.splitlines() if '"event": "state"' in line]
    return states[-1] if states else ""


FAULTS: tuple[Callable[[Stage], None], ...] = (
    daemon_killed,
    broker_killed,
    cable_cut,
    packet_torn,
    disk_full,
    duplicates,
    broker_without_memory,
    slow_consumer,
    half_open,
    clock_jumped,
    cable_stalled,
    daemon_restarted,
    broker_frozen,
    slow_cable,
    asker_cut,
    broker_restarted,
    daemon_frozen,
)


def small_disk(folder: Path) -> Path | None:
    """Mount a small file system at `folder`, to be ended by `unmount`; None without the right to mount."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    return folder if mounted.returncode == 0 else None


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)
