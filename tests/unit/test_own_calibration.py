"""What `edged calibrate` learns, and what it makes of scores."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.commands.cli import parser
from edged.engine.own_calibrations import OwnCalibrationFile
from edged.errors import SettingsError
from edged.evaluation import own
from edged.evaluation.learning import fit
from edged.settings.schema import Settings
from edged.tasks.built_in import BUILT_IN
from edged.tasks.own_calibration import OwnCalibration, log_scores
from edged.testing import ScriptedEngine

LABELS = ("a", "b", "c")


def calibration(scale: float, *biases: float) -> OwnCalibration:
    return OwnCalibration(task="t", language="en", labels=LABELS, scale=scale, biases=biases, texts=50)


@given(st.lists(st.floats(0.001, 1), min_size=3, max_size=3), st.floats(0, 3))
def test_corrected_scores_sum_to_one(weights: list[float], scale: float) -> None:
    scores = {label: each / sum(weights) for label, each in zip(LABELS, weights, strict=True)}
    found = calibration(scale, 0.3, 0.0, -0.3).correct(scores)
    assert sum(found.values()) == pytest.approx(1.0)
    assert [*found] == [*scores]
    assert calibration(1.0, 0.0, 0.0, 0.0).correct(scores) == pytest.approx(scores)


def test_a_scale_makes_less_sure_and_a_bias_moves_the_border() -> None:
    scores = {"a": 0.8, "b": 0.1, "c": 0.1}
    assert calibration(0.5, 0.0, 0.0, 0.0).correct(scores)["a"] < 0.8
    assert calibration(1.0, 0.0, 3.0, 0.0).correct(scores)["b"] > 0.5


def test_scores_of_other_labels_stay() -> None:
    assert calibration(0.5, 1.0, 0.0, 0.0).correct({"a": 0.9, "x": 0.1}) == {"a": 0.9, "x": 0.1}


def drawn(number: int, *, sureness: float, shares: tuple[float, ...]) -> tuple[list[list[float]], list[int]]:
    """Scores that are `sureness` times as sure as they should be, of texts with these shares of labels."""
    random_ = random.Random(1)
    logs, labels = [], []
    for _ in range(number):
        label = random_.choices(range(3), shares)[0]
        evidence = [random_.gauss(1.5 if each == label else 0.0, 1.0) for each in range(3)]
        raised = [math.exp(sureness * 1.5 * each) for each in evidence]
        logs.append([math.log(each / sum(raised)) for each in raised])
        labels.append(label)
    return logs, labels


def test_scores_that_are_too_sure_get_a_scale_below_one() -> None:
    scale, biases = fit(*drawn(600, sureness=3.0, shares=(1.0, 1.0, 1.0)))
    assert scale == pytest.approx(1 / 3, abs=0.07)
    assert biases == pytest.approx((0, 0, 0), abs=0.3)


def test_few_texts_change_little() -> None:
    logs, labels = drawn(3, sureness=1.0, shares=(1.0, 1.0, 1.0))
    scale, biases = fit(logs, labels)
    assert scale == pytest.approx(1.0, abs=0.2)
    assert biases == pytest.approx((0, 0, 0), abs=0.2)


def learned(tmp_path: Path, text: str, **changes: Any) -> list[own.Learned]:
    path = tmp_path / "data.tsv"
    path.write_text(text)
    how: dict[str, Any] = {"task": "sentiment", "tasks": BUILT_IN, "names": {}} | changes
    return own.run(
        Settings(model_dir=tmp_path), data=path, make_engine=lambda _settings, _tasks: ScriptedEngine(), **how
    )


def test_labelled_texts_are_learned_from_and_kept(tmp_path: Path) -> None:
    [found] = learned(tmp_path, "good day\t1\nbad day\t0\ngood one\t0\n" * 20)
    assert found.after.calibration_error is not None
    assert found.before.accuracy == found.after.accuracy == pytest.approx(2 / 3, abs=0.001)
    assert found.after.calibration_error < (found.before.calibration_error or 0)
    assert list(OwnCalibrationFile(tmp_path).read().values()) == [found.calibration]
    assert "EDGED_CALIBRATION=own" in own.table([found])
    again = learned(tmp_path, "good day\t1\nbad day\t0\n" * 20)
    assert list(OwnCalibrationFile(tmp_path).read().values()) == [again[0].calibration]


@pytest.mark.parametrize(
    ("text", "told"),
    [("good\t1\nbad\t0\n", "too few texts of one language"), ("x\tneutral\n" * 40, "only 0 texts have")],
)
def test_too_few_texts_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        learned(tmp_path, text)
    assert not OwnCalibrationFile(tmp_path).read()


def test_the_command_takes_the_files_that_eval_takes() -> None:
    options = parser().parse_args(["calibrate", "--data", "x", "--labels", "up=positive"])
    assert (options.task, options.labels) == ("sentiment", {"up": "positive"})


def test_log_scores_are_in_the_order_of_the_labels() -> None:
    assert log_scores({"b": 1.0, "a": 0.5}, ["a", "b"]) == [pytest.approx(math.log(0.5)), 0.0]
