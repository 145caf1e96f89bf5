"""What this box has subscribed to at the broker: a file that outlives the settings which said so.

The broker keeps the subscriptions of a session for whoever connects by its client id next, and goes on dealing work
to one that left its group. Knows no broker.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


class Subscribed:
    """The topic filters of a file. A file that cannot be read or written is one that says nothing."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def begin(self, filters: Sequence[str]) -> tuple[str, ...]:
        """Note further filters; gives those noted before that are none of them: what is to end at the broker."""
        left = tuple(each for each in self._noted() if each not in filters)
        self.note((*filters, *left))
        return left

    def note(self, filters: Sequence[str]) -> None:
        """Note these and no others."""
        try:
            self._file.touch(mode=0o600)
            self._file.write_text(json.dumps(filters), encoding="utf-8")
        except OSError as error:
            log.warning("subscribed_record", path=str(self._file), reason=error.strerror)

    def _noted(self) -> list[str]:
        try:
            noted = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            log.warning("subscribed_record", path=str(self._file), reason=str(error))
            return []
        return [each for each in noted if isinstance(each, str)] if isinstance(noted, list) else []
