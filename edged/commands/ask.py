"""`edged ask`: one request to a running daemon."""

import argparse
import json
import sys
from typing import Any

from edged.commands.answers import exit_code_of, print_chunk, print_result
from edged.commands.options import add_command, add_group, add_timeout, quiet_settings
from edged.errors import ExitCode


def add(commands: Any) -> None:
    """Add the command to the parser."""
    ask = add_command(commands, "ask", _ask, "ask a running daemon once", "edged ask 'I love this phone' --stream")
    ask.add_argument("text", metavar="TEXT", help="the message; - reads standard input")
    ask.add_argument("--task", default="message", help="the task (%(default)s)")
    ask.add_argument("--session", help="continue this conversation")
    ask.add_argument("--stream", action="store_true", help="print words as they come")
    ask.add_argument("--json", action="store_true", help="print the messages as they are on the wire")
    add_group(ask)
    add_timeout(ask)


def _ask(options: argparse.Namespace) -> ExitCode:
    from edged.client import Client

    text = sys.stdin.read() if options.text == "-" else options.text
    fields: dict[str, Any] = {"stream": True} if options.stream else {}
    if options.session:
        fields["session"] = options.session
    settings = quiet_settings(options)
    with Client(settings, timeout=options.timeout, group=options.group, attempts=options.attempts) as client:
        for answer in client.stream(text, task=options.task, **fields):
            if options.json:
                print(json.dumps(answer.body, ensure_ascii=False), flush=True)
            elif answer.is_chunk:
                print_chunk(answer.body)
            else:
                print_result(answer.body, streamed=options.stream)
    return exit_code_of(answer.body)
