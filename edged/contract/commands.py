"""Control requests: the commands, what each needs and does, and their JSON. Pure.

To add a command, add a row to `COMMANDS`; a field to `ControlBody` if it needs a new one; and, if it acts on a part of
the daemon that no command has acted on, a method to `Box`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from edged.contract.owners import conversation_of
from edged.errors import BadRequest, ModelError, RequestError
from edged.tasks.conversation import Turn

T = TypeVar("T")


class ControlBody(BaseModel):
    """A control request as JSON; an empty payload is an empty object."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    transaction: str | int | None = None
    id: str | None = Field(None, description="cancel: the request's id; model: the model's")
    session: str | None = Field(None, description="forget, session: whose turns")
    owner: str | None = Field(
        None,
        description="forget, session, cancel: whose session or request, where sessions belong to users; a user's own "
        "topic says it",
    )
    level: str | None = Field(None, description="log_level: debug, info, warning or error")
    action: str | None = Field(None, description="model: status, pull, switch or rollback; `id` names the model")
    url: str | None = Field(
        None, description="model, pull: where an exported bundle is, below models.sources; `id` is what to call it"
    )
    sha256: str | None = Field(None, description="model, pull with `url`: of the bundle's file, in hexadecimal")
    journal: bool = Field(
        default=False, description="backup: whether results and conversations are in it; they may be too large to send"
    )
    options: dict[str, Any] | None = Field(
        None, description="options: settings to change, as a JSON Merge Patch; null takes a change back"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOrder:
    """What is to be done about the model; see the fields of `ControlBody`."""

    action: str
    id: str | None = None
    url: str | None = None
    sha256: str | None = None


class Box(Protocol):
    """What commands act on."""

    def probe(self, on_done: Callable[[float | None], None]) -> None:
        """Decode one token; `on_done` is called once, with the milliseconds or with None for a failure."""
        ...

    def cancel(self, request_id: str, owner: str | None) -> int:
        """Cancel the requests of this id, or those of them that are this owner's; gives how many there were."""
        ...

    def turns(self, conversation: str) -> Sequence[Turn]:
        """The conversation so far."""
        ...

    def forget(self, conversation: str) -> int:
        """Delete a conversation; gives how many turns it had. Raises JournalFault."""
        ...

    def set_log_level(self, level: str) -> None:
        """Raises ValueError for a level that does not exist."""
        ...

    def reload(self, respond: "Respond") -> None:
        """Read the settings again; responds with what was changed and what needs a restart, or with why nothing was."""
        ...

    def change_options(self, patch: Mapping[str, Any], respond: "Respond") -> None:
        """Change settings; responds as `reload` does, with all options that are set now."""
        ...

    def tasks(self) -> Mapping[str, Any]:
        """The tasks in force with their prompts, by name; see `tasks.shown`."""
        ...

    def change_model(self, order: "ModelOrder", respond: "Respond") -> None:
        """Look at the model, fetch one, switch to one, or go back; responds when that has begun.

        Raises RequestError.
        """
        ...

    def backup(self, respond: "Respond", *, with_journal: bool) -> None:
        """Make a backup; responds with it as `zip`, in base64."""
        ...

    def drain(self) -> None:
        """End the daemon in order."""
        ...


Respond = Callable[[Mapping[str, Any] | RequestError], None]  # with the answer's `data`, or why there is none


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What a command needs and does.

    Attributes:
        only_now: whether it is meant for the daemon that runs when it is sent, and for no later one.
        is_users: whether a user may give it for what is its own, where sessions belong to users.
        obey: acts on a box and responds once. Raises BadRequest if the body lacks a field that the command needs.
    """

    obey: Callable[[Box, ControlBody, Respond], None]
    only_now: bool = False
    is_users: bool = False


def _needed(value: T | None, field: str) -> T:
    if value is None:
        raise BadRequest("this field is required", field=field)
    return value


def _conversation(body: ControlBody) -> str:
    """The conversation that a command names; a user that names no session means its first."""
    return conversation_of(_needed(body.session or body.owner, "session"), body.owner)


def _ping(box: Box, _: ControlBody, respond: Respond) -> None:
    box.probe(lambda ms: respond(ModelError("no token was decoded") if ms is None else {"ms": ms}))


def _cancel(box: Box, body: ControlBody, respond: Respond) -> None:
    respond({"cancelled": box.cancel(_needed(body.id, "id"), body.owner)})


def _forget(box: Box, body: ControlBody, respond: Respond) -> None:
    respond({"turns": box.forget(_conversation(body))})


def _session(box: Box, body: ControlBody, respond: Respond) -> None:
    respond({"turns": [asdict(turn) for turn in box.turns(_conversation(body))]})


def _log_level(box: Box, body: ControlBody, respond: Respond) -> None:
    level = _needed(body.level, "level")
    try:
        box.set_log_level(level)
    except ValueError as error:
        raise BadRequest(str(error), field="level") from error
    respond({"level": level})


def _reload(box: Box, _: ControlBody, respond: Respond) -> None:
    box.reload(respond)


def _options(box: Box, body: ControlBody, respond: Respond) -> None:
    box.change_options(body.options or {}, respond)


def _tasks(box: Box, _: ControlBody, respond: Respond) -> None:
    respond({"tasks": box.tasks()})


def _model(box: Box, body: ControlBody, respond: Respond) -> None:
    action = _needed(body.action, "action")
    box.change_model(ModelOrder(action=action, id=body.id, url=body.url, sha256=body.sha256), respond)


def _backup(box: Box, body: ControlBody, respond: Respond) -> None:
    box.backup(respond, with_journal=body.journal)


def _drain(box: Box, _: ControlBody, respond: Respond) -> None:
    respond({"state": "draining"})
    box.drain()


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "ping": Command(obey=_ping),
        "cancel": Command(obey=_cancel, only_now=True, is_users=True),
        "forget": Command(obey=_forget, is_users=True),
        "session": Command(obey=_session, is_users=True),
        "log_level": Command(obey=_log_level, only_now=True),
        "reload": Command(obey=_reload, only_now=True),
        "options": Command(obey=_options),
        "tasks": Command(obey=_tasks),
        "model": Command(obey=_model, only_now=True),
        "backup": Command(obey=_backup, only_now=True),
        "drain": Command(obey=_drain, only_now=True),
    }
)
