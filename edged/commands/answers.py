"""What `ask` and `chat` have in common: they check names, connect, and print answers."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edged import progress
from edged.commands.options import quiet_settings
from edged.commands.terminal import print_json
from edged.errors import ExitCode, SettingsError

if TYPE_CHECKING:
    from edged.client import Answer, Client

_EXIT_CODES = {"model_error": ExitCode.MODEL, "busy": ExitCode.BROKER, "shutting_down": ExitCode.BROKER}


def check_names(**names: str | None) -> None:
    """Refuse a name of a task, session or group that cannot be a topic level. None means that no name was given.

    Raises:
        SettingsError: no daemon would answer it.
    """
    from edged.contract.names import MAX_NAME_CHARS
    from edged.contract.topics import is_publishable

    for kind, name in names.items():
        if name is None:
            continue
        if not is_publishable(name) or "/" in name or len(name) > MAX_NAME_CHARS:
            raise SettingsError(
                f"--{kind} {name!r}: it is one level of a topic: 1 to {MAX_NAME_CHARS} characters, no '/', '+', '#' or "
                "control character, and no '$' at the beginning"
            )


@contextlib.contextmanager
def connected(options: argparse.Namespace) -> "Iterator[Client]":
    """Connect a client by the settings and options of a command."""
    settings = quiet_settings(options)
    from edged.client import Client

    client = Client(settings, timeout=options.timeout, group=options.group, attempts=options.attempts)
    with contextlib.ExitStack() as stack:
        with progress.waiting(f"connecting to the broker at {client.where}", lines=False):
            stack.enter_context(client)
        yield client


def until_first(answers: "Iterator[Answer]") -> "Iterator[Answer]":
    """Yield the answers; a terminal shows the waiting for the first."""
    with progress.waiting("waiting for the answer", lines=False):
        first = next(answers)
    yield first
    yield from answers


def exit_code_of(body: Mapping[str, Any]) -> ExitCode:
    """The exit code for an answer, so that a script can tell a result from an error."""
    if body["status"] == "ok":
        return ExitCode.DONE
    return _EXIT_CODES.get(body["error"]["code"], ExitCode.USAGE)


def print_chunk(body: Mapping[str, Any]) -> None:
    """Print a chunk of a streamed answer: a label as a line, the words of a reply without a line end."""
    for name, value in body.items():
        if isinstance(value, Mapping) and "delta" in value:
            print(value["delta"], end="", flush=True)
        elif isinstance(value, Mapping):
            print(_label(name, value), flush=True)


def print_result(body: Mapping[str, Any], *, streamed: bool) -> None:
    """Print a result or error; of a streamed result only the parts that no chunk contained."""
    if body["status"] == "error":
        error = body["error"]
        print(f"error {error['code']}: {error['message']}", file=sys.stderr)
        return
    if streamed:
        print()
    for name, value in body.items():
        if not isinstance(value, Mapping) or (streamed and "data" not in value):
            continue
        if "label" in value:
            print(_label(name, value))
        elif "text" in value:
            print(value["text"])
        elif "data" in value:
            print_json(value["data"])
    timings, usage = body["timings"], body["usage"]
    print(f"[{timings['total_ms']:.0f} ms, {usage['completion_tokens']} tokens]", file=sys.stderr)


def _label(name: str, value: Mapping[str, Any]) -> str:
    return f"{name}: {value['emoji']} {value['label']} ({value['name']}) {value['score']:.2f}".replace("  ", " ")
