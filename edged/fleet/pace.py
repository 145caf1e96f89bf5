"""How many requests this box wants at a time, by a file, for the process that comes after this one. Knows no broker."""

import json
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


class Pace:
    """One figure in a file. A file that cannot be read or written is one that says nothing."""

    def __init__(self, file: Path, *, of: str) -> None:
        """`of` names what was measured, as the model and its settings: what was noted of another says nothing."""
        self._file = file
        self._of = of

    def recall(self, *, at_most: int) -> int | None:
        """The requests that were noted last, or `at_most`; None: nothing is known."""
        try:
            noted = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            log.warning("pace_record", path=str(self._file), reason=str(error))
            return None
        if not isinstance(noted, dict) or noted.get("of") != self._of:
            return None
        requests = noted.get("requests")
        return min(requests, at_most) if isinstance(requests, int) and requests >= 1 else None

    def note(self, requests: int) -> None:
        """Keep it for the next process."""
        try:
            self._file.touch(mode=0o600)
            self._file.write_text(json.dumps({"of": self._of, "requests": requests}), encoding="utf-8")
        except OSError as error:
            log.warning("pace_record", path=str(self._file), reason=error.strerror)
