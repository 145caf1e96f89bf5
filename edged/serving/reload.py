"""Reading the settings again while the daemon runs: all that can be changed is changed at once, or nothing is."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import structlog

from edged.errors import BadRequest, SettingsError
from edged.settings.changes import changes
from edged.settings.schema import Settings

log = structlog.get_logger(__name__)


class Reloader:
    """Reads and changes the settings. For the worker's thread."""

    def __init__(self, settings: Settings, *, read: Callable[[], Settings], apply: Callable[[Settings], None]) -> None:
        """`read` reads all sources and raises SettingsError; `apply` has all parts use settings that were checked."""
        self._settings = settings
        self._read = read
        self._apply = apply

    def reload(self) -> Mapping[str, Any]:
        """Read the settings again; gives the names of what was changed, and of what needs a restart.

        Raises:
            BadRequest: they are wrong; then nothing is changed.
        """
        try:
            found = changes(self._settings, self._read())
        except (SettingsError, ValueError) as error:
            log.warning("reload_refused", reason=str(error))
            raise BadRequest(f"nothing was changed: {error}") from error
        if found.changed:
            self._apply(found.settings)
            self._settings = found.settings
        log.info("reloaded", changed=found.changed, restart_required=found.restart_required)
        return {"changed": [*found.changed], "restart_required": [*found.restart_required]}

    def reload_or_log(self) -> None:
        """Read the settings again where nobody waits for an answer: the log has what came of it."""
        with suppress(BadRequest):
            self.reload()
