"""Publishes the daemon's own log at `R/log`, for boxes that nobody is near: off by default, rate-limited, no user text.

Only events of edged itself are told, from `info` on; users' words are logged at `debug` alone. Of an error its name is
told and no traceback. A line that is over the rate is counted in the next one.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from edged.contract.results import encode, rfc3339
from edged.ports.link import Link, Publication
from edged.settings.schema import LogSettings

_BURST = 20  # lines that may come at once
_PER_SECOND = 2.0
_MAX_CHARS = 300  # of a value
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_OF_LOGGING = frozenset({"level", "logger", "timestamp", "exc_info", "exception", "stack_info", "stack"})


class LogPublisher(logging.Handler):
    """A handler of the logger `edged`; any thread may log."""

    def __init__(self, link: Link, *, topic: str, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds, `wall_clock` seconds since the epoch."""
        super().__init__()
        self._link = link
        self._topic = topic
        self._clock = clock
        self._wall_clock = wall_clock
        self._is_on = False
        self._here = threading.local()  # set while this thread publishes: the link may log too
        self._credit = float(_BURST)
        self._credited = clock()
        self._dropped = 0

    def use(self, settings: LogSettings) -> None:
        """Publish from this level on; `off` publishes nothing."""
        self._is_on = settings.mqtt != "off"
        self.setLevel(_LEVELS.get(settings.mqtt, logging.CRITICAL))

    def emit(self, record: logging.LogRecord) -> None:
        """Publish a line; called with this handler's lock."""
        if not self._is_on or not isinstance(record.msg, Mapping) or getattr(self._here, "publishes", False):
            return
        if not self._may_publish():
            self._dropped += 1
            return
        self._here.publishes = True
        try:
            payload = encode(self._line(record, record.msg))
            self._link.publish(Publication(topic=self._topic, payload=payload))
        except Exception:  # noqa: BLE001 - whoever logs must not fail because of this
            self._dropped += 1
        finally:
            self._here.publishes = False

    def _may_publish(self) -> bool:
        now = self._clock()
        self._credit = min(float(_BURST), self._credit + _PER_SECOND * (now - self._credited))
        self._credited = now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def _line(self, record: logging.LogRecord, event: Mapping[str, Any]) -> dict[str, Any]:
        fields = {name: _shown(value) for name, value in event.items() if name not in _OF_LOGGING}
        if record.exc_info and record.exc_info[0] is not None:
            fields["error"] = record.exc_info[0].__name__
        if self._dropped:
            fields["dropped"] = self._dropped
            self._dropped = 0
        head = {"time": rfc3339(self._wall_clock()), "level": record.levelname.lower(), "logger": record.name}
        return fields | head


def _shown(value: Any) -> Any:
    """A value as JSON can hold it, not too long."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None  # JSON has no infinity
    if isinstance(value, tuple | list | set | frozenset):
        return [_shown(each) for each in list(value)[:20]]
    return str(value)[:_MAX_CHARS]
