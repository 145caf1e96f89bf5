"""What the daemon itself costs: `python -m tests.support.delivery_bench [--requests N] [--rate N]`.

The real daemon on a real broker with an engine that answers at once, asked at QoS 1 by one client. First as fast as it
will go, then at an even pace, where each request's way is timed inside the daemon: from its receipt to the engine, and
from the engine's answer to the PUBACK, with the journal's write, the result and the broker's confirmation between them.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.broker import Broker
from tests.support.daemon import Daemon
from tests.support.traffic import Ask, Asker

_OPEN = 400  # requests that wait for their answers, at most
_DOORS = ("received", "submitted", "answered", "acked")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="of each run (%(default)s)")
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second of the even run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for _ in range(options.rounds):
        flood(options.requests)
        pace(options.requests, options.rate)
    return 0


def flood(requests: int) -> None:
    """Measure how many requests per second the daemon, the broker and the client manage, and the daemon's memory."""
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(Path(folder), is_timed=False)
        with run.asker:
            rss = []
            begin = time.monotonic()
            for number in range(requests):
                while run.asker.pending >= _OPEN:
                    time.sleep(0.001)
                run.ask(number)
                if number >= 1000 and number % 1000 == 0:
                    rss.append(run.daemon.rss)
            run.wait(requests)
            seconds = time.monotonic() - begin
        run.end()
    memory = " ".join(f"{each / 2**20:.1f}" for each in rss)
    sys.stdout.write(f"flood: {requests / seconds:.0f} requests/s; memory from 1,000 on, MB: {memory}\n")


def pace(requests: int, rate: float) -> None:
    """Measure the time that each request spends inside the daemon."""
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(Path(folder), is_timed=True)
        with run.asker:
            begin = time.monotonic()
            for number in range(requests):
                time.sleep(max(0.0, begin + number / rate - time.monotonic()))
                run.ask(number)
            run.wait(requests)
        run.end()
        times = run.times()
    received, submitted, answered, acked = (times[door] for door in _DOORS)
    before = [1000 * (b - a) for a, b in zip(received, submitted, strict=True)]
    behind = [1000 * (b - a) for a, b in zip(answered, acked, strict=True)]
    both = [a + b for a, b in zip(before, behind, strict=True)]
    sys.stdout.write(
        f"pace {rate:.0f}/s: receipt to engine {_quantiles(before)}; engine to PUBACK {_quantiles(behind)}; "
        f"both {_quantiles(both)}\n"
    )


def _quantiles(values: Sequence[float]) -> str:
    cuts = statistics.quantiles(values, n=100)
    return f"p50 {cuts[49]:.2f} p99 {cuts[98]:.2f} max {max(values):.1f} ms"


class _Run:
    """A broker, a daemon and a client, for one measurement."""

    def __init__(self, folder: Path, *, is_timed: bool) -> None:
        self._times = folder / "times.json"
        config = ["set_tcp_nodelay true", "autosave_on_changes false", "log_type error"]
        config += ["max_queued_messages 0", "max_inflight_messages 0"]
        self._broker = Broker(
            folder=folder,
            config=[
                "set_tcp_nodelay true",
                "autosave_on_changes false",
                "log_type error",
                "max_queued_messages 0",
                "max_inflight_messages 0",
            ],
        )
        self._broker.start()
        timing = ("--times", str(self._times)) if is_timed else ()
        program = ("-m", "tests.support.scripted_daemon", *timing)
        self.daemon = Daemon(folder=folder, broker=self._broker, program=program, more={"EDGED_LOG__LEVEL": "warning"})
        self.daemon.start()
        self.daemon.wait_ready()
        self.asker = Asker(self._broker.port, self.daemon.root)

    def ask(self, number: int) -> None:
        self.asker.ask(Ask(id=f"ask-{number}", text=f"request {number}", task="reply"))

    def wait(self, requests: int) -> None:
        while len(self.asker.answers) < requests:
            time.sleep(0.01)

    def end(self) -> None:
        assert self.daemon.stop() == 0
        self._broker.kill()

    def times(self) -> dict[str, list[float]]:
        times: dict[str, list[float]] = json.loads(self._times.read_text())
        return times


if __name__ == "__main__":
    sys.exit(main())
