"""What a task may do with the model before it is asked for."""

from collections.abc import Callable
from typing import Any

import pytest

from edged.engine.sequence import Submitted
from edged.engine.warm_up import WarmUp
from edged.errors import ModelError
from edged.ports.engine import Failed, Work
from edged.tasks.built_in import REPLY

WORK = Work(key="warm-up", spec=REPLY, text="Hi", language="en")


@pytest.mark.parametrize(("between", "is_run"), [(None, True), (lambda: None, False)])
def test_beside_other_work_nothing_is_tried_out(between: Callable[[], None] | None, is_run: bool) -> None:
    taken: list[Submitted] = []
    end = Failed(key="warm-up", error=ModelError("made up"))

    def take(submitted: Submitted) -> None:
        taken.append(submitted)
        submitted.emit(end)

    stepper: Any = None  # the work ends when it is taken, so there is no step
    warm_up = WarmUp(stepper, take, lambda: 0.0, between)
    assert warm_up.try_out(WORK) == (end if is_run else None)
    assert len(taken) == is_run


def test_of_what_an_earlier_start_tried_out_one_piece_of_work_is_run() -> None:
    taken: list[Submitted] = []
    end = Failed(key="warm-up", error=ModelError("made up"))

    def take(submitted: Submitted) -> None:
        taken.append(submitted)
        submitted.emit(end)

    stepper: Any = None
    warm_up = WarmUp(stepper, take, lambda: 0.0)
    assert [warm_up.try_out(WORK, is_known=is_known) for is_known in (True, True, False)] == [end, None, end]
    assert len(taken) == 2
