"""Whether the server answers, judged by how requests end. Pure, and safe for many threads."""

import threading

_AWAY_AFTER = 3  # faults in a row at one endpoint, each after its retries


class ServerHealth:
    """Counts faults by endpoint: a server that completes texts and fails every chat is not well."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: dict[str, int] = {}
        self._reasons: dict[str, str] = {}

    def answered(self, endpoint: str) -> None:
        """A request to this endpoint had its answer."""
        with self._lock:
            self._faults.pop(endpoint, None)
            self._reasons.pop(endpoint, None)

    def failed(self, endpoint: str, reason: str) -> None:
        """A request to this endpoint failed after its retries, because of the server."""
        with self._lock:
            self._faults[endpoint] = self._faults.get(endpoint, 0) + 1
            if self._faults[endpoint] >= _AWAY_AFTER:
                self._reasons[endpoint] = reason

    def found_at_fault(self, endpoint: str, reason: str) -> None:
        """This endpoint did not answer a request that it answers when all is well."""
        with self._lock:
            self._reasons[endpoint] = reason

    @property
    def away(self) -> str | None:
        """Why requests cannot be answered now; None while they can, as far as is known."""
        with self._lock:
            return next(iter(self._reasons.values()), None)
