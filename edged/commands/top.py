"""`edged top`: the daemons of a broker, live in a terminal; `top_view.py` draws them."""

import argparse
from typing import Any

from edged.commands.options import add_command, add_timeout, quiet_settings
from edged.errors import ExitCode, SettingsError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    top = add_command(commands, "top", _top, "watch the daemons of a broker", "edged top --once")
    top.add_argument("--once", action="store_true", help="print what is known now, and end")
    add_timeout(top)


def _top(options: argparse.Namespace) -> ExitCode:
    try:
        from edged.commands import top_view
    except ImportError:
        raise SettingsError("edged top draws with rich, which is not installed: pip install 'edged[top]'") from None

    top_view.run(quiet_settings(options), timeout=options.timeout, once=options.once)
    return ExitCode.DONE
