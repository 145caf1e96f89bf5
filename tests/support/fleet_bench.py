"""What a group of boxes does together: `python -m tests.support.fleet_bench [PART ...] [--rounds N]`.

Real daemons on one real mosquitto, with an engine by rule that takes as long as a real one and answers eight requests
side by side, beside what deploy/fleet/simulate.py says of the same. Parts:

- flood: all work at once, for 1, 2 and 4 boxes in turn: how many requests a second.
- load: the same requests at the same times, at 0.9 of what the boxes can do: how long they wait.
- slow: four boxes of which one is three times as slow, at 0.8, with and (simulated) without pausing.
- deaths: boxes killed and started anew, sooner and later than their sessions expire; clients that ask again or not.
- hash: conversations dealt in turn and by shards, each box its own; also with one shard that has much more to do.
"""

import argparse
import importlib.util
import random
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support.fleet import SLOTS, Ask, Fleet, Kill, Played

_LONGEST_S = 0.8  # of a request; evenly spread from 0
_BOXES = (1, 2, 4)
_LOAD = 0.9
_UNEQUAL = (3 * _LONGEST_S, _LONGEST_S, _LONGEST_S, _LONGEST_S)
_UNEQUAL_LOAD = 0.8
_DEATHS_LOAD = 0.5
_EXPIRY_S = 6  # of a session
_LATE_S = 0.65  # by which mosquitto 2.0.11 ends an expired session late: 0.53 to 0.75 in six tries
_DOWN_S = (4.0, 12.0)  # from the kill to the start of the next process; one before the session expires, one after
_RETRY_S = 3.0
_HASH_LOAD = 0.6
_HOT_LOAD, _COLD_LOAD = 1.2, 0.4
_TURNS = 6.0  # of a conversation, in the mean
_SIMULATION = Path(__file__).parents[2] / "deploy" / "fleet" / "simulate.py"


def main() -> int:
    parts: dict[str, Callable[[int, float, Sequence[int]], None]] = {
        "flood": _flood,
        "load": _load,
        "slow": _slow,
        "deaths": _deaths,
        "hash": _hash,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*parts, "all"], default="all")
    parser.add_argument("--boxes", nargs="+", type=int, default=_BOXES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40.0, help="of the requests that come by chance")
    options = parser.parse_args()
    for name in parts if "all" in options.parts else options.parts:
        for number in range(options.rounds):
            _say(f"{name}, round {number + 1}")
            parts[name](number, options.seconds, options.boxes)
    return 0


def _flood(_: int, __: float, sizes: Sequence[int]) -> None:
    one = 0.0
    for boxes in sizes:
        with Fleet([_LONGEST_S] * boxes) as fleet:
            played = fleet.play([Ask(at=0.0)] * (160 * boxes))
            rate = len(played.totals) / played.ended
        one = one or rate
        dealt = dict(sorted(Counter(played.boxes.values()).items()))
        _say(f"  {boxes} boxes: {rate:.1f} requests/s, {rate / one:.2f} times one; dealt out: {dealt}")


def _load(seed: int, seconds: float, sizes: Sequence[int]) -> None:
    for boxes in sizes:
        asks = _by_chance(_LOAD * _able([_LONGEST_S] * boxes), seconds, seed=seed, boxes=boxes)
        with Fleet([_LONGEST_S] * boxes) as fleet:
            real = fleet.play(asks)
        _say(f"  {boxes} boxes at {_LOAD}: " + _beside(real, _simulate(boxes, asks)))


def _slow(seed: int, seconds: float, _: Sequence[int]) -> None:
    rate = _UNEQUAL_LOAD * _able(_UNEQUAL)
    drawn = [Ask(at=each.at) for each in _by_chance(rate, seconds, seed=seed, boxes=4)]
    with Fleet(_UNEQUAL) as fleet:
        real = fleet.play(drawn)
    scenario = simulation().Scenario(
        speeds=[_LONGEST_S / each for each in _UNEQUAL],
        slots=SLOTS,
        service=[_LONGEST_S * (i + 0.5) / 100 for i in range(100)],
        rate=rate,
        seconds=seconds,
    )
    told = {
        name: statistics.fmean(simulation().Simulation(scenario, name, seed=seed).run().totals)
        for name in ("pause", "round_robin")
    }
    listed = ", ".join(f"{name} {value:.2f} s" for name, value in told.items())
    _say(f"  one box of four slow: {real.mean:.2f} s to an answer; simulated: {listed}")


def _deaths(seed: int, seconds: float, sizes: Sequence[int]) -> None:
    more = {"EDGED_MQTT__SESSION_EXPIRY": f"{_EXPIRY_S}", "EDGED_MQTT__WILL_DELAY": "1"}
    for boxes in sizes:
        asks = _by_chance(_DEATHS_LOAD * _able([_LONGEST_S] * boxes), seconds, seed=seed, boxes=boxes)
        for down in _DOWN_S:
            # One box of two dies, and two of four, one after the other.
            kills = [Kill(at=seconds * (0.2 + 0.3 * i), box=i, down=down) for i in range(max(1, boxes // 2))]
            for retry in (None, _RETRY_S):
                with Fleet([_LONGEST_S] * boxes, more=more) as fleet:
                    real = fleet.play(asks, kills=kills, retry=retry)
                told = _simulate(boxes, asks, real=real, expiry=_EXPIRY_S + _LATE_S, retry=retry, shared_journal=False)
                again = "no retry" if retry is None else f"retry {retry:g} s"
                dead = ", ".join(f"{each:.1f}" for _, _, each in real.deaths)
                _say(f"  {boxes} boxes, down {dead} s of {_EXPIRY_S}, {again}: " + _beside(real, told))


def _hash(seed: int, seconds: float, sizes: Sequence[int]) -> None:
    for boxes in sizes:
        rate = _HASH_LOAD * _able([_LONGEST_S] * boxes)
        asks = _by_chance(rate, seconds, seed=seed, boxes=boxes)
        for is_sharded, strategy in ((False, "pause"), (True, "shards")):
            with Fleet([_LONGEST_S] * boxes, is_sharded=is_sharded) as fleet:
                real = fleet.play(asks)
            _say(f"  {boxes} boxes, {strategy}: " + _beside(real, _simulate(boxes, asks, strategy=strategy)))
        if boxes > 1:
            asks = _one_hot(boxes, seconds, seed=seed)
            with Fleet([_LONGEST_S] * boxes, is_sharded=True) as fleet:
                real = fleet.play(asks)
            told = _simulate(boxes, asks, strategy="shards")
            _say(f"  {boxes} boxes, shards, one at {_HOT_LOAD}, the others at {_COLD_LOAD}: " + _beside(real, told))
            for name, boxes_of in (("that one", {0}), ("the others", set(range(1, boxes)))):
                is_real = statistics.fmean(real.totals[i] for i, box in real.boxes.items() if box in boxes_of)
                is_told = statistics.fmean(
                    total for total, box in zip(told[0].totals, told[0].boxes, strict=True) if box in boxes_of
                )
                _say(f"    {name}: s to an answer {is_real:.2f} / {is_told:.2f}")


def _beside(real: Played, told: Sequence[Any]) -> str:
    """Real and simulated, from the least to the most."""
    asked = told[0].requests
    means = _range([statistics.fmean(each.totals) for each in told], ".2f")
    longest = _range([max(each.totals) for each in told], ".2f")
    lost = _range([each.lost for each in told], "d")
    again = _range([each.again for each in told], "d")
    breaks = _range([each.breaks / max(1, each.followers) for each in told], ".1%")
    return (
        f"s to an answer {real.mean:.2f} / {means}, longest {max(real.totals.values()):.2f} / {longest}; "
        f"lost {asked - len(real.totals)} / {lost} of {asked}; in two ways {len(real.twice)} / {again}; "
        f"turns on another box {real.breaks / max(1, real.followers):.1%} / {breaks}"
    )


def _range(figures: Sequence[float], form: str) -> str:
    least, most = (format(each, form) for each in (min(figures), max(figures)))
    return least if least == most else f"{least} to {most}"


def _able(longest: Sequence[float]) -> float:
    """Requests a second that these boxes can do."""
    return sum(SLOTS / (each / 2) for each in longest)


def _by_chance(rate: float, seconds: float, *, seed: int, boxes: int) -> list[Ask]:
    """Requests that come independently of each other, each a turn of one of many conversations."""
    chance = random.Random(seed)
    asks: list[Ask] = []
    going: list[int] = []
    at = sessions = 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        if not going or chance.random() < 1 / _TURNS:
            sessions += 1
            going = [*going[-50 * boxes :], int(sessions)]
        asks.append(Ask(at=at, session=chance.choice(going), service=chance.uniform(0, _LONGEST_S)))
    return asks


def _one_hot(boxes: int, seconds: float, *, seed: int) -> list[Ask]:
    """The same, where the conversations of the first box's shard have much more to do."""
    one = _able([_LONGEST_S])
    chance = random.Random(seed)
    of_box: dict[int, list[int]] = {box: [] for box in range(boxes)}
    for session in range(100 * boxes):
        of_box[simulation().shard(session, boxes)].append(session)
    asks = []
    for box, sessions in of_box.items():
        at, rate = 0.0, one * (_COLD_LOAD if box else _HOT_LOAD)
        while (at := at + chance.expovariate(rate)) < seconds:
            asks.append(Ask(at=at, session=chance.choice(sessions), service=chance.uniform(0, _LONGEST_S)))
    return sorted(asks, key=lambda each: each.at)


def simulation() -> ModuleType:
    """`deploy/fleet/simulate.py`, which is no part of a package."""
    if "simulate" not in sys.modules:
        spec = importlib.util.spec_from_file_location("simulate", _SIMULATION)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["simulate"] = module
        spec.loader.exec_module(module)
    return sys.modules["simulate"]


def _simulate(
    boxes: int, asks: Sequence[Ask], *, strategy: str = "pause", real: Played | None = None, **more: Any
) -> list[Any]:
    """What the simulation says of the same requests, and of the same deaths as there were.

    Whose turn it is at the broker first is not known: one outcome for each box.
    """
    told = simulation()
    scenario = told.Scenario(
        speeds=[1.0] * boxes,
        slots=SLOTS,
        service=[_LONGEST_S / 2],
        rate=1.0,
        seconds=asks[-1].at + 1.0,
        arrivals=[told.Arrival(at=each.at, session=each.session, service=each.service) for each in asks],
        deaths=[told.Death(at=at, box=box, down=down) for at, box, down in (real.deaths if real else ())],
        **more,
    )
    return [told.Simulation(scenario, strategy, dealt=each).run() for each in range(boxes)]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
