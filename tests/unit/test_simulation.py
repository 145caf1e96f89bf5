"""The fleet's simulation: what it says where the answer is known, and where one way of dealing must beat another."""

import math
import statistics
from typing import Any

import pytest

from edged.contract.topics import shard_of
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
    one = run(speeds=[1.0], slots=1, service=service, rate=5.0, seconds=4_000.0)
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
    assert run("shards").breaks == 0
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


def arrive(*times: float, service: float = 1.0) -> list[Any]:
    return [SIMULATION.Arrival(at=at, session=number, service=service) for number, at in enumerate(times)]


def die(at: float, box: int, down: float) -> Any:
    return SIMULATION.Death(at=at, box=box, down=down)


def test_requests_that_are_told_one_by_one_come_as_told() -> None:
    told = run(speeds=[0.5], slots=1, arrivals=arrive(0.0, 1.0, 10.0))
    assert told.waits == pytest.approx([0.0, 1.0, 0.0])
    assert told.totals == pytest.approx([2.0, 3.0, 2.0])
    assert told.boxes == [0, 0, 0]


def test_whose_turn_it_is_first_may_be_told() -> None:
    made = scenario(arrivals=arrive(0.0, 0.1, 0.2))
    assert [SIMULATION.Simulation(made, "round_robin", dealt=i).run().boxes for i in (0, 2)] == [[1, 2, 3], [3, 0, 1]]


def test_who_is_back_before_its_session_expires_begins_again_what_it_had() -> None:
    told = run(speeds=[1.0], slots=1, arrivals=arrive(0.0, 1.0), deaths=[die(0.5, 0, 3.0)], expiry=4.0)
    assert told.totals == pytest.approx([4.5, 4.5])
    assert told.lost == 0


def test_who_is_back_later_has_lost_it_and_what_came_meanwhile() -> None:
    times = arrive(0.0, 1.0, 5.0, 9.0)
    death = die(0.5, 0, 8.0)
    told = run(speeds=[1.0], arrivals=times, deaths=[death], expiry=4.0)
    assert (told.lost, told.totals) == (3, pytest.approx([1.0]))
    told = run(speeds=[1.0], arrivals=times, deaths=[death], expiry=4.0, retry=6.0)
    assert (told.lost, told.totals) == (0, pytest.approx([13.0, 13.0, 7.0, 1.0]))


def test_a_box_that_is_dealt_again_what_it_has_in_hand_does_it_once() -> None:
    told = run(speeds=[1.0], arrivals=arrive(0.0, service=3.0), retry=1.0)
    assert (told.totals, told.again) == (pytest.approx([3.0]), 0)


@pytest.mark.parametrize(("is_shared", "again"), [(True, 0), (False, 1)])
def test_what_another_box_answered_is_done_again_only_without_its_journal(is_shared: bool, again: int) -> None:
    # The first goes to the second box, which dies with it, and is asked for again, of the first box.
    death = die(0.5, 1, 2.5)
    told = run(speeds=[1.0, 1.0], arrivals=arrive(0.0), deaths=[death], expiry=9.0, retry=1.0, shared_journal=is_shared)
    assert told.totals == pytest.approx([2.0])
    assert (told.boxes, told.again, told.lost) == ([0], again, 0)


def test_a_shard_waits_for_its_box_and_a_hash_finds_another() -> None:
    sessions = [session for session in range(20) if SIMULATION.shard(session, 2) == 1]
    asks = [SIMULATION.Arrival(at=5.0, session=session, service=0.1) for session in sessions]
    dead: dict[str, Any] = {"speeds": [1.0, 1.0], "arrivals": asks, "deaths": [die(1.0, 1, 60.0)], "expiry": 2.0}
    assert run("shards", **dead).lost == len(sessions)
    assert run("hash", **dead).lost == 0
    assert run("shards", **(dead | {"expiry": 90.0})).by_box == [0, len(sessions)]


def test_shards_are_those_of_the_daemons() -> None:
    for session in range(50):
        assert str(SIMULATION.shard(session, 3)) == shard_of(str(session), ("0", "1", "2"))


def test_a_box_that_had_paused_when_it_died_is_dealt_nothing() -> None:
    # The first, slow one has enough after two, and is dead when the others come.
    asks = [
        *arrive(*(0.01 * i for i in range(8)), service=4.0),
        *(SIMULATION.Arrival(at=2.0 + 0.1 * i, session=0, service=0.01) for i in range(20)),
    ]
    told = run("pause", speeds=[0.1, 1.0], service=[4.0], arrivals=asks, deaths=[die(1.0, 0, 90.0)], expiry=5.0)
    assert told.lost == 2  # what it had


def test_a_box_that_is_back_takes_work_until_it_may_leave_it_to_another() -> None:
    def dealt_to_it(seconds_after: float) -> int:
        asks = [
            *arrive(*(0.01 * i for i in range(8)), service=20.0),
            *(SIMULATION.Arrival(at=3.0 + seconds_after + 0.01 * i, session=0, service=0.01) for i in range(20)),
        ]
        dead: dict[str, Any] = {"deaths": [die(1.0, 0, 2.0)], "expiry": 5.0}
        told = run("pause", speeds=[0.1, 1.0], service=[20.0], slots=4, arrivals=asks, **dead)
        assert told.lost == 0
        return int(told.by_box[0])

    assert dealt_to_it(1.0) == 4 + 10
    assert dealt_to_it(5.0) == 4


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="round_robin"):
        run("by hand")


def test_the_command_prints_a_line_for_each_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    assert SIMULATION.main(["--boxes", "2", "--seconds", "20", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*SIMULATION.STRATEGIES]
