"""Loads a model beside the one in use; or in its place, where the memory has no room for both.

In its place: new requests wait, the open ones are answered, the model in use is let go, and the new one is loaded.
Nothing that waits is acked, so the broker has it too. If the new one cannot be used, the one before is loaded again.
"""

import time
from collections.abc import Callable
from functools import partial

import structlog

from edged.engine.process_memory import give_back_model
from edged.errors import EdgedError, ModelUnavailable, NotEnoughMemory
from edged.ports.engine import StoppableEngine
from edged.serving.switchable import SwitchableEngine
from edged.settings.schema import Settings
from edged.tasks.specs import Tasks

log = structlog.get_logger(__name__)

_STOP_S = 10.0
_END_WORK_S = 300.0  # for the open requests, before the model in use is let go
_LOAD_S = 3600.0  # for a model while there is none: to prepare one takes a small box long
_TRIES = 3  # to load the model before again
_BETWEEN_TRIES_S = 1.0


class ModelLoader:
    """For the thread that changes the model; only `go_on` is for the worker's."""

    def __init__(
        self,
        *,
        engine: SwitchableEngine,
        make_engine: Callable[[Settings, Tasks], StoppableEngine],
        hold: Callable[[bool], None],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        """`hold` has new work wait (True), or go to the engine again; `post` runs a function in the worker's thread."""
        self._engine = engine
        self._make_engine = make_engine
        self._hold = hold
        self._post = post

    def load(self, settings: Settings, tasks: Tasks, timeout: float | None = _LOAD_S) -> StoppableEngine:
        """Load the model of the settings, and get it ready for the tasks, within `timeout` seconds.

        Raises:
            EdgedError: that cannot be done.
        """
        engine = self._make_engine(settings, tasks)
        try:
            engine.start()
            is_ready = engine.wait_ready(timeout)
        except BaseException:
            engine.stop(_STOP_S)
            raise
        if not is_ready:
            engine.stop(_STOP_S)
            raise ModelUnavailable(f"{settings.model.id} was not loaded in {timeout:g} s")
        return engine

    def load_beside(self, settings: Settings, tasks: Tasks) -> StoppableEngine | None:
        """Load a model beside the one in use; None where there is no memory for both.

        Raises:
            EdgedError: it cannot be loaded, or it would not fit alone either.
        """
        if settings.engine.memory_mb:  # bounds the whole daemon, and each of two models would take as much
            return None
        try:
            return self.load(settings, tasks, None)
        except NotEnoughMemory as error:
            # At most: what else a model takes is small beside its weights and the kept beginnings of prompts.
            freed = 2 * self._engine.model.weight_bytes + self._engine.state().cache_capacity
            if error.missing_bytes > freed:
                raise
            log.info("no_memory_for_two_models", id=settings.model.id, reason=str(error))
        except MemoryError:
            log.info("no_memory_for_two_models", id=settings.model.id)
        return None

    def let_go(self, wanted: str) -> None:
        """Have new work wait, and let go of the model in use when it has ended what it has. `wanted` is to replace it.

        Raises:
            ModelUnavailable: the open work takes too long; then all goes on as before.
        """
        self._post(lambda: self._hold(True))
        if not self._engine.let_go(f"the model {wanted} takes the place of the one before", _END_WORK_S):
            self._post(lambda: self._hold(False))
            raise ModelUnavailable(
                f"there is no memory for both models, and the open requests did not end in {_END_WORK_S:g} s"
            )
        give_back_model()

    def load_again(self, settings: Settings, tasks: Tasks) -> None:
        """Load the model that was let go, and go on with it; if that cannot be done, the daemon must end."""
        fault = ""
        for tries_left in reversed(range(_TRIES)):
            give_back_model()
            try:
                before = self.load(settings, tasks)
            except Exception as error:  # noqa: BLE001 - the top of the thread
                fault = f"the model {settings.model.id} cannot be loaded again: {reason_of(error)}"
                if tries_left:  # the memory of the other model may not be free yet
                    time.sleep(_BETWEEN_TRIES_S)
                continue
            self._post(partial(self.go_on, before))
            return
        self._engine.lose(fault)

    def go_on(self, engine: StoppableEngine) -> None:
        """Give all work to an engine that is ready."""
        self._engine.switch(engine)
        self._hold(False)


def reason_of(error: Exception) -> str:
    """Why something failed, in words."""
    return str(error) if isinstance(error, EdgedError) else f"{type(error).__name__}: {error}"
