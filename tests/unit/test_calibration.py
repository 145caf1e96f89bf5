import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.tasks.built_in import SENTIMENT
from edged.tasks.calibration import WINDOW, Observation, RunningCalibration, judge_of, observe

probabilities = (
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=5)
    .filter(any)
    .map(lambda weights: {str(n): weight / sum(weights) for n, weight in enumerate(weights)})
)


@given(probabilities)
def test_nothing_seen_changes_nothing(scores: dict[str, float]) -> None:
    assert RunningCalibration().correct("j", scores) == scores


@given(st.lists(st.floats(0.05, 0.95), min_size=1, max_size=20), st.floats(0.05, 0.95))
def test_what_comes_out_are_probabilities_in_the_same_order_as_their_texts(seen: list[float], p: float) -> None:
    running = RunningCalibration()
    running.add(observe("j", {"a": each, "b": 1 - each}) for each in seen)
    low, high = (running.correct("j", {"a": each, "b": 1 - each}) for each in (p * 0.9, p))
    assert sum(high.values()) == pytest.approx(1)
    assert low["a"] < high["a"]


def test_a_leaning_that_all_texts_show_is_taken_out() -> None:
    running = RunningCalibration()
    running.add([observe("j", {"a": 0.8, "b": 0.2})] * WINDOW)
    scores = running.correct("j", {"a": 0.8, "b": 0.2})
    assert scores["a"] == pytest.approx(0.5, abs=0.03)
    assert running.correct("j", {"a": 0.6, "b": 0.4})["a"] < 0.4


def test_the_first_few_texts_sway_little_and_old_ones_not_at_all() -> None:
    running = RunningCalibration()
    running.add([observe("j", {"a": 0.99, "b": 0.01})])
    assert running.correct("j", {"a": 0.6, "b": 0.4})["a"] > 0.55
    running.add([observe("j", {"a": 0.5, "b": 0.5})] * WINDOW)
    assert running.correct("j", {"a": 0.6, "b": 0.4})["a"] == pytest.approx(0.6, abs=1e-6)


def test_a_text_that_is_sure_sways_no_more_than_its_share() -> None:
    running = RunningCalibration()
    running.add([observe("j", {"a": 1.0, "b": 0.0})] * 8 + [observe("j", {"a": 0.4, "b": 0.6})] * 72)
    assert running.correct("j", {"a": 0.5, "b": 0.5})["a"] == pytest.approx(0.5, abs=0.03)


def test_each_judge_has_leanings_of_its_own() -> None:
    running = RunningCalibration()
    running.add([observe("j", {"a": 0.9, "b": 0.1})] * 100)
    assert running.correct("k", {"a": 0.6, "b": 0.4}) == {"a": 0.6, "b": 0.4}
    one = judge_of(SENTIMENT, "en", model="m", weight_format="int8")
    others = [
        judge_of(SENTIMENT, "zh", model="m", weight_format="int8"),
        judge_of(SENTIMENT, "en", model="n", weight_format="int8"),
        judge_of(SENTIMENT, "en", model="m", weight_format="int4"),
    ]
    assert len({one, *others}) == 4
    assert one == judge_of(SENTIMENT, "en", model="m", weight_format="int8")


def test_the_same_texts_before_give_the_same_answer() -> None:
    seen = [observe("j", {"a": p / 10, "b": 1 - p / 10}) for p in range(1, 10)]
    kept = [Observation(judge=each.judge, scores=each.scores) for each in seen]
    one, other = RunningCalibration(), RunningCalibration()
    one.add(seen)
    other.add(kept)
    assert one.correct("j", {"a": 0.3, "b": 0.7}) == other.correct("j", {"a": 0.3, "b": 0.7})
