"""The canary: a new model judges texts whose answers are known, before it is used. For a thread of its own."""

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from edged.errors import ModelError, ModelUnavailable
from edged.ports.engine import Classified, Engine, Failed, TextDelta, Work, WorkEvent
from edged.settings.schema import Settings
from edged.tasks.canary import CANARY
from edged.tasks.specs import ClassifySpec, Tasks
from edged.tasks.text import Language, language_of

log = structlog.get_logger(__name__)

_ANSWER_S = 120.0  # for one text


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A text and its label."""

    text: str
    label: str
    language: Language


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How an engine judged: the share of right labels, and the mean seconds of a text."""

    right: float
    seconds: float


def judge(engine: Engine, spec: ClassifySpec, cases: Sequence[Case], *, clock: Callable[[], float]) -> Verdict:
    """Have an engine judge the texts, one after the other.

    Raises:
        ModelError: it fails on one, or does not answer.
    """
    right, begin = 0, clock()
    for number, case in enumerate(cases):
        work = Work(key=f"canary/{id(engine)}/{number}", spec=spec, text=case.text, language=case.language)
        scores = _answer(engine, work)
        right += max(scores, key=lambda name: scores[name]) == case.label
    return Verdict(right=right / len(cases), seconds=(clock() - begin) / len(cases))


def fault_of(new: Verdict, old: Verdict, *, margin: float, slowest: float) -> str | None:
    """Why a new model is refused, in words; None if it is not. `slowest`: times as long as the old one for a text."""
    if new.right < old.right - margin:
        return f"it was right for {new.right:.0%} of the canary's texts, the model before for {old.right:.0%}"
    if new.seconds > slowest * old.seconds:
        return f"it took {new.seconds / old.seconds:.1f} times as long for a text as the model before"
    return None


def read_cases(lines: Iterator[str], spec: ClassifySpec, language_of: Callable[[str], Language]) -> list[Case]:
    """Read a file of texts and labels, with a tab between them.

    Raises:
        ValueError: a line has another form, or a label that the task does not score.
    """
    labels = {label.canonical for label in spec.labels}
    cases = []
    for number, line in enumerate(lines, start=1):
        text, tab, label = line.rstrip("\r\n").rpartition("\t")
        if not tab or label not in labels:
            raise ValueError(f"line {number}: write a text, a tab and one of {', '.join(sorted(labels))}")
        cases.append(Case(text=text, label=label, language=language_of(text)))
    if not cases:
        raise ValueError("it has no text")
    return cases


class Canary:
    """The texts by which models are held against each other; nothing is held against another where there are none."""

    def __init__(self, settings: Settings, tasks: Tasks, *, clock: Callable[[], float]) -> None:
        """Read the texts: those of the settings' file, or the built-in ones where the task scores their labels.

        Raises:
            ModelUnavailable: the file cannot be read.
        """
        self._limits = settings.models
        self._clock = clock
        self._spec = next((part for part in tasks.all_parts if part.name == "sentiment"), None)
        self._cases = [] if not isinstance(self._spec, ClassifySpec) else _cases(settings, self._spec)

    def verdict(self, engine: Engine) -> Verdict | None:
        """How an engine judges the texts; None where there are none.

        Raises:
            ModelError: it fails on a text.
        """
        if not isinstance(self._spec, ClassifySpec) or not self._cases:
            return None
        return judge(engine, self._spec, self._cases, clock=self._clock)

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


def _cases(settings: Settings, spec: ClassifySpec) -> list[Case]:
    path = settings.models.canary
    if path is not None:
        try:
            with path.open(encoding="utf-8-sig") as lines:
                return read_cases(lines, spec, language_of)
        except (OSError, ValueError) as error:
            raise ModelUnavailable(f"models.canary, {path}: {error}") from error
    labels: Mapping[str, Any] = {label.canonical: label for label in spec.labels}
    languages = (settings.prompt_language,) if settings.prompt_language is not None else tuple(CANARY)
    return [
        Case(text=text, label=label, language=language)
        for language in languages
        for text, label in CANARY[language]
        if label in labels
    ]


def _answer(engine: Engine, work: Work) -> dict[str, float]:
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
        if isinstance(event, Classified):
            return dict(event.scores)
        if not isinstance(event, TextDelta):
            raise ModelError("the model gave no label for a text of the canary")
