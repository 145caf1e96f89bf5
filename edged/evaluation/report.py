"""The data of `edged eval`: labelled texts, the label that a task gave each, and the figures made from these. Pure.

The calibration error is that of Guo et al. 2017 (expected calibration error over equal bins of confidence).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from edged.errors import SettingsError
from edged.tasks.specs import ClassifySpec, Label

T = TypeVar("T")

BINS = 10
_SHOWN = 0.05  # a difference counts as shown where chance alone gives one as large less often than this
UNREADABLE = "unreadable"  # stands for a text that got no label, or several
_NUMBERED = {"0": "negative", "1": "positive"}  # as SST-2, ChnSentiCorp and others have it


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A text and the label it should get, by canonical name."""

    text: str
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The label and scores that a text got; `scores` is empty if nothing was scored."""

    case: Case
    label: str
    scores: Mapping[str, float]
    seconds: float
    is_called_neutral: bool = False  # in a result of the daemon, also where the data have no neutral texts

    @property
    def is_right(self) -> bool:
        return self.label == self.case.label

    @property
    def confidence(self) -> float:
        return self.scores[self.label]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LabelReport(_Record):
    """The figures of one label."""

    texts: int
    precision: float | None = Field(description="Null if nothing got this label.")
    recall: float | None = Field(description="Null if nothing has it.")
    f1: float


class WayReport(_Record):
    """The figures of one way to label the texts."""

    accuracy: float
    macro_f1: float
    calibration_error: float | None = Field(description="Expected, of the texts that were scored; null for none.")
    unreadable: int = Field(
        description="Texts that were given no label (too long for the model), or several; they count as wrong."
    )
    called_neutral: int = Field(
        0,
        description="Texts that the daemon would call neutral. Where no text of the data is neutral, accuracy counts "
        "the better of the other labels.",
    )
    seconds_per_text: float = Field(description="Median, one text at a time.")
    mean_seconds_per_text: float = Field(
        description="Mean; a text in doubt takes longer, because further prompts are asked."
    )
    labels: dict[str, LabelReport]
    confusion: dict[str, dict[str, int]] = Field(description="True label, then given label, then texts.")


class Comparison(_Record):
    """The figures of a second way on the same texts, held against those of the first."""

    changed: dict[str, str] = Field(description="What differs from the first way: settings by name, and the task.")
    model: str
    format: str
    scored: WayReport
    only_first_right: int = Field(description="Texts that the first way labels right and the second wrong.")
    only_second_right: int
    p_value: float = Field(description="McNemar's exact test, two-sided.")


class EvalReport(_Record):
    """The report of `edged eval`."""

    schema_version: int = 1
    version: str
    task: str
    data: str
    texts: int
    model: str
    format: str
    calibration: str = Field(description="static, or running: the texts before each one count too.")
    scored: WayReport
    baseline: WayReport | None = Field(description="Generate, then look for the word: the way of most examples.")
    compared: Comparison | None = Field(None, description="A second way, where one was asked for.")


# ----------------------------------------------------------------------------------------------------------- data


def labelled(text: str, spec: ClassifySpec, *, names: Mapping[str, str], source: str) -> list[Case]:
    """Labelled texts: two columns with a tab between them, text and label in either order, a header or none.

    Args:
        text: the file's content.
        spec: its labels are known by canonical name, by their names in each language, and by 0 and 1 where they are
            negative and positive.
        names: further names of labels, to canonical names.
        source: the name of the file in error messages.

    Raises:
        SettingsError: a line cannot be read so; the message names the line.
    """
    known = _known_names(spec) | dict(names)
    if wrong := sorted({*names.values()} - {*_canonical(spec)}):
        raise SettingsError(f"--labels: the task has no label {', '.join(wrong)}; it has {', '.join(_canonical(spec))}")
    rows = list(_rows(text, source))
    column = _label_column(rows, known, source)
    first = 0 if _fold(rows[0][1][column]) in known else 1  # else it is a header
    cases: list[Case] = []
    for number, row in rows[first:]:
        label = known.get(_fold(row[column]))
        if label is None:
            raise SettingsError(
                f"{source}, line {number}: {row[column][:40]!r} is no label; there are {', '.join(known)}: say which "
                "is which with --labels, as in --labels bad=negative,good=positive"
            )
        cases.append(Case(text=row[1 - column], label=label))
    return cases


def spread(cases: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` cases, evenly over the whole: a file may be sorted."""
    if limit is None or limit >= len(cases):
        return [*cases]
    return [cases[i * len(cases) // limit] for i in range(limit)]


def _rows(text: str, source: str) -> Iterator[tuple[int, list[str]]]:
    found = False
    # Not splitlines: texts have other line ends of Unicode in them.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = line.rstrip("\r").split("\t")
        if len(row) != 2:
            raise SettingsError(
                f"{source}, line {number} has {len(row)} columns; text and label are two, with a tab between them"
            )
        found = True
        yield number, row
    if not found:
        raise SettingsError(f"{source} is empty")


def _label_column(rows: Sequence[tuple[int, list[str]]], known: Mapping[str, str], source: str) -> int:
    """The column with the labels: the one in which most values are known labels."""
    hits = [sum(_fold(row[column]) in known for _, row in rows) for column in (0, 1)]
    if max(hits) == 0:
        few = [*dict.fromkeys(row[1] for _, row in rows)][:3]
        raise SettingsError(
            f"{source} has no column of labels; known are {', '.join(known)}. Say which is which with --labels, as in "
            f"--labels bad=negative,good=positive (the second column begins: {', '.join(map(repr, few))})"
        )
    return hits.index(max(hits))


def _known_names(spec: ClassifySpec) -> dict[str, str]:
    labels = _labels(spec)
    names = {_fold(name): each.canonical for each in labels for name in (each.canonical, *each.names.values())}
    numbered = {number: label for number, label in _NUMBERED.items() if label in _canonical(spec)}
    return (numbered if len(numbered) == len(_NUMBERED) else {}) | names


def _labels(spec: ClassifySpec) -> list[Label]:
    return [*spec.labels, *([spec.neutral] if spec.neutral else [])]


def _canonical(spec: ClassifySpec) -> list[str]:
    return [each.canonical for each in _labels(spec)]


def _fold(text: str) -> str:
    return text.strip().casefold()


# --------------------------------------------------------------------------------------------------------- figures


def report(verdicts: Sequence[Verdict]) -> WayReport:
    """Compute the figures of all verdicts."""
    names = sorted({each.case.label for each in verdicts} | {each.label for each in verdicts} - {UNREADABLE})
    labels = {name: _label_report(name, verdicts) for name in names}
    true = {each.case.label for each in verdicts}
    scored = [each for each in verdicts if each.scores]
    return WayReport(
        accuracy=_share(sum(each.is_right for each in verdicts), len(verdicts)),
        # Over the labels that the data have: one that is in none of the texts has no recall.
        macro_f1=round(sum(labels[name].f1 for name in true) / len(true), 4),
        calibration_error=calibration_error(scored) if scored else None,
        unreadable=sum(each.label == UNREADABLE for each in verdicts),
        called_neutral=sum(each.is_called_neutral for each in verdicts),
        seconds_per_text=round(sorted(each.seconds for each in verdicts)[len(verdicts) // 2], 5),
        mean_seconds_per_text=round(sum(each.seconds for each in verdicts) / len(verdicts), 5),
        labels=labels,
        confusion={name: dict(_given(name, verdicts)) for name in sorted(true)},
    )


def calibration_error(verdicts: Sequence[Verdict]) -> float:
    """The mean difference between confidence and accuracy, over `BINS` equal bins of confidence."""
    bins: dict[int, list[Verdict]] = {}
    for each in verdicts:
        bins.setdefault(min(int(each.confidence * BINS), BINS - 1), []).append(each)
    gaps = (abs(sum(e.is_right for e in some) - sum(e.confidence for e in some)) for some in bins.values())
    return round(sum(gaps) / len(verdicts), 4)


def _label_report(name: str, verdicts: Sequence[Verdict]) -> LabelReport:
    hits = sum(each.label == each.case.label == name for each in verdicts)
    given = sum(each.label == name for each in verdicts)
    true = sum(each.case.label == name for each in verdicts)
    return LabelReport(
        texts=true,
        precision=_share(hits, given) if given else None,
        recall=_share(hits, true) if true else None,
        f1=_share(2 * hits, given + true),
    )


def _given(name: str, verdicts: Sequence[Verdict]) -> Counter[str]:
    return Counter(each.label for each in verdicts if each.case.label == name)


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4)


def table(found: EvalReport) -> str:
    """The report for people."""
    ways = {"scored": found.scored} | ({} if found.baseline is None else {"generate and parse": found.baseline})
    if found.compared is not None:
        ways["second way"] = found.compared.scored
    run = f"{found.model}, {found.format}, {found.calibration} calibration"
    lines = [f"{found.task} on {found.data}: {found.texts} texts, {run}", ""]
    lines.append(f"{'':20}{'accuracy':>9}{'macro F1':>9}{'ECE':>7}{'unreadable':>11}{'ms/text':>9}{'mean':>7}")
    for name, way in ways.items():
        error = "–" if way.calibration_error is None else f"{way.calibration_error:.3f}"
        times = f"{1000 * way.seconds_per_text:9.1f}{1000 * way.mean_seconds_per_text:7.1f}"
        lines.append(f"{name:20}{way.accuracy:9.3f}{way.macro_f1:9.3f}{error:>7}{way.unreadable:11}{times}")
    if found.scored.called_neutral:
        share = found.scored.called_neutral / found.texts
        lines += ["", f"called neutral where that is an answer: {found.scored.called_neutral} ({share:.1%})"]
    if found.compared is not None:
        changed = ", ".join(f"{name}={value}" for name, value in found.compared.changed.items())
        lines += ["", f"second way: {changed}; {in_words(found.compared)}"]
    for name, way in ways.items():
        columns = sorted({label for row in way.confusion.values() for label in row})
        lines += ["", f"{name}: texts by true label (rows) and given label"]
        lines.append(f"{'':20}" + "".join(f"{label:>12}" for label in columns))
        for true, row in way.confusion.items():
            lines.append(f"{true:20}" + "".join(f"{row.get(label, 0):12}" for label in columns))
    return "\n".join(lines)


def in_words(found: Comparison) -> str:
    """The result of the test for people."""
    one, other = found.only_first_right, found.only_second_right
    lines = [f"Only the first way is right about {one} texts, only the second about {other}."]
    if one == other:
        lines.append("No difference is shown.")
        return " ".join(lines)
    lines.append(f"If both were equally good, chance alone would divide them so unevenly with p = {found.p_value:.2g}.")
    if found.p_value >= _SHOWN:
        lines.append("So no difference is shown: more texts would be needed.")
    else:
        lines.append(f"So the {'first' if one > other else 'second'} way is better on texts like these.")
    return " ".join(lines)
