"""Finds the server and learns which requests it accepts; checks it again later when requests fail.

One thread does both. A server that is not there, or loads its model, is waited for. A server that is there and fails
every request does not stop the start: the engine then says that it is away, and heals when the server does.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

import structlog

from edged.engine.remote.answers import Models
from edged.engine.remote.chat import Chat
from edged.engine.remote.connection import Refused, Retry
from edged.engine.remote.labels import LabelScorer, warm_up_work
from edged.engine.remote.server import Away, ModelServer
from edged.engine.remote.server_health import ServerHealth
from edged.errors import EdgedError, ModelUnavailable, RequestError, ShuttingDown
from edged.models.languages import asked_languages_of
from edged.settings.schema import ModelSettings
from edged.tasks.reading import in_use
from edged.tasks.specs import ClassifySpec, Tasks
from edged.tasks.text import Language

log = structlog.get_logger(__name__)

T = TypeVar("T")

_START_PAUSE_S = 5.0  # between two attempts at the start, and while the server is away
_LOOK_PAUSE_S = 10.0  # at least, between two looks at a server that answers
_TRIES = 3  # attempts of a step that fails although the server is there
_NOT_YET = frozenset({408, 429, 503})  # llama.cpp answers 503 while it loads its model


class Start:
    """Starts with the server, and checks it afterwards.

    Attributes:
        failure: why there can be no start; None if there was one. Known when `settled` is set.
        settled: set when the engine may be used, or will never be.
        waits_for: why the start waits for the server, in words; empty before the first fault.
    """

    def __init__(
        self,
        settings: ModelSettings,
        tasks: Tasks,
        *,
        server: ModelServer,
        labels: LabelScorer,
        chat: Chat,
        standing: ServerHealth,
    ) -> None:
        self.failure: EdgedError | None = None
        self.settled = threading.Event()
        self.waits_for = ""
        self._settings = settings
        self._tasks = tasks
        self._server = server
        self._labels = labels
        self._chat = chat
        self._standing = standing
        self._doubtful = threading.Event()

    @property
    def _asked(self) -> tuple[Language, ...]:
        return asked_languages_of(self._server.model or self._settings.id, self._settings.reads)

    def look_again(self) -> None:
        """Ask for a check: a request failed, perhaps by the server's fault."""
        self._doubtful.set()

    def learn(self, tasks: Tasks) -> None:
        """Learn how the server is to be asked for other tasks; for any thread.

        Raises:
            Refused: the server does not take the prompt of a task.
            Retry, EdgedError: it does not answer now.
        """
        for spec, language in _classifications(tasks, asked=self._asked):
            self._learn_prior(spec, language)
        self._tasks = tasks

    def stop(self) -> None:
        """End `run`, once the server is stopping."""
        self._doubtful.set()

    def run(self, on_found: Callable[[str], None]) -> None:
        """Start, then look again whenever that is asked for; returns when the server is stopping.

        `on_found` gets the name of the model before `settled` is set.
        """
        try:
            on_found(self._patiently(self._find_model, insists=True))
            self._learn()
        except Refused as refused:
            self.failure = ModelUnavailable(f"{self._server.url}: {refused.as_request_error()}")
        except RequestError as error:
            self.failure = ModelUnavailable(f"{self._server.url}: {error}")
        except EdgedError as error:
            self.failure = error
        except Exception as error:
            # The top of the thread: whoever waits for the start must learn of it.
            log.exception("remote_start_failed")
            self.failure = ModelUnavailable(f"{self._server.url}: {type(error).__name__}: {error}")
        finally:
            self.settled.set()
        if self.failure is None:
            self._keep_looking()

    # ------------------------------------------------------------------------------------------------ the start

    def _find_model(self) -> str:
        """The name of the model to ask for.

        Raises:
            ModelUnavailable: the server does not let us in, or has no such model.
        """
        names = self._server.get("models", Models).ids
        wanted = self._settings.id
        if wanted in names or not names:
            return wanted
        if "id" in self._settings.model_fields_set:
            raise ModelUnavailable(
                f"{self._server.url} has no model {wanted}; set EDGED_MODEL__ID to one of: {', '.join(names[:10])}"
            )
        return names[0]

    def _learn(self) -> None:
        """Learn how the server is to be asked. An endpoint that fails although the server is there shows as away.

        Raises:
            Refused: the server does not take the prompt of a task.
            EdgedError: there can be no start.
        """
        try:
            self._several_times(self._labels.look)
            for spec, language in _classifications(self._tasks, asked=self._asked):
                self._several_times(functools.partial(self._learn_prior, spec, language))
        except (Retry, Away) as fault:
            self._completions_failed(fault)
        try:
            self._several_times(self._chat.look)
        except (Retry, Refused) as fault:
            self._tell(self._chat.endpoint, fault)

    def _learn_prior(self, spec: ClassifySpec, language: Language) -> None:
        self._labels.learn_prior(spec, language, warm_up_work(spec, language, time.monotonic()))

    def _several_times(self, step: Callable[[], None]) -> None:
        """Take a step, and again a few times if the server fails although it is there.

        Raises:
            Retry, Away: of the last time.
        """
        for _ in range(_TRIES - 1):
            with contextlib.suppress(Retry, Away):
                return self._patiently(step)
            self._server.stopping.wait(_START_PAUSE_S)
        return self._patiently(step)

    def _patiently(self, step: Callable[[], T], *, insists: bool = False) -> T:
        """Take a step; a server that is not there, or not ready, is asked until it answers.

        Raises:
            Retry, Away: the server is there and fails. Not raised with `insists`.
            ShuttingDown: the daemon stops first.
        """
        while not self._server.stopping.is_set():
            try:
                return step()
            except (Retry, Away) as error:
                if str(error) != self.waits_for:
                    log.warning("remote_not_there", url=self._server.url, reason=str(error))
                self.waits_for = str(error)
                if error.status is not None and error.status not in _NOT_YET and not insists:
                    raise
                self._server.stopping.wait(_START_PAUSE_S)
        raise ShuttingDown("the daemon is shutting down")

    # --------------------------------------------------------------------------------------------- looks after it

    def _keep_looking(self) -> None:
        """Look again while the server is away, and when a request ended badly."""
        while not self._server.stopping.wait(_LOOK_PAUSE_S if self._standing.away is None else _START_PAUSE_S):
            if self._standing.away is None:
                self._doubtful.wait()
            self._doubtful.clear()
            if not self._server.stopping.is_set():
                self._look()

    def _look(self) -> None:
        """Ask both endpoints once for what they answer when all is well."""
        try:
            self._labels.look()
            for spec, language in _classifications(self._tasks, asked=self._asked):
                self._learn_prior(spec, language)
        except (Retry, Refused, EdgedError) as fault:
            self._completions_failed(fault)
        else:
            self._standing.answered("completions")
        try:
            self._chat.look()
        except (Retry, Refused, EdgedError) as fault:
            self._tell(self._chat.endpoint, fault)
        else:
            self._standing.answered(self._chat.endpoint)

    def _completions_failed(self, fault: Exception) -> None:
        """If the server gave log-probabilities before, it counts as away; else its chat alone is used."""
        if self._labels.has_log_probabilities:
            self._tell(self._labels.endpoint, fault)
        else:
            self._labels.has_log_probabilities = False

    def _tell(self, endpoint: str, fault: Exception) -> None:
        if not self._server.stopping.is_set():
            told = str(fault).removeprefix("the model's server: ")
            reason = f"the model's server fails at {endpoint}: {told}"
            log.warning("remote_away", url=self._server.url, reason=reason)
            self._standing.found_at_fault(endpoint, reason)


def _classifications(tasks: Tasks, *, asked: Collection[Language]) -> Iterator[tuple[ClassifySpec, Language]]:
    """Every prompt by which labels are scored, once, in the languages that are in use."""
    for spec in {part.name: part for part in tasks.all_parts}.values():
        if isinstance(spec, ClassifySpec):
            for language in in_use(spec.languages, asked=asked):
                for opinion in spec.opinions(language):
                    yield opinion, language
