"""How a hot box runs its model less."""

from collections.abc import Iterator

import pytest

from edged.engine.cooling import LOOK_S, STEPS, Cooling


def duties(*temperatures: float | None) -> list[float]:
    """The duty cycle after each look at a box with a limit of 70 degrees."""
    readings: Iterator[float | None] = iter(temperatures)
    cooling = Cooling(70.0, lambda: next(readings))
    found = []
    for number in range(len(temperatures)):
        cooling.pause_after(1.0, number * LOOK_S)
        found.append(cooling.duty)
    return found


@pytest.mark.parametrize(
    ("temperatures", "wanted"),
    [
        ((40.0, 70.0, 69.9), [1.0, 1.0, 1.0]),
        ((71.0, 72.0, 90.0, 90.0), [0.75, 0.5, 0.25, 0.25]),
        ((71.0, 69.0, 65.0, 64.9, 64.9), [0.75, 0.75, 0.75, 1.0, 1.0]),
        ((71.0, None, 71.0), [0.75, 1.0, 0.75]),
    ],
)
def test_the_duty_cycle_goes_by_steps(temperatures: tuple[float | None, ...], wanted: list[float]) -> None:
    assert duties(*temperatures) == wanted


def test_pauses_make_the_share_of_the_time() -> None:
    cooling = Cooling(70.0, lambda: 80.0)
    for number, duty in enumerate((*STEPS[1:], STEPS[-1])):
        pause = cooling.pause_after(0.3, number * LOOK_S)
        assert 0.3 / (0.3 + pause) == pytest.approx(duty)


def test_the_thermometer_is_read_only_now_and_then() -> None:
    looks: list[None] = []

    def read() -> float:
        looks.append(None)
        return 80.0

    cooling = Cooling(70.0, read)
    for tenth in range(int(10 * LOOK_S)):
        cooling.pause_after(0.1, tenth / 10)
    assert len(looks) == 1
    assert cooling.duty == STEPS[1]
