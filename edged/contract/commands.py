"""Control requests: the commands, what each needs and does, and their JSON. Pure.

To add a command, add a row to `COMMANDS`; a field to `ControlBody` if it needs a new one; and, if it acts on a part of
the daemon that no command has acted on, a method to `Box`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from edged.errors import BadRequest, ModelError, RequestError
from edged.tasks.conversation import Turn


class ControlBody(BaseModel):
    """A control request as JSON; an empty payload is an empty object."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    transaction: str | int | None = None
    id: str | None = Field(None, description="cancel: the request's id")
    session: str | None = Field(None, description="forget, session: whose turns")
    level: str | None = Field(None, description="log_level: debug, info, warning or error")


class Box(Protocol):
    """What commands act on."""

    def probe(self, on_done: Callable[[float | None], None]) -> None:
        """Decode one token; `on_done` is called once, with the milliseconds or with None for a failure."""
        ...

    def cancel(self, request_id: str) -> int:
        """Cancel the requests of this id; gives how many there were."""
        ...

    def turns(self, session: str) -> Sequence[Turn]:
        """The conversation so far."""
        ...

    def forget(self, session: str) -> int:
        """Delete a conversation; gives how many turns it had. Raises JournalFault."""
        ...

    def set_log_level(self, level: str) -> None:
        """Raises ValueError for a level that does not exist."""
        ...

    def reload(self) -> Mapping[str, Any]:
        """Read the settings again; gives what was changed and what needs a restart. Raises BadRequest."""
        ...

    def drain(self) -> None:
        """End the daemon in order."""
        ...


Respond = Callable[[Mapping[str, Any] | RequestError], None]  # with the answer's `data`, or why there is none


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What a command needs and does.

    Attributes:
        needs: the field of the body that it cannot do without; its value is handed to `obey`.
        only_now: whether it is meant for the daemon that runs when it is sent, and for no later one.
        obey: acts on a box and responds once.
    """

    obey: Callable[[Box, str, Respond], None]
    needs: Literal["id", "session", "level"] | None = None
    only_now: bool = False

    def needed(self, body: ControlBody) -> str:
        """The value that the command needs; empty if it needs none.

        Raises:
            BadRequest: the body does not have it.
        """
        if self.needs is None:
            return ""
        value: str | None = getattr(body, self.needs)
        if value is None:
            raise BadRequest("this field is required", field=self.needs)
        return value


def _ping(box: Box, _: str, respond: Respond) -> None:
    box.probe(lambda ms: respond(ModelError("no token was decoded") if ms is None else {"ms": ms}))


def _cancel(box: Box, request_id: str, respond: Respond) -> None:
    respond({"cancelled": box.cancel(request_id)})


def _forget(box: Box, session: str, respond: Respond) -> None:
    respond({"turns": box.forget(session)})


def _session(box: Box, session: str, respond: Respond) -> None:
    respond({"turns": [asdict(turn) for turn in box.turns(session)]})


def _log_level(box: Box, level: str, respond: Respond) -> None:
    try:
        box.set_log_level(level)
    except ValueError as error:
        raise BadRequest(str(error), field="level") from error
    respond({"level": level})


def _reload(box: Box, _: str, respond: Respond) -> None:
    respond(box.reload())


def _drain(box: Box, _: str, respond: Respond) -> None:
    respond({"state": "draining"})
    box.drain()


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "ping": Command(obey=_ping),
        "cancel": Command(obey=_cancel, needs="id", only_now=True),
        "forget": Command(obey=_forget, needs="session"),
        "session": Command(obey=_session, needs="session"),
        "log_level": Command(obey=_log_level, needs="level", only_now=True),
        "reload": Command(obey=_reload, only_now=True),
        "drain": Command(obey=_drain, only_now=True),
    }
)
