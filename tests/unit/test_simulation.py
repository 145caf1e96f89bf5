"""The fleet's simulation: what it says where the answer is known, and where one way of dealing must beat another."""

import math
import statistics
from typing import Any

import pytest

from tests.support.fleet_bench import simulation

SIMULATION = simulation()


def scenario(**fields: Any) -> Any:
    known: dict[str, Any] = {
        "speeds": [1.0] * 4,
        "slots": 2,
        "service": [0.5],
        "rate": 8.0,
        "seconds": 200.0,
    }
    return SIMULATION.Scenario(**(known | fields))


def run(strategy: str = "round_robin", *, seed: int = 1, **fields: Any) -> Any:
    return SIMULATION.Simulation(scenario(**fields), strategy, seed=seed).run()


def test_one_box_with_one_slot_waits_as_theory_says() -> None:
    # M/M/1 at load 0.5: the mean wait is the mean service time (Erlang).
    service = [-0.1 * math.log((i + 0.5) / 1000) for i in range(1000)]
    one = run(speeds=[1.0], slots=1, service=service, rate=5.0, seconds=20_000.0)
    assert statistics.fmean(one.waits) == pytest.approx(0.1, rel=0.1)


def test_every_strategy_answers_everything_once_where_nobody_dies() -> None:
    for strategy in SIMULATION.STRATEGIES:
        outcome = run(strategy, burst=5.0)
        assert outcome.lost == 0
        assert sum(outcome.by_box) == outcome.requests == len(outcome.totals)


def test_the_same_seed_gives_the_same() -> None:
    assert run("random") == run("random")
    assert run("random") != run("random", seed=2)


@pytest.mark.parametrize("strategy", SIMULATION.STRATEGIES)
def test_the_same_seed_gives_the_same_where_boxes_die(strategy: str) -> None:
    varied: dict[str, Any] = {"slots": 8, "service": [0.1 * i for i in range(1, 20)], "rate": 24.0}
    made = scenario(deaths_per_hour=60.0, down=5.0, expiry=10.0, **varied)
    # Both live at once, so that nothing stands at the same place in memory.
    one, other = (SIMULATION.Simulation(made, strategy) for _ in range(2))
    assert one.run() == other.run()


def test_a_hash_of_the_conversation_breaks_none() -> None:
    assert run("hash").breaks == 0
    assert run("round_robin").breaks > 0.5 * run("round_robin").followers


def test_a_slow_box_hurts_where_work_is_dealt_in_turn_and_not_where_it_pauses() -> None:
    slow: dict[str, Any] = {"speeds": [0.2, 1.0, 1.0, 1.0], "rate": 9.0}
    in_turn, pausing, pulled = (
        statistics.fmean(run(strategy, **slow).waits) for strategy in ("round_robin", "pause", "pull")
    )
    assert in_turn > 10 * pausing
    assert pulled <= pausing


def test_the_dead_lose_what_they_had_unless_clients_ask_again() -> None:
    deaths: dict[str, Any] = {"deaths_per_hour": 60.0, "down": 60.0, "expiry": 10.0}
    assert run(**deaths).lost > 0
    assert run(**deaths, retry=20.0).lost == 0
    assert run(**(deaths | {"expiry": 120.0})).lost == 0  # kept for it until it is back
    assert run("pull", **deaths).lost == 0


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="round_robin"):
        run("by hand")


def test_the_command_prints_a_line_for_each_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    assert SIMULATION.main(["--boxes", "2", "--seconds", "20", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*SIMULATION.STRATEGIES]
