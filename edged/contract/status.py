"""What `R/status` contains, and what a daemon learns from another daemon's status. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from edged.contract.schema import Published, Time


def client_mark(client_id: str) -> str:
    """A hash of a client id: shows whether two client ids are the same, without publishing them."""
    return hashlib.sha256(client_id.encode()).hexdigest()[:12]


class State(StrEnum):
    """The state of a daemon; only the broker says `offline`, by the last will."""

    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    STOPPED = "stopped"
    OFFLINE = "offline"


class Status(Published):
    """The daemon's state. The last will has `state`, `boot_id` and `version` alone."""

    state: State
    boot_id: Annotated[str, Field(description="Names this start of the daemon.")]
    since: Annotated[Time | SkipJsonSchema[None], Field(description="When it came into this state.")] = None
    reasons: Annotated[
        tuple[str, ...] | SkipJsonSchema[None], Field(description="Why it is not fully well, in words.")
    ] = None
    started: Annotated[Time | SkipJsonSchema[None], Field(description="When the daemon was started.")] = None
    version: str
    client: Annotated[str | SkipJsonSchema[None], Field(description="A hash of its client id.")] = None

    def body(self) -> dict[str, Any]:
        """The status as JSON; a key with nothing to say is left out."""
        return self.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """One start of one daemon, as its status tells it to others.

    Attributes:
        boot_id: names this start.
        started: when; RFC 3339, UTC.
        client: `client_mark` of its client id.
    """

    boot_id: str
    started: str
    version: str
    client: str

    def status(self, state: State, *, since: str, reasons: tuple[str, ...] = ()) -> Status:
        """The status that this daemon publishes."""
        return Status(
            state=state,
            boot_id=self.boot_id,
            since=since,
            reasons=reasons or None,
            started=self.started,
            version=self.version,
            client=self.client,
        )

    def last_will(self) -> Status:
        """The status that the broker publishes when it loses this daemon."""
        return Status(state=State.OFFLINE, boot_id=self.boot_id, version=self.version)

    def is_ours(self, status: Mapping[str, Any]) -> bool:
        """Whether a status comes from this start of this daemon."""
        return status.get("boot_id") == self.boot_id

    def is_rival(self, status: Mapping[str, Any]) -> bool:
        """Whether a status comes from another daemon, which is alive and started after this one.

        Of two daemons with one name or one client id the older one gives way, so that they do not take the connection
        from each other for ever.
        """
        started = status.get("started")
        return (
            not self.is_ours(status)
            and status.get("state") not in {State.OFFLINE, State.STOPPED}
            and isinstance(started, str)
            # Times of the same form and length can be compared as text. If both started at the same time, the id
            # decides.
            and (started, str(status.get("boot_id"))) > (self.started, self.boot_id)
        )

    def has_our_client(self, status: Mapping[str, Any]) -> bool:
        """Whether the status of another box says that it connects with our client id."""
        return status.get("client") == self.client
