"""The canary: a new model judges texts whose answers are known, before it is used. For a thread of its own."""

import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from edged.errors import ModelError, ModelUnavailable
from edged.ports.engine import Classified, Engine, Failed, Generated, TextDelta, Work, WorkEvent
from edged.serving.languages import language_asked_in
from edged.settings.schema import Settings
from edged.tasks.canary import CANARY
from edged.tasks.case_file import Case, is_saved, read_saved
from edged.tasks.judging import NO_ANSWER, Judged
from edged.tasks.judging import judge as judge_output
from edged.tasks.specs import ClassifySpec, PartSpec, Tasks
from edged.tasks.text import Language

log = structlog.get_logger(__name__)

_ANSWER_S = 120.0  # for one text


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """What a model is judged by: the parts of a task, and cases with what is expected of these parts."""

    parts: Sequence[PartSpec]
    cases: Sequence[Case]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How an engine judged.

    Attributes:
        right: the mean score of what is expected: 1 for a right label; see `tasks/judging.py`.
        seconds: of a text, in the mean.
    """

    right: float
    seconds: float


def judge(engine: Engine, questions: Questions, *, language: Language | None, clock: Callable[[], float]) -> Verdict:
    """Have an engine answer the texts, one after the other.

    Args:
        engine: the one to judge.
        questions: what it is judged by.
        language: of all prompts; None: each text's own decides, as in the daemon.
        clock: gives seconds.

    Raises:
        ModelError: it fails on one, or does not answer.
    """
    parts = {part.name: part for part in questions.parts}
    scores, begin = [], clock()
    for number, case in enumerate(questions.cases):
        for name in case.expected:
            spoken = language_asked_in(case.text, parts[name], engine.model, fixed=language)
            # The same seed for every model, so that only the model differs.
            key = f"canary/{id(engine)}/{number}/{name}"
            work = Work(key=key, spec=parts[name], text=case.text, language=spoken, seed=number)
            scores.append(_judged(parts[name], _answer(engine, work), case, spoken).score)
    return Verdict(right=sum(scores) / len(scores), seconds=(clock() - begin) / len(questions.cases))


def fault_of(new: Verdict, old: Verdict, *, margin: float, slowest: float) -> str | None:
    """Why a new model is refused, in words; None if it is not. `slowest`: times as long as the old one for a text."""
    if new.right < old.right - margin:
        return f"it was right for {new.right:.0%} of the canary's texts, the model before for {old.right:.0%}"
    if new.seconds > slowest * old.seconds:
        return f"it took {new.seconds / old.seconds:.1f} times as long for a text as the model before"
    return None


def read_cases(content: str, spec: ClassifySpec, tasks: Tasks) -> Questions:
    """Read a file of texts and labels with a tab between them, or one that `edged eval --save` wrote for any task.

    Args:
        content: of the file.
        spec: whose labels the texts have, where the file names no task.
        tasks: that the file may name.

    Raises:
        ValueError: it has another form, or asks for what the task cannot give.
    """
    if is_saved(content):
        task, saved = read_saved(content, tasks)
        return Questions(parts=tasks.parts(task), cases=saved)
    labels = {label.canonical for label in spec.labels}
    cases = []
    for number, line in enumerate(content.rstrip("\n").split("\n") if content else (), start=1):
        text, tab, label = line.rstrip("\r").rpartition("\t")
        if not tab or label not in labels:
            raise ValueError(f"line {number}: write a text, a tab and one of {', '.join(sorted(labels))}")
        cases.append(Case(text=text, expected={spec.name: label}))
    if not cases:
        raise ValueError("it has no text")
    return Questions(parts=[spec], cases=cases)


class Canary:
    """The texts by which models are held against each other; nothing is held against another where there are none."""

    def __init__(self, settings: Settings, tasks: Tasks, *, clock: Callable[[], float]) -> None:
        """Read the texts: those of the settings' file, or the built-in ones where the task scores their labels.

        Raises:
            ModelUnavailable: the file cannot be read.
        """
        self._limits = settings.models
        self._language = settings.prompt_language
        self._clock = clock
        spec = next((part for part in tasks.all_parts if part.name == "sentiment"), None)
        self._questions = _questions(settings, spec, tasks) if isinstance(spec, ClassifySpec) else None

    def verdict(self, engine: Engine) -> Verdict | None:
        """How an engine judges the texts; None where there are none.

        Raises:
            ModelError: it fails on a text.
        """
        if self._questions is None or not self._questions.cases:
            return None
        return judge(engine, self._questions, language=self._language, clock=self._clock)

    def compare(self, new: Engine, old: Verdict | None) -> None:
        """Hold an engine against a verdict.

        Raises:
            ModelUnavailable: it is worse.
            ModelError: it fails on a text.
        """
        found = None if old is None else self.verdict(new)
        if found is None or old is None:
            return
        log.info("canary", right=round(found.right, 3), before=round(old.right, 3), seconds=round(found.seconds, 3))
        fault = fault_of(found, old, margin=self._limits.canary_margin, slowest=self._limits.canary_slowest)
        if fault is not None:
            raise ModelUnavailable(fault)


def _questions(settings: Settings, spec: ClassifySpec, tasks: Tasks) -> Questions:
    path = settings.models.canary
    if path is not None:
        try:
            return read_cases(path.read_text(encoding="utf-8-sig"), spec, tasks)
        except (OSError, ValueError) as error:
            raise ModelUnavailable(f"models.canary, {path}: {error}") from error
    labels = {label.canonical for label in spec.labels}
    fixed = settings.prompt_language
    languages = (fixed,) if fixed is not None and fixed in CANARY else tuple(CANARY)
    cases = [
        Case(text=text, expected={spec.name: label})
        for language in languages
        for text, label in CANARY[language]
        if label in labels
    ]
    return Questions(parts=[spec], cases=cases)


def _judged(spec: PartSpec, answer: Classified | Generated, case: Case, language: Language) -> Judged:
    expected = case.expected[spec.name]
    if isinstance(answer, Classified):
        is_right = max(answer.scores, key=lambda name: answer.scores[name]) == expected
        return Judged(score=float(is_right), is_right=is_right)
    try:
        return judge_output(spec.output(answer, language), expected)
    except ModelError:  # JSON that cannot be sent
        return NO_ANSWER


def _answer(engine: Engine, work: Work) -> Classified | Generated:
    events: queue.SimpleQueue[WorkEvent] = queue.SimpleQueue()
    engine.submit(work, events.put)
    while True:
        try:
            event = events.get(timeout=_ANSWER_S)
        except queue.Empty:
            engine.cancel(work.key)
            raise ModelError("the model did not answer a text of the canary") from None
        if isinstance(event, Failed):
            raise ModelError(f"the model failed on a text of the canary: {event.error}")
        if not isinstance(event, TextDelta):
            return event
