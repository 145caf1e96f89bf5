"""`edged eval`: measures the accuracy of a classifying task on labelled texts, with the daemon's own engine."""

import queue
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from edged import __version__, build, extras, progress
from edged.errors import ModelUnavailable, SettingsError, TooLong
from edged.evaluation.comparison import mcnemar, won
from edged.evaluation.report import UNREADABLE, Case, Comparison, EvalReport, Verdict, labelled, report, spread
from edged.ports.engine import Classified, Engine, Failed, ModelInfo, StoppableEngine, Work, WorkEvent
from edged.serving.languages import language_asked_in
from edged.settings.schema import Settings
from edged.tasks.calibration import RunningCalibration, judge_of, labels_alone, observe, with_others
from edged.tasks.case_file import is_saved, read_saved
from edged.tasks.outputs import Scored
from edged.tasks.specs import ClassifySpec, Tasks
from edged.tasks.text import LANGUAGES, Language, language_of, normalise

T = TypeVar("T")

MakeEngine = Callable[[Settings, Tasks], StoppableEngine]
Generate = Callable[[str], str]

_BASELINE_TOKENS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """A second way to label the texts: other settings, another task, or both; `changed` tells in what it differs."""

    settings: Settings
    task: str
    changed: Mapping[str, str]


def run(
    settings: Settings,
    *,
    data: Path,
    task: str,
    tasks: Tasks,
    names: Mapping[str, str],
    limit: int | None,
    baseline: bool,
    against: Way | None = None,
    make_engine: MakeEngine = build.make_engine,
) -> EvalReport:
    """Judge the texts of `data`, one at a time; with `against`, once more in that way.

    Raises:
        SettingsError: the file cannot be read, or the task gives no label.
        ModelUnavailable: the model cannot be started.
        RequestError: a text cannot be judged.
    """
    spec = classifying(tasks, task)
    cases = cases_of(data, spec, names=names, limit=limit)
    verdicts, model = _scored(settings, spec, cases, make_engine)
    compared = None
    if against is not None:
        second, its_model = _scored(against.settings, classifying(tasks, against.task), cases, make_engine)
        one, other = won(verdicts, second)
        compared = Comparison(
            changed=dict(against.changed),
            model=its_model.id,
            format=its_model.format,
            scored=report(second),
            only_first_right=one,
            only_second_right=other,
            p_value=mcnemar(one, other),
        )
    generated = None
    if baseline:
        language = None if settings.language == "auto" else settings.language
        with progress.waiting("loading the model in fp32"):
            generate = _transformers(settings)
        generated = report(
            [
                ask(
                    generate,
                    spec,
                    case,
                    language=language,
                    half_width=settings.half_width,
                    with_neutral=_has_neutral(spec, cases),
                )
                for case in shown(cases, "generate and parse")
            ]
        )
    return EvalReport(
        version=__version__,
        task=task,
        data=data.name.encode(errors="backslashreplace").decode(),
        texts=len(cases),
        model=model.id,
        format=model.format,
        calibration=settings.calibration,
        scored=report(verdicts),
        baseline=generated,
        compared=compared,
    )


def _scored(
    settings: Settings, spec: ClassifySpec, cases: Sequence[Case], make_engine: MakeEngine
) -> tuple[list[Verdict], ModelInfo]:
    """Judge the texts by a task, on the model of the settings."""
    is_neutral_asked = _has_neutral(spec, cases)
    language = None if settings.language == "auto" else settings.language
    calibration = RunningCalibration() if settings.calibration == "running" else None
    engine = make_engine(settings, Tasks([spec]))
    try:
        with progress.waiting("loading the model"):
            engine.start()
            engine.wait_ready()
        with progress.waiting("judging the texts", has_bar=True):
            verdicts = [
                judge(engine, spec, case, language=language, calibration=calibration, with_neutral=is_neutral_asked)
                for case in shown(cases, "scored")
            ]
        return verdicts, engine.model
    finally:
        engine.stop()


def _has_neutral(spec: ClassifySpec, cases: Sequence[Case]) -> bool:
    return spec.neutral is not None and any(each.label == spec.neutral.canonical for each in cases)


def cases_of(path: Path, spec: ClassifySpec, *, names: Mapping[str, str], limit: int | None) -> list[Case]:
    """The labelled texts of a file, at most `limit` of them.

    Raises:
        SettingsError: the file cannot be read.
    """
    return spread(read(path, spec, names=names), limit)


def read(path: Path, spec: ClassifySpec, *, names: Mapping[str, str]) -> list[Case]:
    """The labelled texts of a UTF-8 file; see `edged.evaluation.labelled`. It may be one that `--save` wrote.

    Raises:
        SettingsError: the file cannot be read.
    """
    content = text_of(path)
    if not is_saved(content):
        return labelled(content, spec, names=names, source=str(path))
    try:
        _, cases = read_saved(content, Tasks([spec]))
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None
    return [Case(text=each.text, label=str(each.expected[spec.name])) for each in cases]


def text_of(path: Path) -> str:
    """The content of a UTF-8 file.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8: byte {error.start}") from None


def classifying(tasks: Tasks, name: str) -> ClassifySpec:
    """The task of this name.

    Raises:
        SettingsError: there is none, or it gives no label.
    """
    if name not in tasks:
        raise SettingsError(f"there is no task {name}; there are {', '.join(tasks.names)}")
    spec = next(iter(tasks.parts(name)))
    if not isinstance(spec, ClassifySpec) or spec.name != name:
        able = [each.name for each in tasks if isinstance(each, ClassifySpec)]
        raise SettingsError(f"task {name} gives no label; those that do: {', '.join(able)}")
    return spec


def judge(
    engine: Engine,
    spec: ClassifySpec,
    case: Case,
    *,
    language: Language | None,
    calibration: RunningCalibration | None,
    with_neutral: bool | None,
) -> Verdict:
    """Score the labels of one text.

    Without neutral texts in the data (`with_neutral` false), the better of the scored labels counts; None leaves the
    scores as the engine has them.

    A text that does not fit the model's context gets no label, as in the daemon.
    """
    ended: queue.SimpleQueue[WorkEvent] = queue.SimpleQueue()
    language = language_asked_in(case.text, spec, engine.model, fixed=language)
    begin = time.perf_counter()
    engine.submit(Work(key="eval", spec=spec, text=case.text, language=language), ended.put)
    event = ended.get()
    seconds = time.perf_counter() - begin
    if isinstance(event, Failed):
        if not isinstance(event.error, TooLong):
            raise event.error
        return Verdict(case=case, label=UNREADABLE, scores={}, seconds=seconds)
    if not isinstance(event, Classified):
        raise TypeError(f"a classification ended with {type(event).__name__}")
    scores = event.scores
    if calibration is not None:
        by = judge_of(spec, language, model=engine.model.id, weight_format=engine.model.format)
        seen = labels_alone(spec, scores)
        scores = with_others(calibration.correct(by, seen), scores)
        calibration.add([observe(by, seen)])
    told = spec.output(Scored(scores=scores), language)
    if with_neutral is not None:
        scores = told.scores if with_neutral else labels_alone(spec, scores)
    return Verdict(
        case=case,
        label=max(scores, key=lambda name: scores[name]),
        scores=scores,
        seconds=seconds,
        is_called_neutral=spec.neutral is not None and told.label == spec.neutral.canonical,
    )


def ask(
    generate: Generate,
    spec: ClassifySpec,
    case: Case,
    *,
    language: Language | None,
    half_width: bool,
    with_neutral: bool,
) -> Verdict:
    """Let the model write a label, and look for it in the text that it wrote.

    `with_neutral` says that the data have neutral texts, so that the model is told of that label too.
    """
    language = language if language is not None and language in LANGUAGES else language_of(case.text)
    labels = [*spec.labels, *([spec.neutral] if with_neutral and spec.neutral else [])]
    words = {each.canonical: each.names[language] for each in labels}
    prompt = _question(words.values(), normalise(case.text, half_width=half_width), language)
    begin = time.perf_counter()
    said = generate(prompt)
    return Verdict(case=case, label=parse(said, words), scores={}, seconds=time.perf_counter() - begin)


def parse(said: str, words: dict[str, str]) -> str:
    """The one label that an answer names; `UNREADABLE` for none and for several."""
    found = [label for label, word in words.items() if word.casefold() in said.casefold()]
    return found[0] if len(found) == 1 else UNREADABLE


def _question(words: Iterable[str], text: str, language: Language) -> str:
    """The article's question, and the same in English."""
    if language == "zh":
        return f"你只判断情感极性,只回答{'或'.join(f'“{each}”' for each in words)}。\n文本:{text}\n情感:"
    return f"You judge only the sentiment. Answer only {' or '.join(words)}.\nText: {text}\nSentiment:"


def _transformers(settings: Settings) -> Generate:
    """The article's way to generate: transformers in fp32, greedily, a few tokens."""
    if extras.only_serves():
        raise ModelUnavailable(f"for --baseline {extras.how_to_get_torch()}")
    from edged.engine import generate_and_parse  # noqa: PLC0415 - brings torch
    from edged.models.store import Store  # noqa: PLC0415

    path = Store(settings.model_dir).path(settings.model.id, settings.model.revision)
    return generate_and_parse.load(path, _BASELINE_TOKENS)


def shown(cases: Sequence[T], name: str) -> Iterable[T]:
    """The cases, with a bar at a terminal."""
    bar: Iterable[T] = tqdm(cases, desc=name, unit="text", disable=None)  # none where there is no terminal
    return bar
