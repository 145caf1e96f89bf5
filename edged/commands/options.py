"""The arguments that several commands have, and the settings made from them."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edged.commands.quick_imports import quick_imports
from edged.errors import ExitCode, SettingsError
from edged.settings.schema import Settings

_RAW = argparse.RawDescriptionHelpFormatter


def add_command(
    commands: Any,
    name: str,
    command: Callable[[argparse.Namespace], ExitCode],
    summary: str,
    example: str,
    *,
    with_settings: bool = True,
) -> argparse.ArgumentParser:
    """Add a command to the parser's commands; gives the parser of its own arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary, epilog=f"example:\n  {example}", formatter_class=_RAW
    )
    parser.set_defaults(command=command)
    if with_settings:
        parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (TOML)")
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="one setting by its dotted name, e.g. mqtt.host=broker.lan; may be repeated",
        )
    return parser


def add_group(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that may ask a group of boxes."""
    parser.add_argument("--group", metavar="NAME", help="ask the boxes of this group instead of this node")
    parser.add_argument(
        "--attempts",
        type=int,
        default=1,
        metavar="N",
        help="send the request up to N times, with the same id, if no answer comes (%(default)s)",
    )


def add_timeout(parser: argparse.ArgumentParser, *, default: float | None = 60.0, meaning: str = "%(default)s") -> None:
    """Add how long a command waits."""
    parser.add_argument("--timeout", type=float, default=default, metavar="S", help=f"seconds to wait ({meaning})")


def count(text: str) -> int:
    """Parse an argument that is a count, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("write a whole number, 1 or more")
    return int(text)


def to_standard_error(warning: str) -> None:
    """Warn the person at the terminal."""
    print(f"edged: warning: {warning}", file=sys.stderr)


def settings_of(options: argparse.Namespace, *, warn: Callable[[str], None] = to_standard_error) -> Settings:
    """The settings from all sources, with those of the command line.

    Args:
        options: the parsed arguments of a command that takes settings.
        warn: gets a line about each odd value that is still allowed.

    Raises:
        SettingsError: a setting is not known or not allowed.
    """
    from edged.settings import load

    return load.load(flags=flags_of(options), config_file=options.config, warn=warn)


def flags_of(options: argparse.Namespace) -> dict[str, str]:
    """The settings of the command line by dotted name.

    Raises:
        SettingsError: one is not written as NAME=VALUE.
    """
    flags: dict[str, str] = {}
    for each in options.set:
        name, equals, value = each.partition("=")
        if not equals:
            raise SettingsError(f"--set {each}: write NAME=VALUE, for example --set mqtt.host=broker.lan")
        flags[name] = value
    # Some commands have an option that sets a setting, as --format sets model.format.
    named = {name: getattr(options, name) for name in getattr(options, "settings", ())}
    return flags | {name: value for name, value in named.items() if value is not None}


def quiet_settings(options: argparse.Namespace) -> Settings:
    """The settings, for a command whose output is for people: only errors are logged."""
    with quick_imports():
        from edged import logs

    settings = settings_of(options)
    logs.configure("error", "console")
    return settings
