"""`edged asyncapi`: the contract with the outside, for programs."""

import argparse
from typing import Any

from edged.commands.options import add_command
from edged.commands.terminal import print_json
from edged.errors import ExitCode


def add(commands: Any) -> None:
    """Add the command to the parser."""
    summary, example = "the contract with the outside, as AsyncAPI 3", "edged asyncapi > asyncapi.json"
    add_command(commands, "asyncapi", _asyncapi, summary, example, with_settings=False)


def _asyncapi(_: argparse.Namespace) -> ExitCode:
    from edged.contract import asyncapi

    print_json(asyncapi.document(), indent=2)
    return ExitCode.DONE
