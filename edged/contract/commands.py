"""Control requests as they come in: the commands, and their JSON. Pure."""

from pydantic import BaseModel, ConfigDict, Field

COMMANDS = ("ping", "cancel", "forget", "session", "log_level", "drain")


class ControlBody(BaseModel):
    """A control request as JSON; an empty payload is an empty object."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    transaction: str | int | None = None
    id: str | None = Field(None, description="cancel: the request's id")
    session: str | None = Field(None, description="forget, session: whose turns")
    level: str | None = Field(None, description="log_level: debug, info, warning or error")
