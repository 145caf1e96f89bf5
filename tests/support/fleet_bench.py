"""What a group of boxes does together: `python -m tests.support.fleet_bench [--rounds N]`.

Real daemons on one real mosquitto, with an engine by rule that takes as long as a real one and answers eight requests
side by side. First all work at once, for 1, 2 and 4 boxes in turn: how many requests a second. Then requests that come
by chance at 0.9 of what the boxes can do, beside what deploy/fleet/simulate.py says of the same. Last, four boxes of
which one is three times as slow, at 0.8: how long an answer takes, beside the simulation with and without pausing.
"""

import argparse
import importlib.util
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from tests.support.broker import Broker
from tests.support.daemon import SCRIPTED, Daemon
from tests.support.peer import Peer
from tests.support.waiting import eventually

_SLOTS = 8
_LONGEST_S = 0.8  # of a request; evenly spread from 0
_BOXES = (1, 2, 4)
_LOAD = 0.9
_UNEQUAL = (3 * _LONGEST_S, _LONGEST_S, _LONGEST_S, _LONGEST_S)
_UNEQUAL_LOAD = 0.8
_SIMULATION = Path(__file__).parents[2] / "deploy" / "fleet" / "simulate.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40.0, help="of the requests that come by chance")
    options = parser.parse_args()
    model = simulation()
    rates: dict[int, list[float]] = {boxes: [] for boxes in _BOXES}
    for number in range(options.rounds):
        for boxes in _BOXES:
            with _Fleet([_LONGEST_S] * boxes) as fleet:
                rates[boxes].append(fleet.flood(160 * boxes))
                real = fleet.by_chance(options.seconds, load=_LOAD, seed=number) - _LONGEST_S / 2
            simulated = statistics.fmean(_simulate(model, [_LONGEST_S] * boxes, _LOAD, seed=number).waits)
            _say(
                f"{boxes} boxes: {rates[boxes][-1]:.1f} requests/s at once; by chance at {_LOAD}: "
                f"mean wait {real:.2f} s, simulated {simulated:.2f} s"
            )
    medians = {boxes: statistics.median(each) for boxes, each in rates.items()}
    for boxes, rate in medians.items():
        _say(f"{boxes} boxes: {rate:.1f} requests/s, {rate / medians[1]:.2f} times one")
    for number in range(options.rounds):
        with _Fleet(_UNEQUAL) as fleet:
            real = fleet.by_chance(options.seconds, load=_UNEQUAL_LOAD, seed=number)
        told = {
            strategy: statistics.fmean(
                _simulate(
                    model, _UNEQUAL, _UNEQUAL_LOAD, seed=number, strategy=strategy, seconds=options.seconds
                ).totals
            )
            for strategy in ("pause", "round_robin")
        }
        _say(f"one box of four slow: {real:.2f} s to an answer; simulated: " + _listed(told))
    return 0


def _listed(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f} s" for name, value in figures.items())


def _able(longest: Sequence[float]) -> float:
    """Requests a second that these boxes can do."""
    return sum(_SLOTS / (each / 2) for each in longest)


class _Fleet:
    """Boxes of one group, a broker, and a client that hears all answers."""

    def __init__(self, longest: Sequence[float]) -> None:
        """`longest` of each box: the seconds of its longest request."""
        self._folder = tempfile.TemporaryDirectory(prefix="edged-")
        root = Path(self._folder.name)
        self._broker = Broker(folder=root, config=("max_queued_messages 0",))
        self._boxes = []
        self._able = _able(longest)
        for number, longest_s in enumerate(longest):
            folder = root / str(number)
            folder.mkdir()
            program = (*SCRIPTED, "--work-ms", f"{1000 * longest_s:g}", "--slots", f"{_SLOTS}", "--seed", f"{number}")
            more = {"EDGED_MQTT__SHARE_GROUP": "team", "EDGED_LOG__LEVEL": "warning"}
            box = Daemon(folder=folder, broker=self._broker, node=f"box{number}", program=program, more=more)
            self._boxes.append(box)
        self._number = 0

    def __enter__(self) -> Self:
        self._broker.start()
        for box in self._boxes:
            box.start()
        for box in self._boxes:
            box.wait_ready()
            grant = f"edged-edged-{box.node} 1 $share/team/"
            eventually(lambda grant=grant: grant in self._broker.log(), "a share")  # type: ignore[misc]
        self._peer = Peer(self._broker.port)
        self._peer.__enter__()
        self._peer.subscribe("edged/team/out/#")
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.__exit__(None, None, None)
        for box in self._boxes:
            box.stop()
        self._broker.stop()
        self._folder.cleanup()

    def flood(self, requests: int) -> float:
        """Requests a second, when all of them come at once."""
        begin = time.monotonic()
        for _ in range(requests):
            self._ask()
        nodes = Counter(self._answer(120.0)["node"] for _ in range(requests))
        seconds = time.monotonic() - begin
        _say(f"  dealt out: {dict(sorted(nodes.items()))}")
        return requests / seconds

    def by_chance(self, seconds: float, *, load: float, seed: int) -> float:
        """Mean seconds to an answer, where requests come by chance."""
        chance = random.Random(seed)
        rate = load * self._able
        asked: dict[str, float] = {}
        waits: list[float] = []
        at = begin = time.monotonic()
        while (at := at + chance.expovariate(rate)) < begin + seconds:
            while (left := at - time.monotonic()) > 0:
                self._take(asked, waits, min(left, 0.01))
            asked[self._ask()] = time.monotonic()
        while len(waits) < len(asked):
            self._take(asked, waits, 1.0)
        return statistics.fmean(waits)

    def _take(self, asked: dict[str, float], waits: list[float], timeout: float) -> None:
        try:
            body = self._answer(timeout)
        except Exception:  # noqa: BLE001 - queue.Empty: there was none
            return
        waits.append(time.monotonic() - asked[body["id"]])

    def _ask(self) -> str:
        self._number += 1
        name = f"r{self._number}"
        self._peer.publish("edged/team/in/sentiment", json.dumps({"text": "hi", "id": name}).encode())
        return name

    def _answer(self, timeout: float) -> dict[str, str]:
        body: dict[str, str] = json.loads(self._peer.received.get(timeout=timeout).payload)
        return body


def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulate", _SIMULATION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate"] = module
    spec.loader.exec_module(module)
    return module


def _simulate(
    simulation: ModuleType,
    longest: Sequence[float],
    load: float,
    *,
    seed: int,
    strategy: str = "round_robin",
    seconds: float = 600.0,
) -> Any:
    scenario = simulation.Scenario(
        speeds=[_LONGEST_S / each for each in longest],
        slots=_SLOTS,
        service=[_LONGEST_S * (i + 0.5) / 100 for i in range(100)],
        rate=load * _able(longest),
        seconds=seconds,
    )
    return simulation.Simulation(scenario, strategy, seed=seed).run()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
