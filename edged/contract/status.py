"""What `R/status` says. Pure."""

import hashlib
from enum import StrEnum


def client_mark(client_id: str) -> str:
    """What a status tells of a client id: enough to see that two are the same, and not the client id."""
    return hashlib.sha256(client_id.encode()).hexdigest()[:12]


class State(StrEnum):
    """What `R/status` says; `offline` is said by the broker alone."""

    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    STOPPED = "stopped"
    OFFLINE = "offline"
