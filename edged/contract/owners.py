"""Whose a conversation is, where sessions belong to somebody. Pure.

A session of one owner is another conversation than a session of the same name of another owner, so nobody can read,
continue, forget or cancel what is another's. The broker vouches for the owner: its access list lets a user write only
to topics with its own name in them, or it adds a user property with the user's name to each message.
"""

from dataclasses import dataclass
from typing import Literal

from edged.contract.names import checked_name
from edged.contract.senders import property_of
from edged.errors import BadRequest
from edged.ports.link import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnerRule:
    """Where the owner of a session stands.

    Attributes:
        kind: `none`: sessions belong to nobody. `topic`: to the level below the task. `user_property`: to the user
            property `name`, the last one if there are several.
    """

    kind: Literal["none", "topic", "user_property"] = "none"
    name: str = ""

    def session(self, message: Message, *, in_topic: str | None, in_body: str | None) -> tuple[str | None, str | None]:
        """The session and the owner of a request.

        Args:
            message: as it came.
            in_topic: the levels below the task.
            in_body: the session that the JSON names.

        Raises:
            BadRequest: the session cannot be a name, the two differ, or it has no owner.
        """
        if self.kind == "topic":
            if in_topic is None:
                if in_body is not None:
                    raise BadRequest("sessions belong to users here: send it to …/in/<task>/<user>", field="session")
                return None, None
            owner = checked_name(in_topic, field="session")
            return in_body or owner, owner
        session = checked_session(in_topic, in_body)
        owner_told = self.owner(message)
        if self.kind == "user_property" and session is not None and owner_told is None:
            raise BadRequest(
                f"sessions belong to users here: the broker adds no user property {self.name}", field="session"
            )
        return session, owner_told

    def owner(self, message: Message) -> str | None:
        """The owner that a user property names; None if owners stand elsewhere."""
        told = property_of(message, self.name) if self.kind == "user_property" else None
        return None if told is None or not told or told.startswith(ROUTES) else told


ROUTES = "/"  # before the name of a route of the settings, which owns its sessions: no user's name begins so


def conversation_of(session: str, owner: str | None) -> str:
    """The name by which the turns of a session are kept. A user's own name alone names its first session."""
    return session if owner in {None, session} else f"{owner}/{session}"


def checked_session(in_topic: str | None, in_body: str | None) -> str | None:
    """The session that the topic or the JSON names.

    Raises:
        BadRequest: it cannot be a name, or the two differ.
    """
    if in_topic is None:
        return in_body
    checked_name(in_topic, field="session")
    if in_body not in {None, in_topic}:
        raise BadRequest("the topic names another session than the JSON", field="session")
    return in_topic
