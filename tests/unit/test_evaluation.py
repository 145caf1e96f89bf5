"""Labelled files as people have them, and figures that were worked out by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edged.commands.cli import parser
from edged.commands.eval import _second
from edged.errors import ModelError, SettingsError, TooLong
from edged.evaluation.comparison import mcnemar, won
from edged.evaluation.report import (
    UNREADABLE,
    Case,
    EvalReport,
    Verdict,
    calibration_error,
    in_words,
    report,
    spread,
    table,
)
from edged.evaluation.run import Way, ask, classifying, judge, parse, read, run
from edged.settings.schema import Settings
from edged.tasks.built_in import BUILT_IN, SENTIMENT
from edged.tasks.calibration import RunningCalibration
from edged.tasks.case_file import Case as Saved
from edged.tasks.case_file import CaseFile
from edged.testing import ScriptedEngine


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "data.tsv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


GOOD, BAD = Case(text="nice", label="positive"), Case(text="awful", label="negative")


@pytest.mark.parametrize(
    "text",
    [
        "nice\t1\nawful\t0\n",
        "1\tnice\n0\tawful",
        "label\ttext_a\n1\tnice\n0\tawful\n",
        "sentence\tlabel\r\nnice\t1\r\nawful\t0\r\n",
        "\ufeffnice\tPositive\n\nawful\tnegative\n",
        "nice\t正面\nawful\t负面\n",
    ],
)
def test_files_are_read_as_people_have_them(tmp_path: Path, text: str) -> None:
    assert read(written(tmp_path, text), SENTIMENT, names={}) == [GOOD, BAD]


def test_names_of_ones_own_are_mapped(tmp_path: Path) -> None:
    path = written(tmp_path, "nice\tTHUMBS UP\nawful\tdown\n")
    assert read(path, SENTIMENT, names={"thumbs up": "positive", "down": "negative"}) == [GOOD, BAD]


def test_a_mapping_goes_before_what_numbers_mean(tmp_path: Path) -> None:
    path = written(tmp_path, "nice\t0\nawful\t1\n")
    assert read(path, SENTIMENT, names={"0": "positive", "1": "negative"}) == [GOOD, BAD]


@pytest.mark.parametrize(
    ("text", "names", "told"),
    [
        (b"", {}, "is empty"),
        (b"\n \n", {}, "is empty"),
        (b"label\ttext\n", {}, "no column of labels"),
        (b"nice\t1\nawful\t0\tmore\n", {}, "line 2 has 3 columns"),
        (b"nice\n", {}, "line 1 has 1 columns"),
        (b"nice\t1\nawful\t0\nso so\t7\n", {}, "line 3: '7' is no label"),
        (b"nice\tA\nawful\tB\n", {}, "no column of labels"),
        (b"nice\tA\n", {"a": "joyful"}, "the task has no label joyful"),
        (b"nice\xff\t1\n", {}, "is not UTF-8: byte 4"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, text: bytes, names: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read(written(tmp_path, text), SENTIMENT, names=names)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read(tmp_path / "none.tsv", SENTIMENT, names={})


def test_a_limit_takes_from_the_whole_file() -> None:
    cases = [Case(text=str(i), label="positive") for i in range(10)]
    assert [each.text for each in spread(cases, 3)] == ["0", "3", "6"]
    assert spread(cases, None) == spread(cases, 99) == cases


def verdict(true: str, given: str, confidence: float = 0.9) -> Verdict:
    case = Case(text="", label=true)
    return Verdict(case=case, label=given, scores={given: confidence} if confidence else {}, seconds=0.01)


SOME = [
    *[verdict("positive", "positive")] * 6,
    *[verdict("positive", "negative")] * 2,
    *[verdict("negative", "negative")] * 1,
    *[verdict("negative", "positive")] * 1,
]


def test_figures_are_those_of_the_book() -> None:
    found = report(SOME)
    assert found.accuracy == 0.7
    positive, negative = found.labels["positive"], found.labels["negative"]
    assert (positive.precision, positive.recall) == (0.8571, 0.75)
    assert positive.f1 == 0.8  # 2 * 6 / (7 + 8)
    assert negative.f1 == 0.4  # 2 * 1 / (3 + 2)
    assert found.macro_f1 == 0.6
    assert found.confusion == {"positive": {"positive": 6, "negative": 2}, "negative": {"negative": 1, "positive": 1}}
    assert found.calibration_error == pytest.approx(0.2)  # sure by 0.9, right in 0.7


def test_a_few_slow_texts_show_in_the_mean_and_not_in_the_median() -> None:
    slow = [replace(each, seconds=0.06) for each in SOME[:2]]
    found = report([*slow, *SOME[2:]])
    assert (found.seconds_per_text, found.mean_seconds_per_text) == (0.01, 0.02)


def test_the_calibration_error_weighs_its_bins() -> None:
    sure = [verdict("a", "a", 1.0)] * 3 + [verdict("a", "b", 1.0)]  # off by 0.25
    unsure = [verdict("a", "a", 0.55), verdict("a", "b", 0.55)] * 2  # off by 0.05
    assert calibration_error([*sure, *unsure]) == pytest.approx((4 * 0.25 + 4 * 0.05) / 8)


def test_what_cannot_be_read_is_wrong_and_counted() -> None:
    found = report([verdict("positive", UNREADABLE, 0), verdict("positive", "positive", 0)])
    assert (found.accuracy, found.unreadable, found.calibration_error) == (0.5, 1, None)
    assert found.labels.keys() == {"positive"}


def test_a_text_too_long_for_the_model_is_wrong_and_ends_nothing() -> None:
    engine = ScriptedEngine()
    engine.faults[GOOD.text] = TooLong("the text does not fit")
    how: dict[str, Any] = {"language": "en", "calibration": None, "with_neutral": False}
    found = report([judge(engine, SENTIMENT, case, **how) for case in (GOOD, replace(GOOD, text="bad luck"), BAD)])
    assert (found.unreadable, found.confusion["positive"][UNREADABLE]) == (1, 1)
    assert found.calibration_error is not None
    engine.faults[GOOD.text] = ModelError("it broke")
    with pytest.raises(ModelError):
        judge(engine, SENTIMENT, GOOD, **how)


@pytest.mark.parametrize(
    ("said", "label"),
    [
        (" Positive.", "positive"),
        ("negative\n\nText: x", "negative"),
        ("positive or negative", UNREADABLE),
        ("nonpositive", "positive"),
        ("I think", UNREADABLE),
        ("", UNREADABLE),
    ],
)
def test_a_generated_answer_is_searched_for_its_label(said: str, label: str) -> None:
    assert parse(said, {"positive": "positive", "negative": "negative"}) == label


def test_a_generated_answer_in_chinese() -> None:
    words = {"positive": "正面", "negative": "负面"}
    assert parse("是正面的", words) == "positive"
    assert parse("正面负面", words) == UNREADABLE


def test_a_file_that_was_saved_is_read_again(tmp_path: Path) -> None:
    saved = [Saved(text=each.text, expected={"sentiment": each.label}) for each in (GOOD, BAD)]
    path = written(tmp_path, CaseFile.of(saved, task="sentiment", model="m", score=0.5).model_dump_json(indent=1))
    assert read(path, SENTIMENT, names={}) == [GOOD, BAD]
    path = written(tmp_path, CaseFile.of(saved, task="mood", model="m", score=0.5).model_dump_json())
    with pytest.raises(SettingsError, match="no task mood"):
        read(path, SENTIMENT, names={})


@pytest.mark.parametrize(("with_neutral", "label"), [(True, "neutral"), (False, UNREADABLE)])
def test_the_model_that_writes_its_label_is_told_of_neutral_where_the_data_have_it(
    with_neutral: bool, label: str
) -> None:
    asked: list[str] = []

    def generate(prompt: str) -> str:
        asked.append(prompt)
        return " neutral"

    found = ask(generate, SENTIMENT, GOOD, language=None, half_width=True, with_neutral=with_neutral)
    assert (found.label, "neutral" in asked[0]) == (label, with_neutral)


def test_a_running_calibration_is_measured_as_it_runs() -> None:
    calibration = RunningCalibration()
    judged = [
        judge(ScriptedEngine(), SENTIMENT, GOOD, language="en", calibration=calibration, with_neutral=False)
        for _ in range(3)
    ]
    assert judged[0].scores == {"positive": 0.9, "negative": pytest.approx(0.1)}
    assert judged[0].confidence > judged[1].confidence > judged[2].confidence


@pytest.mark.parametrize(("name", "told"), [("nothing", "there is no task nothing"), ("reply", "gives no label")])
def test_only_tasks_with_labels_can_be_measured(name: str, told: str) -> None:
    assert classifying(BUILT_IN, "sentiment") is SENTIMENT
    for each in (name, "message"):
        with pytest.raises(SettingsError, match=told if each == name else "gives no label; those that do: sentiment"):
            classifying(BUILT_IN, each)


def test_the_table_has_both_ways() -> None:
    found = EvalReport(
        version="1",
        task="sentiment",
        data="d",
        texts=10,
        model="m",
        format="int8",
        calibration="static",
        scored=report(SOME),
        baseline=None,
    )
    assert "generate and parse" not in table(found)
    both = table(found.model_copy(update={"baseline": report(SOME)}))
    assert both.count("0.700") == 2
    assert "scored                  0.700    0.600  0.200          0     10.0   10.0" in both


@pytest.mark.parametrize(
    ("one", "other", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (1, 9, 22 / 1024), (9, 1, 22 / 1024), (0, 6, 2 / 64), (900, 100, 0.0)],
)
def test_mcnemars_test_is_that_of_the_book(one: int, other: int, p: float) -> None:
    assert mcnemar(one, other) == pytest.approx(p, abs=1e-12)


def test_only_texts_that_one_way_alone_labels_right_count() -> None:
    right, wrong = verdict("positive", "positive"), verdict("positive", "negative")
    assert won([right, right, wrong, wrong, right], [right, wrong, right, wrong, wrong]) == (2, 1)


def compared(tmp_path: Path, **changes: Any) -> EvalReport:
    path = written(tmp_path, b"good\t1\nbad\t0\nnot bad\t1\n")
    way = Way(settings=Settings(), task="sentiment", changed={"model.format": "int4"})
    return run(
        Settings(),
        data=path,
        task="sentiment",
        tasks=BUILT_IN,
        names={},
        limit=None,
        baseline=False,
        against=replace(way, **changes),
        make_engine=lambda _settings, _tasks: ScriptedEngine(),
    )


def test_a_second_way_is_held_against_the_first(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert found.compared is not None
    assert (found.compared.only_first_right, found.compared.only_second_right, found.compared.p_value) == (0, 0, 1.0)
    assert found.compared.scored.accuracy == found.scored.accuracy
    assert "second way: model.format=int4; Only the first way is right about 0 texts" in table(found)
    with pytest.raises(SettingsError, match="there is no task other"):
        compared(tmp_path, task="other")


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [(3, 3, "No difference is shown."), (2, 6, "more texts would be needed"), (30, 5, "the first way is better")],
)
def test_the_result_of_the_test_is_told_in_words(tmp_path: Path, one: int, other: int, told: str) -> None:
    found = compared(tmp_path).compared
    assert found is not None
    change = {"only_first_right": one, "only_second_right": other, "p_value": mcnemar(one, other)}
    assert told in in_words(found.model_copy(update=change))


def test_what_to_compare_with_is_said_as_a_setting(tmp_path: Path) -> None:
    options = parser().parse_args(["eval", "--data", "x", "--format", "int8", "--compare", "model.format=int4"])
    way = _second(options)
    assert (way.settings.model.format, way.task, way.changed) == ("int4", "sentiment", {"model.format": "int4"})
    options = parser().parse_args(["eval", "--data", "x", "--format", "int8", "--compare", "task=mood"])
    way = _second(options)
    assert (way.settings.model.format, way.task) == ("int8", "mood")
    with pytest.raises(SettingsError, match="write NAME=VALUE"):
        _second(parser().parse_args(["eval", "--data", "x", "--compare", "int4"]))
