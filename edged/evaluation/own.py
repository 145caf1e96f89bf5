"""`edged calibrate`: fits the scores of a task to an operator's own texts, scored by the daemon's own engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edged import build, progress
from edged.engine.own_calibrations import OwnCalibrationFile
from edged.errors import SettingsError
from edged.evaluation.learning import fit
from edged.evaluation.report import Verdict, WayReport, report
from edged.evaluation.run import MakeEngine, classifying, judge, read, shown
from edged.serving.languages import language_asked_in
from edged.settings.schema import Settings
from edged.tasks.calibration import judge_of
from edged.tasks.own_calibration import OwnCalibration, log_scores
from edged.tasks.specs import ClassifySpec, Tasks
from edged.tasks.text import Language

FEWEST = 30  # texts of one language


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What was learned for one language.

    Attributes:
        before: the figures of the texts with the scores as they were.
        after: with what was learned from the other half of the texts, so that no text judges itself.
        skipped: texts whose label is none of the scored ones.
    """

    calibration: OwnCalibration
    before: WayReport
    after: WayReport
    skipped: int


def run(
    settings: Settings,
    *,
    data: Path,
    task: str,
    tasks: Tasks,
    names: Mapping[str, str],
    make_engine: MakeEngine = build.make_engine,
) -> list[Learned]:
    """Score the texts, learn from the scores, and keep what was learned in the folder of the models.

    Raises:
        SettingsError: the file cannot be read or has too few texts, or the task gives no label.
        ModelUnavailable: the model cannot be started.
        RequestError: a text cannot be judged.
    """
    spec = classifying(tasks, task)
    cases = read(data, spec, names=names)
    settings = settings.model_copy(update={"calibration": "static"})
    engine = make_engine(settings, Tasks([spec]))
    by_language: dict[Language, list[Verdict]] = {}
    try:
        with progress.waiting("loading the model"):
            engine.start()
            engine.wait_ready()
        with progress.waiting("judging the texts", has_bar=True):
            for case in shown(cases, "scored"):
                language = language_asked_in(case.text, spec, engine.model, fixed=settings.prompt_language)
                found = judge(engine, spec, case, language=language, calibration=None, with_neutral=None)
                if found.scores:
                    by_language.setdefault(language, []).append(found)
        model = engine.model
    finally:
        engine.stop()
    learned = {
        judge_of(spec, language, model=model.id, weight_format=model.format): learn(spec, language, verdicts)
        for language, verdicts in by_language.items()
        if len(verdicts) >= FEWEST
    }
    if not learned:
        raise SettingsError(f"{data} has too few texts of one language to learn from: {FEWEST} are needed")
    OwnCalibrationFile(settings.model_dir).put({mark: each.calibration for mark, each in learned.items()})
    return [*learned.values()]


def learn(spec: ClassifySpec, language: Language, verdicts: Sequence[Verdict]) -> Learned:
    """Learn from the scores of texts of one language.

    Raises:
        SettingsError: too few texts have a label that is scored.
    """
    labels = tuple(verdicts[0].scores)
    usable = [each for each in verdicts if each.case.label in labels]
    if len(usable) < FEWEST:
        raise SettingsError(f"only {len(usable)} texts have one of the labels {', '.join(labels)}; {FEWEST} are needed")
    halves = [usable[::2], usable[1::2]]
    fits = [_fitted(spec, language, half) for half in halves]
    after = [_corrected(each, fitted) for half, fitted in zip(halves, fits[::-1], strict=True) for each in half]
    return Learned(
        calibration=_fitted(spec, language, usable),
        before=report(usable),
        after=report(after),
        skipped=len(verdicts) - len(usable),
    )


def _fitted(spec: ClassifySpec, language: Language, verdicts: Sequence[Verdict]) -> OwnCalibration:
    labels = tuple(verdicts[0].scores)
    logs = [log_scores(each.scores, labels) for each in verdicts]
    scale, biases = fit(logs, [labels.index(each.case.label) for each in verdicts])
    return OwnCalibration(
        task=spec.name,
        language=language,
        labels=labels,
        scale=round(scale, 4),
        biases=tuple(round(each, 4) for each in biases),
        texts=len(verdicts),
    )


def _corrected(verdict: Verdict, calibration: OwnCalibration) -> Verdict:
    scores = calibration.correct(verdict.scores)
    return replace(verdict, scores=scores, label=max(scores, key=lambda name: scores[name]))


def table(learned: Sequence[Learned]) -> str:
    """What was learned, for people."""
    lines = []
    for each in learned:
        found = each.calibration
        moved = ", ".join(f"{label} {bias:+.2f}" for label, bias in zip(found.labels, found.biases, strict=True))
        lines.append(f"{found.task}, {found.language}: scale {found.scale:.2f}, {moved} ({found.texts} texts)")
        if each.skipped:
            lines.append(f"  {each.skipped} texts have a label that is not scored in this language; they were left out")
        lines.append(f"{'':24}{'accuracy':>9}{'macro F1':>9}{'ECE':>7}")
        for name, way in (("  before", each.before), ("  after, other half", each.after)):
            lines.append(f"{name:24}{way.accuracy:9.3f}{way.macro_f1:9.3f}{way.calibration_error or 0.0:7.3f}")
    lines.append("The daemon uses it with EDGED_CALIBRATION=own.")
    return "\n".join(lines)
