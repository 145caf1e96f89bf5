"""`edged check`: checks whether everything that a daemon needs is there; the checks are in `checks.py`."""

import argparse
from typing import Any

from edged.commands.options import add_command, add_timeout, quiet_settings
from edged.errors import ExitCode


def add(commands: Any) -> None:
    """Add the command to the parser."""
    check = add_command(commands, "check", _check, "try settings, model and broker; say what to fix", "edged check")
    add_timeout(check, default=None, meaning="5; 60 where a daemon is there")


def _check(options: argparse.Namespace) -> ExitCode:
    from edged.commands import checks

    return checks.run(quiet_settings(options), timeout=options.timeout, say=print)
