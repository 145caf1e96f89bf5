"""`edged run`: the daemon."""

import argparse
from typing import Any

from edged.commands.options import add_command, settings_of
from edged.errors import ExitCode


def add(commands: Any) -> None:
    """Add the command to the parser."""
    example = "EDGED_NODE=kitchen edged run --config /etc/edged/edged.toml"
    add_command(commands, "run", _run, "serve until SIGTERM", example)


def _run(options: argparse.Namespace) -> ExitCode:
    from edged import logs
    from edged.daemon import Daemon
    from edged.settings import load

    settings = settings_of(options)
    logs.configure(settings.log.level, settings.log.format)
    return Daemon(settings, load.systemd()).run()
