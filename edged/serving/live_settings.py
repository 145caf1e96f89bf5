"""The settings in force, and how they change while the daemon runs: all that can change does so at once, or nothing.

New settings come from the sources that the daemon read at its start (reload), or from a client of the broker (options).
For the worker's thread.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from edged import state_files
from edged.contract.commands import Respond
from edged.contract.requests import Contract
from edged.errors import BadRequest, EdgedError, RequestError, SettingsError
from edged.serving.backup import Sources
from edged.settings.changes import Changes, changes
from edged.settings.load import ReadSettings, read_options
from edged.settings.options import options_file, options_text, patched
from edged.settings.schema import Settings
from edged.tasks.own import tasks_of
from edged.tasks.specs import Tasks

log = structlog.get_logger(__name__)

Prepare = Callable[[Tasks, Callable[[EdgedError | None], None]], None]  # see `ports.engine.StoppableEngine.prepare`
Part = Callable[["LiveSettings"], None]  # takes over what it needs of the new settings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """A change that is asked for; without a `patch`, the sources are read again."""

    patch: Mapping[str, Any] | None
    respond: Respond


class LiveSettings:
    """The settings and the contract in force; other threads may read them.

    Tasks are changed in two steps: the engine gets ready for the new ones while the daemon goes on with the old ones,
    then all parts change. Changes that are asked for meanwhile wait.

    Attributes:
        settings: in force.
        contract: made of them.
        parts: told after each change, in order.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        read: ReadSettings,
        contract_of: Callable[[Settings, Tasks], Contract],
        prepare: Prepare,
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        """Assign.

        Args:
            settings: those of the start.
            read: reads all sources; raises SettingsError.
            contract_of: makes the contract.
            prepare: gets the engine ready for tasks.
            post: runs a function in the worker's thread.
        """
        self.settings = settings
        self.contract = contract_of(settings, tasks_of(settings.tasks, settings.languages))
        self.parts: Sequence[Part] = ()
        self._read = read
        self._contract_of = contract_of
        self._prepare = prepare
        self._post = post
        self._asked: deque[_Asked] = deque()  # the first one is being made

    def reload(self, respond: Respond) -> None:
        """Read the settings again.

        Responds with the names of what was changed, and of what needs a restart; with an error if the settings are
        wrong, and then nothing is changed.
        """
        self._ask(_Asked(patch=None, respond=respond))

    def reload_or_log(self) -> None:
        """Read the settings again where nobody waits for an answer: the log has what came of it."""
        self.reload(lambda _: None)

    def change_options(self, patch: Mapping[str, Any], respond: Respond) -> None:
        """Change the options, in the state folder and in force; an empty patch changes nothing.

        Responds as `reload` does, and with all options that are set now.
        """
        self._ask(_Asked(patch=patch, respond=respond))

    def with_model(self, model: str) -> Settings:
        """The settings in force, with another model in the place of the one in use.

        What is said of the languages of the model in use (`model.reads`) is not true of another one. It is said of
        this one where the other sources name this one too, as when the daemon goes back to it.

        Raises:
            BadRequest: the sources are wrong, or the other settings do not fit this model.
        """
        try:
            reads = self._read(options=self._options_with(model)).settings.model.reads
        except (SettingsError, ValueError) as error:
            raise _refused(error) from error
        named = self.settings.model.model_copy(update={"id": model, "revision": None, "reads": reads})
        return self.settings.model_copy(update={"model": named})

    def keep_model(self, settings: Settings) -> None:
        """Note that the model of these settings is in use, in the state folder too; `tell_parts` tells the parts.

        Raises:
            BadRequest: that cannot be kept.
        """
        self._keep(self._options_with(settings.model.id))
        self.settings = self.settings.model_copy(update={"model": settings.model})

    def tell_parts(self) -> None:
        """Have all parts take over what they need."""
        for part in self.parts:
            part(self)

    def backup_sources(self) -> Sources:
        """What a backup is made of.

        Raises:
            BadRequest: the settings file cannot be read.
        """
        try:
            given = self._read(options={}).given
        except SettingsError as error:
            raise BadRequest(f"no backup was made: {error}") from error
        file = None if given.path is None else given.file
        return Sources(node=self.settings.node, settings=file, state_dir=self.settings.state_dir)

    def _ask(self, asked: _Asked) -> None:
        self._asked.append(asked)
        if len(self._asked) == 1:
            self._begin(asked)

    def _begin(self, asked: _Asked) -> None:
        """Check all sources; have the engine get ready if there are other tasks."""
        try:
            options = patched(self._options(), asked.patch or {})
            found = self._compare(options)
        except RequestError as error:
            self._end(asked, error)
            return
        if found.settings.tasks == self.settings.tasks:
            self._finish(asked, found, options, self.contract.tasks)
            return
        tasks = tasks_of(found.settings.tasks, found.settings.languages)
        self._prepare(tasks, lambda error: self._post(lambda: self._prepared(asked, found, options, tasks, error)))

    def _prepared(
        self, asked: _Asked, found: Changes, options: Mapping[str, Any], tasks: Tasks, error: EdgedError | None
    ) -> None:
        if error is None:
            self._finish(asked, found, options, tasks)
        else:
            self._end(asked, _refused(error))

    def _finish(self, asked: _Asked, found: Changes, options: Mapping[str, Any], tasks: Tasks) -> None:
        """Write the options, then have all parts change."""
        data: dict[str, Any] = {"changed": [*found.changed], "restart_required": [*found.restart_required]}
        if asked.patch is not None:
            try:
                self._keep(options)
            except RequestError as error:
                self._end(asked, error)
                return
            data["options"] = options
        if found.changed:
            self.settings = found.settings
            self.contract = self._contract_of(found.settings, tasks)
            self.tell_parts()
        self._end(asked, data)

    def _end(self, asked: _Asked, answer: Mapping[str, Any] | RequestError) -> None:
        if isinstance(answer, RequestError):
            log.warning("reload_refused" if asked.patch is None else "options_refused", reason=answer.message)
        else:
            told = {name: answer[name] for name in ("changed", "restart_required")}
            log.info("reloaded" if asked.patch is None else "options_changed", **told)
        asked.respond(answer)
        self._asked.popleft()
        if self._asked:
            self._post(lambda: self._begin(self._asked[0]))

    def _options_with(self, model: str) -> dict[str, Any]:
        """The options with another model, less what they say of the one before."""
        return patched(self._options(), {"model": {"id": model, "reads": None}})

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
            return changes(self.settings, self._read(options=options).settings)
        except (SettingsError, ValueError) as error:
            raise _refused(error) from error

    def _keep(self, options: Mapping[str, Any]) -> None:
        """Write the options, if they are others than those that are kept.

        Raises:
            BadRequest: they cannot be kept.
        """
        path = options_file(self.settings.state_dir)
        try:
            if options != self._options():
                state_files.replace(path, options_text(options).encode())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise BadRequest(f"nothing was changed: {path}: {reason}", field="options") from error


def _refused(error: Exception) -> BadRequest:
    return BadRequest(f"nothing was changed: {error}")
