"""`edged eval`: measures how right the answers of a task are, on texts with what is expected."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edged.commands.options import add_command, count, quiet_settings
from edged.commands.terminal import print_json
from edged.errors import ExitCode, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from edged.evaluation.run import Way
    from edged.settings.schema import Settings
    from edged.tasks.case_file import Case
    from edged.tasks.specs import Tasks


def add(commands: Any) -> None:
    """Add the command to the parser."""
    example = "edged eval --data reviews.tsv --task sentiment --baseline"
    parser = add_command(commands, "eval", _eval, "measure how right a task is, on texts of your own", example)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="text and label with a tab between, in either order; for a task that writes, text and references; for one "
        "that extracts, text and an object as JSON; for a composition, text and an object with what each part gives",
    )
    parser.add_argument("--task", default="sentiment", help="(%(default)s)")
    parser.add_argument(
        "--labels",
        type=label_names,
        default={},
        metavar="NAME=LABEL,…",
        help="what the file calls the labels",
    )
    parser.add_argument("--limit", type=count, metavar="N", help="only N texts, spread over the file")
    parser.add_argument(
        "--baseline",
        action="store_true",
        help="compare with a model that writes its answer, in which the label is looked for",
    )
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="label the texts a second time with this setting, or with task=NAME, and tell which way is better; may be "
        "repeated",
    )
    parser.add_argument("--model", dest="model.id", metavar="MODEL", help="preset, hub id, folder or GGUF file")
    parser.add_argument("--format", dest="model.format", metavar="FORMAT", help="how the weights are held")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="write the texts with what is expected of them to a file that models.canary takes",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(settings=("model.id", "model.format"))


def label_names(text: str) -> dict[str, str]:
    """Read what a file calls the labels, for argparse."""
    pairs = [each.partition("=") for each in text.split(",")]
    if not all(name.strip() and label.strip() for name, _, label in pairs):
        raise argparse.ArgumentTypeError("write NAME=LABEL,NAME=LABEL, as in bad=negative,good=positive")
    names = {name.strip().casefold(): label.strip() for name, _, label in pairs}
    if len(names) < len(pairs):
        raise argparse.ArgumentTypeError("a name is given twice")
    return names


def _second(options: argparse.Namespace) -> "Way":
    """The second way to label the texts: that of the other arguments, with the changes of `--compare`."""
    from edged.evaluation.run import Way

    changed = {}
    for each in options.compare:
        name, equals, value = each.partition("=")
        if not equals:
            raise SettingsError(f"--compare {each}: write NAME=VALUE, for example --compare model.format=int4")
        changed[name] = value
    settings = {name: value for name, value in changed.items() if name != "task"}
    # An option that sets a setting, as --format does, has more weight than --set.
    kept = {name: getattr(options, name) for name in options.settings if name not in settings}
    other = argparse.Namespace(**vars(options) | dict.fromkeys(options.settings) | kept)
    other.set = [*options.set, *(f"{name}={value}" for name, value in settings.items())]
    return Way(settings=quiet_settings(other), task=changed.get("task", options.task), changed=changed)


def _eval(options: argparse.Namespace) -> ExitCode:
    from edged.evaluation import parts
    from edged.tasks.own import tasks_of

    settings = quiet_settings(options)
    tasks = tasks_of(settings.tasks, settings.languages)
    if parts.is_for(tasks, options.task):
        return _eval_parts(options, settings, tasks)
    return _eval_labels(options, settings, tasks)


def _eval_labels(options: argparse.Namespace, settings: "Settings", tasks: "Tasks") -> ExitCode:
    """A task that gives one label."""
    from edged.evaluation import run as evaluation
    from edged.evaluation.report import table
    from edged.tasks.case_file import Case

    report = evaluation.run(
        settings,
        data=options.data,
        task=options.task,
        tasks=tasks,
        names=options.labels,
        limit=options.limit,
        baseline=options.baseline,
        against=_second(options) if options.compare else None,
    )
    _print(options, report, table(report))
    if options.save is not None:
        spec = evaluation.classifying(tasks, options.task)
        labelled = evaluation.cases_of(options.data, spec, names=options.labels, limit=options.limit)
        cases = [Case(text=each.text, expected={spec.name: each.label}) for each in labelled]
        _save(options.save, cases, task=options.task, model=report.model, score=report.scored.accuracy)
    return ExitCode.DONE


def _eval_parts(options: argparse.Namespace, settings: "Settings", tasks: "Tasks") -> ExitCode:
    """A task that writes, extracts or is composed."""
    from edged.evaluation import parts

    if options.baseline or options.labels:
        raise SettingsError("--baseline and --labels are for tasks that give a label")
    report, cases = parts.run(
        settings,
        data=options.data,
        task=options.task,
        tasks=tasks,
        limit=options.limit,
        against=_second(options) if options.compare else None,
    )
    _print(options, report, parts.table(report))
    if options.save is not None:
        _save(options.save, cases, task=options.task, model=report.model, score=report.score)
    return ExitCode.DONE


def _print(options: argparse.Namespace, report: "BaseModel", table: str) -> None:
    if options.json:
        print_json(report.model_dump(mode="json"))
    else:
        print(table)


def _save(path: Path, cases: "Sequence[Case]", *, task: str, model: str, score: float) -> None:
    from edged.tasks.case_file import CaseFile

    try:
        path.write_text(CaseFile.of(cases, task=task, model=model, score=score).model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise SettingsError(f"--save {path}: {error.strerror}") from error
    print(
        f"{path}: {len(cases)} texts with what is expected of {task}; with models.canary set to it, each new model "
        "of the daemon is judged by them",
        file=sys.stderr,
    )
