"""The settings in force, and how they change while the daemon runs: all that can change does so at once, or nothing.

New settings come from the sources that the daemon read at its start (reload), or from a client of the broker (options).
For the worker's thread.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from edged import state_files
from edged.contract.commands import Respond
from edged.contract.requests import Contract
from edged.errors import BadRequest, RequestError, SettingsError
from edged.settings.changes import Changes, changes
from edged.settings.load import ReadSettings, read_options
from edged.settings.options import options_file, options_text, patched
from edged.settings.schema import Settings

log = structlog.get_logger(__name__)

Part = Callable[["LiveSettings"], None]  # takes over what it needs of the new settings


class LiveSettings:
    """The settings and the contract in force; other threads may read them.

    Attributes:
        settings: in force.
        contract: made of them.
        parts: told after each change, in order.
    """

    def __init__(self, settings: Settings, *, read: ReadSettings, contract_of: Callable[[Settings], Contract]) -> None:
        """`read` reads all sources and raises SettingsError."""
        self.settings = settings
        self.contract = contract_of(settings)
        self.parts: Sequence[Part] = ()
        self._read = read
        self._contract_of = contract_of

    def reload(self, respond: Respond) -> None:
        """Read the settings again.

        Responds with the names of what was changed, and of what needs a restart; with BadRequest if the settings are
        wrong, and then nothing is changed.
        """
        try:
            found = self._compare(self._options())
        except RequestError as error:
            log.warning("reload_refused", reason=error.message)
            respond(error)
            return
        self._use(found)
        log.info("reloaded", changed=found.changed, restart_required=found.restart_required)
        respond(_told(found))

    def reload_or_log(self) -> None:
        """Read the settings again where nobody waits for an answer: the log has what came of it."""
        self.reload(lambda _: None)

    def change_options(self, patch: Mapping[str, Any], respond: Respond) -> None:
        """Change the options, in the state folder and in force; an empty patch changes nothing.

        Responds as `reload` does, and with all options that are set now.
        """
        try:
            before = self._options()
            options = patched(before, patch)
            found = self._compare(options)
            if options != before:
                self._keep(options)
        except RequestError as error:
            log.warning("options_refused", reason=error.message)
            respond(error)
            return
        self._use(found)
        log.info("options_changed", changed=found.changed, restart_required=found.restart_required)
        respond({**_told(found), "options": options})

    def _options(self) -> dict[str, Any]:
        try:
            return read_options(self.settings.state_dir)
        except SettingsError as error:
            raise _refused(error) from error

    def _compare(self, options: Mapping[str, Any]) -> Changes:
        """Read all sources with these options.

        Raises:
            BadRequest: they are wrong.
        """
        try:
            return changes(self.settings, self._read(options=options))
        except (SettingsError, ValueError) as error:
            raise _refused(error) from error

    def _keep(self, options: Mapping[str, Any]) -> None:
        path = options_file(self.settings.state_dir)
        try:
            state_files.replace(path, options_text(options).encode())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise BadRequest(f"nothing was changed: {path}: {reason}", field="options") from error

    def _use(self, found: Changes) -> None:
        if not found.changed:
            return
        self.settings = found.settings
        self.contract = self._contract_of(found.settings)
        for part in self.parts:
            part(self)


def _refused(error: Exception) -> BadRequest:
    return BadRequest(f"nothing was changed: {error}")


def _told(found: Changes) -> dict[str, Any]:
    return {"changed": [*found.changed], "restart_required": [*found.restart_required]}
