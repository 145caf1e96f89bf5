"""`edged chat`: a conversation with a running daemon, at the terminal."""

import argparse
import uuid
from typing import Any

from edged.commands.answers import print_chunk, print_result
from edged.commands.options import add_command, add_group, add_timeout, quiet_settings
from edged.errors import ExitCode

_HISTORY = 64  # turns that are sent with each request to a group


def add(commands: Any) -> None:
    """Add the command to the parser."""
    chat = add_command(commands, "chat", _chat, "talk with a running daemon; quit or 退出 ends it", "edged chat")
    chat.add_argument("--session", help="continue this conversation (default: a new one)")
    add_group(chat)
    add_timeout(chat)


def _chat(options: argparse.Namespace) -> ExitCode:
    from edged.client import Client

    session = options.session or f"chat-{uuid.uuid4().hex[:8]}"
    said: list[dict[str, str]] = []
    settings = quiet_settings(options)
    with Client(settings, timeout=options.timeout, group=options.group, attempts=options.attempts) as client:
        print("quit or 退出 ends the talk")
        while (text := _read_line()) is not None:
            # Of a group, the next box may not know what was said to this one: the request brings it along.
            fields = {"session": session} if options.group is None or options.session else {"history": said}
            for answer in client.stream(text, stream=True, **fields):
                if answer.is_chunk:
                    print_chunk(answer.body)
                else:
                    print_result(answer.body, streamed=True)
            if "reply" in answer.body:
                said += [
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": answer.body["reply"]["text"]},
                ]
                del said[:-_HISTORY]
    return ExitCode.DONE


def _read_line() -> str | None:
    """The next line that is not empty; None at the end of the talk."""
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return None
        if text.lower() in {"quit", "exit", "退出"}:
            return None
        if text:
            return text
