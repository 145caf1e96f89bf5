"""`edged chat`: a conversation with a running daemon, at the terminal."""

import argparse
import contextlib
import uuid
from typing import TYPE_CHECKING, Any

from edged.commands.answers import check_names, connected, print_chunk, print_result, until_first
from edged.commands.options import add_command, add_group, add_timeout
from edged.commands.terminal import is_text
from edged.errors import ExitCode, SettingsError

if TYPE_CHECKING:
    from edged.client import Client

_HISTORY = 64  # turns that are sent with each request to a group
_ENDS = {"quit", "exit", "退出", "/quit", "/exit"}
_HELP = """\
/new             begin a new conversation
/session         show this conversation's name
/session NAME    continue another conversation
/help            show this
quit or 退出     end; so does Ctrl-D
Ctrl-C           while an answer comes: cancel it; else: end
Arrow keys edit the line and bring back earlier ones."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    chat = add_command(commands, "chat", _chat, "talk with a running daemon; quit or 退出 ends it", "edged chat")
    chat.add_argument("--session", help="continue this conversation (default: a new one)")
    add_group(chat)
    add_timeout(chat)


def _chat(options: argparse.Namespace) -> ExitCode:
    check_names(session=options.session, group=options.group)
    with contextlib.suppress(ImportError):  # some builds of Python lack readline
        import readline  # noqa: F401 - input() edits lines and remembers them once it is there

    with connected(options) as client:
        print("quit or 退出 ends the talk, /help tells more")
        talk = _Talk(client, session=options.session, of_group=options.group is not None)
        while (text := _read_line()) is not None:
            if not talk.obey(text):
                talk.say(text)
    return ExitCode.DONE


class _Talk:
    """The conversations of one run of the command, one after the other, over one connection."""

    def __init__(self, client: "Client", *, session: str | None, of_group: bool) -> None:
        self._client = client
        self._of_group = of_group
        self._is_named = session is not None
        self._session = session or _new_name()
        self._said: list[dict[str, str]] = []

    def obey(self, text: str) -> bool:
        """Run a command that begins with `/`; False if the line is for the model."""
        command, _, name = text.partition(" ")
        name = name.strip()
        if command == "/session" and name:
            try:
                check_names(session=name)
            except SettingsError as error:
                print(str(error).removeprefix("--"))
                return True
            self._begin(name, is_named=True)
        elif command == "/session":
            print(f"this conversation is the session {self._session}")
        elif command == "/new" and not name:
            self._begin(_new_name(), is_named=False)
        elif command == "/help":
            print(_HELP)
        elif command[:1] == "/" and command[1:].isalpha() and not name:
            print(f"there is no command {command}; /help lists the commands")
        else:
            return False
        return True

    def say(self, text: str) -> None:
        """Send a line to the model and print what it answers; Ctrl-C cancels that."""
        fields: dict[str, Any] = {"session": self._session}
        if self._of_group and not self._is_named:
            # The next turn may go to another box, which does not have this conversation, so the request contains it.
            fields = {"history": self._said}
        try:
            with contextlib.closing(self._client.stream(text, stream=True, **fields)) as answers:
                for answer in until_first(answers):
                    if answer.is_chunk:
                        print_chunk(answer.body)
                    else:
                        print_result(answer.body, streamed=True)
        except KeyboardInterrupt:
            print("\n[cancelled]")
            return
        if "reply" in answer.body:
            reply = answer.body["reply"]["text"]
            self._said += [{"role": "user", "content": text}, {"role": "assistant", "content": reply}]
            del self._said[:-_HISTORY]

    def _begin(self, session: str, *, is_named: bool) -> None:
        self._session = session
        self._is_named = is_named
        self._said.clear()
        print(f"this conversation is the session {session}")


def _new_name() -> str:
    return f"chat-{uuid.uuid4().hex[:8]}"


def _read_line() -> str | None:
    """The next line that is not empty; None at the end of the talk."""
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return None
        except UnicodeDecodeError as error:
            print(f"this line is not {error.encoding}")
            continue
        if text.lower() in _ENDS:
            return None
        if not is_text(text):
            print("this line is not text in the terminal's encoding")
        elif text:
            return text
