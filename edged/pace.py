"""How fast this box answers, by a file, for the process that comes after this one. Knows no broker."""

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

    def recall(self) -> float | None:
        """Mean seconds between two answers while there is work, as noted last; None: nothing is known."""
        try:
            noted = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("pace_record", path=str(self._file), reason=str(error))
            return None
        if not isinstance(noted, dict) or noted.get("of") != self._of:
            return None
        service_s = noted.get("service_s")
        return float(service_s) if isinstance(service_s, int | float) and 0 <= service_s < float("inf") else None

    def note(self, service_s: float) -> None:
        """Keep it for the next process."""
        try:
            self._file.touch(mode=0o600)
            self._file.write_text(json.dumps({"of": self._of, "service_s": round(service_s, 6)}), encoding="utf-8")
        except OSError as error:
            log.warning("pace_record", path=str(self._file), reason=error.strerror)
