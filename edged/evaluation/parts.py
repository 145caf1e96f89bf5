"""`edged eval` for tasks that write, extract or are composed: each text is answered, and each part of it judged."""

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from edged import __version__, build, progress
from edged.errors import ModelError, SettingsError, TooLong
from edged.evaluation.comparison import mcnemar
from edged.evaluation.report import spread
from edged.evaluation.run import MakeEngine, Way, shown, text_of
from edged.ports.engine import Engine, Failed, ModelInfo, Params, TextDelta, Work, WorkEvent
from edged.serving.languages import language_asked_in
from edged.settings.schema import Settings
from edged.tasks.case_file import Case, is_saved, read_saved, read_table
from edged.tasks.judging import NO_ANSWER, Judged, judge
from edged.tasks.specs import ClassifySpec, GenerateSpec, PartSpec, Tasks
from edged.tasks.text import Language

_MEANING = {  # of the table's figures, by kind
    "classify": "A label is right or wrong; its score is 1 or 0.",
    "extract": "Extracted data are right if every field is and there is no other; the score is the share of right "
    "fields.",
    "generate": "A written text is right if it is a reference, but for case and spaces. Contains counts those with "
    "a reference in them. The score is chrF, how near a text comes to the nearest reference, from 0 to 1.",
}
_SHOWN = 0.05  # a difference counts as shown where chance alone gives one as large less often than this


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PartReport(_Record):
    """How right one part of a task was about the texts that say what is expected of it."""

    kind: str
    texts: int
    right: float = Field(description="Right label, all fields and no other, or one of the references.")
    score: float = Field(description="Mean: right labels, the share of right fields, or chrF (beta 2, 6 characters).")
    contains: float | None = Field(None, description="Of written texts: those that have a reference in them.")
    fields: dict[str, float] = Field({}, description="Of extracted data: how often each field is right.")
    no_answer: int = Field(0, description="Texts that got an error; they count as wrong.")


class PartTest(_Record):
    """Whether a second way is better at a part: a sign test on the texts about which the two differ."""

    first_better: int
    second_better: int
    p_value: float = Field(description="Two-sided; of right and wrong alone, this is McNemar's exact test.")


class PartsComparison(_Record):
    """A second way on the same texts."""

    changed: dict[str, str]
    model: str
    format: str
    parts: dict[str, PartReport]
    tests: dict[str, PartTest]


class PartsReport(_Record):
    """The report of `edged eval` on a task that does more than give a label."""

    schema_version: int = 1
    version: str
    task: str
    data: str
    texts: int
    model: str
    format: str
    parts: dict[str, PartReport]
    score: float = Field(description="Mean of all parts of all texts.")
    seconds_per_text: float = Field(description="Median, one text at a time; parts run side by side.")
    compared: PartsComparison | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A case with how right each part of the answer was; None stands for an error."""

    case: Case
    judged: Mapping[str, Judged | None]
    seconds: float

    def score(self, part: str) -> float:
        """Of a part, 0 where there was no answer."""
        return (self.judged[part] or NO_ANSWER).score


def is_for(tasks: Tasks, task: str) -> bool:
    """Whether a task is judged part by part: all but those that give one label."""
    if task not in tasks:
        return False
    (first, *others) = tasks.parts(task)
    return bool(others) or not isinstance(first, ClassifySpec)


def run(
    settings: Settings,
    *,
    data: Path,
    task: str,
    tasks: Tasks,
    limit: int | None,
    against: Way | None = None,
    make_engine: MakeEngine = build.make_engine,
) -> tuple[PartsReport, list[Case]]:
    """Answer the texts of `data`, one at a time; with `against`, once more in that way. Gives the cases too.

    Raises:
        SettingsError: the file cannot be read.
        ModelUnavailable: the model cannot be started.
        RequestError: the model fails.
    """
    cases = spread(cases_of(data, tasks, task), limit)
    first, model = _answered(settings, tasks.parts(task), cases, make_engine)
    compared = None
    if against is not None:
        if against.task != task:
            raise SettingsError("--compare task=NAME is for tasks that give a label; compare settings here")
        second, its_model = _answered(against.settings, tasks.parts(task), cases, make_engine)
        found = _reports(tasks.parts(task), second)
        compared = PartsComparison(
            changed=dict(against.changed),
            model=its_model.id,
            format=its_model.format,
            parts=found,
            tests={name: _test(name, first, second) for name in found},
        )
    scores = [each.score(part) for each in first for part in each.judged]
    report = PartsReport(
        version=__version__,
        task=task,
        data=data.name.encode(errors="backslashreplace").decode(),
        texts=len(cases),
        model=model.id,
        format=model.format,
        parts=_reports(tasks.parts(task), first),
        score=round(sum(scores) / len(scores), 4),
        seconds_per_text=round(sorted(each.seconds for each in first)[len(first) // 2], 5),
        compared=compared,
    )
    return report, cases


def cases_of(path: Path, tasks: Tasks, task: str) -> list[Case]:
    """The cases of a table, or of a file that `--save` wrote.

    Raises:
        SettingsError: it cannot be read; the message names the line.
    """
    content = text_of(path)
    try:
        if not is_saved(content):
            return read_table(content, tasks, task)
        saved_for, cases = read_saved(content, tasks)
    except ValueError as error:
        raise SettingsError(f"{path}, {error}") from None
    if saved_for != task:
        raise SettingsError(f"{path} was saved for the task {saved_for}: say --task {saved_for}")
    return cases


def _answered(
    settings: Settings, parts: Sequence[PartSpec], cases: Sequence[Case], make_engine: MakeEngine
) -> tuple[list[Answered], ModelInfo]:
    engine = make_engine(settings, Tasks(parts))
    try:
        with progress.waiting("loading the model"):
            engine.start()
            engine.wait_ready()
        with progress.waiting("answering the texts", has_bar=True):
            answered = [
                answer(engine, parts, case, number=number, fixed=settings.prompt_language)
                for number, case in enumerate(shown(cases, "answered"))
            ]
        return answered, engine.model
    finally:
        engine.stop()


def answer(
    engine: Engine,
    parts: Sequence[PartSpec],
    case: Case,
    *,
    number: int,
    fixed: Language | None,
    clock: Callable[[], float] = time.perf_counter,
) -> Answered:
    """Have the engine answer the parts of which something is expected. The seed of a text is its number.

    Without a `fixed` language of all prompts, a text is asked in its own, as the daemon does it.

    Raises:
        RequestError: the model fails, other than by one text that is too long or one answer that is of no use.
    """
    asked = {part.name: part for part in parts if part.name in case.expected}
    languages = {name: language_asked_in(case.text, spec, engine.model, fixed=fixed) for name, spec in asked.items()}
    ended: queue.SimpleQueue[WorkEvent] = queue.SimpleQueue()
    begin = clock()
    for name, spec in asked.items():
        work = Work(key=name, spec=spec, text=case.text, language=languages[name], params=Params(), seed=number)
        engine.submit(work, ended.put)
    judged: dict[str, Judged | None] = {}
    while len(judged) < len(asked):
        event = ended.get()
        if not isinstance(event, TextDelta):
            judged[event.key] = _judged(asked[event.key], event, case, languages[event.key])
    return Answered(case=case, judged={name: judged[name] for name in asked}, seconds=clock() - begin)


def _judged(spec: PartSpec, event: WorkEvent, case: Case, language: Language) -> Judged | None:
    if isinstance(event, Failed):
        if isinstance(event.error, TooLong):
            return None
        raise event.error
    if isinstance(event, TextDelta):
        raise TypeError("a piece of a text is no answer")
    try:
        return judge(spec.output(event, language), case.expected[spec.name])
    except ModelError:  # JSON that cannot be sent
        return None


def _reports(parts: Sequence[PartSpec], answered: Sequence[Answered]) -> dict[str, PartReport]:
    return {part.name: _report(part, answered) for part in parts if any(part.name in each.judged for each in answered)}


def _report(part: PartSpec, answered: Sequence[Answered]) -> PartReport:
    found = [each.judged[part.name] for each in answered if part.name in each.judged]
    judged = [each or NO_ANSWER for each in found]
    return PartReport(
        kind=part.kind,
        texts=len(judged),
        right=_mean([each.is_right for each in judged]),
        score=_mean([each.score for each in judged]),
        contains=_mean([each.contains for each in judged]) if isinstance(part, GenerateSpec) else None,
        fields=_fields(part.name, answered),
        no_answer=found.count(None),
    )


def _fields(part: str, answered: Sequence[Answered]) -> dict[str, float]:
    """How often each field that was expected is right, in the order in which they first come."""
    right: dict[str, list[bool]] = {}
    for each in answered:
        wanted, judged = each.case.expected.get(part), each.judged.get(part)
        if isinstance(wanted, Mapping):
            for name in wanted:
                right.setdefault(name, []).append(judged is not None and judged.fields[name])
    return {name: _mean(values) for name, values in right.items()}


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def _test(part: str, first: Sequence[Answered], second: Sequence[Answered]) -> PartTest:
    pairs = [
        (one.score(part), other.score(part)) for one, other in zip(first, second, strict=True) if part in one.judged
    ]
    better, worse = sum(one > other for one, other in pairs), sum(one < other for one, other in pairs)
    return PartTest(first_better=better, second_better=worse, p_value=mcnemar(better, worse))


def table(found: PartsReport) -> str:
    """The report for people."""
    lines = [f"{found.task} on {found.data}: {found.texts} texts, {found.model}, {found.format}", ""]
    lines += _rows(found.parts)
    lines += ["", f"{1000 * found.seconds_per_text:.0f} ms a text (median); mean score of all parts {found.score:.3f}"]
    kinds = {part.kind for part in found.parts.values()}
    lines += [meaning for kind, meaning in _MEANING.items() if kind in kinds]
    if found.compared is not None:
        changed = ", ".join(f"{name}={value}" for name, value in found.compared.changed.items())
        lines += ["", f"second way: {changed}", *_rows(found.compared.parts), ""]
        lines += [f"{name}: {in_words(test)}" for name, test in found.compared.tests.items()]
    return "\n".join(lines)


def _rows(parts: Mapping[str, PartReport]) -> list[str]:
    lines = [f"{'':20}{'kind':10}{'texts':>7}{'right':>8}{'score':>8}{'contains':>10}{'no answer':>11}"]
    for name, part in parts.items():
        contains = "–" if part.contains is None else f"{part.contains:.3f}"
        figures = f"{part.texts:7}{part.right:8.3f}{part.score:8.3f}{contains:>10}{part.no_answer:11}"
        lines.append(f"{name:20}{part.kind:10}{figures}")
        lines += [f"  {field:18}{'field':10}{'':7}{right:8.3f}" for field, right in part.fields.items()]
    return lines


def in_words(test: PartTest) -> str:
    """The result of a test for people."""
    one, other = test.first_better, test.second_better
    told = f"the first way is better about {one} texts, the second about {other}"
    if one == other:
        return f"{told}. No difference is shown."
    told += f"; if both were equally good, chance would divide them so unevenly with p = {test.p_value:.2g}."
    if test.p_value >= _SHOWN:
        return f"{told} So no difference is shown: more texts would be needed."
    return f"{told} So the {'first' if one > other else 'second'} way is better on texts like these."
