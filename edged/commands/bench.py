"""`edged bench`: how fast a model is on this box."""

import argparse
import sys
from typing import Any

from edged.bench.parts import PARTS
from edged.commands.options import add_command, count, quiet_settings
from edged.commands.terminal import print_json
from edged.errors import ExitCode


def add(commands: Any) -> None:
    """Add the command to the parser."""
    example = "edged bench --format bf16 --json > bf16.json"
    bench = add_command(commands, "bench", _bench, "measure a model on this box", example)
    bench.add_argument("--model", dest="model.id", metavar="MODEL", help="preset, hub id, folder or GGUF file")
    bench.add_argument("--format", dest="model.format", metavar="FORMAT", help="how the weights are held")
    bench.add_argument("--threads", dest="engine.threads", metavar="N", help="CPU threads; 0 takes every large core")
    bench.add_argument("--rounds", type=count, default=3, metavar="N", help="times each is measured (%(default)s)")
    bench.add_argument(
        "--only", action="append", choices=PARTS, metavar="PART", help=f"may be repeated: {', '.join(PARTS)}"
    )
    bench.add_argument("--json", action="store_true", help="print the report as JSON")
    bench.add_argument("--schema", action="store_true", help="print the JSON Schema of the report, measure nothing")
    bench.set_defaults(settings=("model.id", "model.format", "engine.threads"))


def _bench(options: argparse.Namespace) -> ExitCode:
    from edged.bench.report import Report, table

    if options.schema:
        print_json(Report.model_json_schema(), indent=2)
        return ExitCode.DONE
    from edged.bench import run as bench

    report = bench.run(
        quiet_settings(options),
        rounds=options.rounds,
        parts=options.only or PARTS,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if options.json:
        print_json(report.model_dump(mode="json"))
    else:
        print(table(report))
    return ExitCode.DONE
