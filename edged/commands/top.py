"""`edged top`: the daemons of a broker, live in a terminal; `top_view.py` draws them."""

import argparse
from typing import Any

from edged import extras
from edged.commands.options import add_command, add_timeout, quiet_settings
from edged.errors import ExitCode, SettingsError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    top = add_command(commands, "top", _top, "watch the daemons of a broker", "edged top --once")
    top.add_argument("--once", action="store_true", help="print what is known now, and end")
    add_timeout(top)


def _top(options: argparse.Namespace) -> ExitCode:
    if extras.is_missing("top"):
        raise SettingsError(f"edged top needs the library rich: {extras.how_to_install('top')}")
    from edged.commands import top_view

    top_view.run(quiet_settings(options), timeout=options.timeout, once=options.once)
    return ExitCode.DONE
