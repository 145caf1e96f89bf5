"""`edged config`: the settings, explained or in force."""

import argparse
from typing import Any

from edged.commands.options import add_command, flags_of, to_standard_error
from edged.commands.terminal import print_json, print_toml
from edged.errors import ExitCode


def add(commands: Any) -> None:
    """Add the command to the parser."""
    example = "edged config --example > edged.toml"
    config = add_command(commands, "config", _config, "show or explain settings", example)
    what = config.add_mutually_exclusive_group(required=True)
    what.add_argument("--example", action="store_true", help="a settings file with every setting and its meaning")
    what.add_argument("--show", action="store_true", help="the settings in force, each with its source, secrets masked")
    what.add_argument("--schema", action="store_true", help="the JSON Schema of the settings")


def _config(options: argparse.Namespace) -> ExitCode:
    from edged.settings import load, text

    if options.example:
        print_toml(text.example())
    elif options.schema:
        print_json(text.schema(), indent=2)
    else:
        found = load.load_with_sources(flags=flags_of(options), config_file=options.config, warn=to_standard_error)
        print_toml(text.show(found.settings, found.given.source))
    return ExitCode.DONE
