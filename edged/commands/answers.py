"""A daemon's answers as lines of a terminal, for `ask` and `chat`."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from edged.errors import ExitCode

_EXIT_CODES = {"model_error": ExitCode.MODEL, "busy": ExitCode.BROKER, "shutting_down": ExitCode.BROKER}


def exit_code_of(body: Mapping[str, Any]) -> ExitCode:
    """The exit code that tells a script what the answer was."""
    if body["status"] == "ok":
        return ExitCode.DONE
    return _EXIT_CODES.get(body["error"]["code"], ExitCode.USAGE)


def print_chunk(body: Mapping[str, Any]) -> None:
    """Print a chunk of a streamed answer: a label as a line, words of a reply as they come."""
    for name, value in body.items():
        if isinstance(value, Mapping) and "delta" in value:
            print(value["delta"], end="", flush=True)
        elif isinstance(value, Mapping):
            print(_label(name, value), flush=True)


def print_result(body: Mapping[str, Any], *, streamed: bool) -> None:
    """Print a result or error; of a streamed result only what no chunk has told."""
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
            print(json.dumps(value["data"], ensure_ascii=False))
    timings, usage = body["timings"], body["usage"]
    print(f"[{timings['total_ms']:.0f} ms, {usage['completion_tokens']} tokens]", file=sys.stderr)


def _label(name: str, value: Mapping[str, Any]) -> str:
    return f"{name}: {value['emoji']} {value['label']} ({value['name']}) {value['score']:.2f}".replace("  ", " ")
