"""`edged config`: the settings, explained or in force."""

import argparse
from typing import Any

from edged.commands.options import add_command, settings_of
from edged.commands.terminal import print_json, print_toml
from edged.errors import ExitCode
from edged.settings import text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    example = "edged config --example > edged.toml"
    config = add_command(commands, "config", _config, "show or explain settings", example)
    what = config.add_mutually_exclusive_group(required=True)
    what.add_argument("--example", action="store_true", help="a settings file with every setting and its meaning")
    what.add_argument("--show", action="store_true", help="the settings in force, secrets masked")
    what.add_argument("--schema", action="store_true", help="the JSON Schema of the settings")


def _config(options: argparse.Namespace) -> ExitCode:
    if options.example:
        print_toml(text.example())
    elif options.schema:
        print_json(text.schema(), indent=2)
    else:
        print_toml(text.show(settings_of(options)))
    return ExitCode.DONE
