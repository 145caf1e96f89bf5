"""`edged calibrate`: fits the scores of a task to an operator's own texts."""

import argparse
from pathlib import Path
from typing import Any

from edged.commands.eval import label_names
from edged.commands.options import add_command, quiet_settings
from edged.errors import ExitCode


def add(commands: Any) -> None:
    """Add the command to the parser."""
    example = "edged calibrate --data my_texts.tsv"
    parser = add_command(commands, "calibrate", _calibrate, "fit the scores of a task to texts of your own", example)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="text and label with a tab between, in either order"
    )
    parser.add_argument("--task", default="sentiment", help="a task that gives labels (%(default)s)")
    parser.add_argument(
        "--labels", type=label_names, default={}, metavar="NAME=LABEL,…", help="what the file calls the labels"
    )
    parser.add_argument("--model", dest="model.id", metavar="MODEL", help="preset, hub id, folder or GGUF file")
    parser.set_defaults(settings=("model.id",))


def _calibrate(options: argparse.Namespace) -> ExitCode:
    from edged.evaluation import own
    from edged.tasks.own import tasks_of

    settings = quiet_settings(options)
    learned = own.run(
        settings,
        data=options.data,
        task=options.task,
        tasks=tasks_of(settings.tasks, settings.languages),
        names=options.labels,
    )
    print(own.table(learned))
    return ExitCode.DONE
