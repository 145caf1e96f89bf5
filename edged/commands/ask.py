"""`edged ask`: one request to a running daemon."""

import argparse
import contextlib
from typing import Any

from edged.commands.answers import check_names, connected, exit_code_of, print_chunk, print_result, until_first
from edged.commands.options import add_command, add_group, add_timeout
from edged.commands.terminal import print_json, read_all
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
    check_names(task=options.task, session=options.session, group=options.group)
    text = read_all() if options.text == "-" else options.text
    fields: dict[str, Any] = {"stream": True} if options.stream else {}
    if options.session is not None:
        fields["session"] = options.session
    with (
        connected(options) as client,
        contextlib.closing(client.stream(text, task=options.task, **fields)) as answers,
    ):
        for answer in until_first(answers):
            if options.json:
                print_json(answer.body)
            elif answer.is_chunk:
                print_chunk(answer.body)
            else:
                print_result(answer.body, streamed=options.stream)
    return exit_code_of(answer.body)
