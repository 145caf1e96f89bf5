"""The command line: the parser of all commands, and `main`.

Each command is a file of this folder: its arguments and what it does. A command imports what it needs when it runs, so
that `--help` is quick.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence

from edged import __version__
from edged.commands import (
    ask,
    asyncapi,
    backup,
    bench,
    calibrate,
    chat,
    check,
    config,
    demo,
    eval,  # noqa: A004
    models,
    run,
    terminal,
    top,
)
from edged.errors import EdgedError, ExitCode, FatalError

# In the order of --help.
_COMMANDS = (run, demo, ask, chat, check, top, models, bench, eval, calibrate, config, backup, asyncapi)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit code (`edged.errors.ExitCode`)."""
    terminal.accept_all_characters()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        terminal.discard_output()  # else Python flushes again when it exits, and fails
        return ExitCode.INTERRUPTED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except FatalError as error:
        print(f"edged: {error}", file=sys.stderr)
        return error.exit_code
    except EdgedError as error:
        print(f"edged: {error}", file=sys.stderr)
        return ExitCode.BUG
    except Exception:  # noqa: BLE001 - the top of the main thread: a bug has an exit code too
        traceback.print_exc()
        return ExitCode.BUG


def _run(arguments: Sequence[str] | None) -> ExitCode:
    options = parser().parse_args(arguments)
    terminal.check_arguments(vars(options))
    command: Callable[[argparse.Namespace], ExitCode] = options.command
    return command(options)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    root = argparse.ArgumentParser(
        prog="edged",
        description="One small language model, many tasks, over MQTT.",
        epilog="exit codes: 0 done, 2 usage or settings, 3 model, 4 broker, 5 interrupted work, 70 a bug",
    )
    root.add_argument("--version", action="version", version=f"edged {__version__}")
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for each in _COMMANDS:
        each.add(commands)
    return root
