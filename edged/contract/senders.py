"""Who sent a request, as far as MQTT tells: shares, limits and figures are by sender. Pure.

A daemon does not learn the client id of a sender. It takes the request's session, a level of its topic, or a user
property, as `limits.sender` says. Which of them a client can choose freely depends on the broker's access list.
"""

import re
from dataclasses import dataclass
from typing import Literal

from edged.ports.link import Message

MAX_CHARS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class SenderRule:
    """Where the name of a sender stands.

    Attributes:
        level: of the topic, counted from 0.
        name: of the user property.
    """

    kind: Literal["session", "topic", "property"] = "session"
    level: int = 0
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> "SenderRule":
        """Read a rule as the settings have it.

        Raises:
            ValueError: it is none.
        """
        if text == "session":
            return cls()
        if (level := re.fullmatch(r"topic\[(\d{1,3})\]", text)) is not None:
            return cls(kind="topic", level=int(level[1]))
        if (name := re.fullmatch(r"property (\S.*)", text)) is not None:
            return cls(kind="property", name=name[1])
        raise ValueError("write session, topic[N] (a level of the topic, counted from 0), or property NAME")

    def sender(self, message: Message, *, session: str | None, answer_topic: str) -> str:
        """The sender of a request; where the message does not name one, the topic of the answer stands for it."""
        found: str | None = session if self.kind == "session" else None
        if self.kind == "topic":
            levels = message.topic.split("/")
            found = levels[self.level] if self.level < len(levels) else None
        elif self.kind == "property":
            found = property_of(message, self.name)
        return (found or answer_topic)[:MAX_CHARS]


def property_of(message: Message, name: str) -> str | None:
    """The last user property of this name: what a broker adds stands behind what the client sent."""
    return next((value for key, value in reversed(message.user_properties) if key == name), None)
