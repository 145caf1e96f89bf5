"""Changing the model while the daemon runs: fetch it, load it beside the one in use, have it judged, switch, go back.

What takes long runs in a thread of its own, one thing at a time. A model is used only if it loads, if it can do all
tasks, and if the canary finds it no worse than the one in use. Then new requests go to it; those that are open end on
the model before. For its first hour it is on trial; see `model_trial`.

Where the memory has no room for both, the model in use is let go before the new one is loaded; see `model_loader`.
"""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from edged.contract.commands import ModelOrder, Respond
from edged.contract.model_report import ModelReport, ModelState
from edged.errors import BadRequest, Busy, EdgedError
from edged.models.bundle_source import BundleSource
from edged.ports.engine import StoppableEngine
from edged.serving.canary import Canary
from edged.serving.live_settings import LiveSettings
from edged.serving.model_loader import ModelLoader, reason_of
from edged.serving.model_trial import ModelTrial
from edged.serving.switchable import SwitchableEngine
from edged.settings.schema import Settings
from edged.tasks.specs import Tasks

log = structlog.get_logger(__name__)

_STOP_S = 10.0
_PERCENT = {ModelState.PULLING: 10, ModelState.LOADING: 40, ModelState.JUDGING: 70}


class Store(Protocol):
    """Where models are; see `edged.models.store.Store`."""

    def pull(self, model_id: str, revision: str | None = None, *, show_progress: bool = True) -> object:
        """Fetch a model unless it is here. Raises ModelUnavailable."""
        ...

    def path(self, model_id: str, revision: str | None = None) -> object:
        """Where a model is that is here. Raises ModelUnavailable."""
        ...

    def fetch_bundle(
        self, source: BundleSource, name: str | None = None, *, check: Callable[[Path], object], show_progress: bool
    ) -> str:
        """Fetch an exported bundle and take it in; gives its name. Raises ModelUnavailable."""
        ...


class Models:
    """The commands of `R/request/model`. Its methods are for the worker's thread."""

    def __init__(
        self,
        *,
        engine: SwitchableEngine,
        live: LiveSettings,
        make_engine: Callable[[Settings, Tasks], StoppableEngine],
        store: Callable[[Settings], Store],
        try_out: Callable[[Settings, Path], None],
        trial: ModelTrial,
        publish: Callable[[ModelReport], None],
        hold: Callable[[bool], None],
        post: Callable[[Callable[[], None]], None],
        clock: Callable[[], float],
    ) -> None:
        """Assign.

        Args:
            engine: whose model is changed.
            live: the settings in force.
            make_engine: makes an engine with the model of the settings.
            store: where the models are, by the settings.
            try_out: sees that the bundle in a folder can be served; raises ModelUnavailable.
            trial: keeps what the next process must know of a new model.
            publish: sends `R/model`.
            hold: has new work wait (True), or go to the engine again; for the worker's thread.
            post: runs a function in the worker's thread.
            clock: monotonic seconds.
        """
        self._engine = engine
        self._live = live
        self._loader = ModelLoader(engine=engine, make_engine=make_engine, hold=hold, post=post)
        self._store = store
        self._try_out = try_out
        self._trial = trial
        self._publish = publish
        self._post = post
        self._clock = clock
        self._state = ModelState.IDLE
        self._reason: str | None = None
        self._latest: str | None = None
        self._previous = trial.previous_of(live.settings.model.id)
        self._is_busy = False

    def report(self) -> ModelReport:
        """The state of this moment."""
        used = self._live.settings.model.id
        return ModelReport(
            installed_version=used,
            latest_version=self._latest or used,
            in_progress=self._is_busy,
            update_percentage=_PERCENT.get(self._state) if self._is_busy else None,
            state=self._state,
            reason=self._reason,
            previous=self._previous,
        )

    def tell(self) -> None:
        """Publish the report."""
        self._publish(self.report())

    def obey(self, order: ModelOrder, respond: Respond) -> None:
        """Carry out a command: status, pull, switch or rollback. What takes long is told at `R/model` when it is over.

        Raises:
            BadRequest: it is none of them, or it cannot be done.
            Busy: another one is being carried out.
        """
        action = order.action
        if action == "status":
            respond(self.report().body())
            return
        if action not in {"pull", "switch", "rollback"}:
            raise BadRequest("there are: status, pull, switch, rollback", field="action")
        if self._live.settings.model.backend == "remote":
            raise BadRequest("the model is that of a server (model.backend), which has its own way", field="action")
        if self._is_busy:
            raise Busy("a model is being fetched or switched to; R/model tells when it is done", retry_after_ms=10_000)
        if self._live.settings.model.revision is not None:
            raise BadRequest("model.revision is of the model in use: leave it out of the settings first", field="id")
        source = self._source(order)
        named = order.id or (source.name if source is not None else self._latest)
        wanted = self._previous if action == "rollback" else named
        if wanted is None:
            raise BadRequest("there is no model to go to: name one", field="id")
        if (action != "pull" or source is not None) and wanted == self._live.settings.model.id:
            raise BadRequest("this model is in use already", field="id")
        settings = self._live.settings if action == "pull" else self._live.with_model(wanted)
        respond({"started": action, "id": wanted})
        self._is_busy, self._reason = True, None
        # A model that was used before is gone back to without being judged: the one in use may judge wrongly.
        work = (
            partial(self._pull, wanted, settings, source)
            if action == "pull"
            else partial(self._switch, settings, action == "switch")
        )
        threading.Thread(target=work, name="models", daemon=True).start()

    def _source(self, order: ModelOrder) -> BundleSource | None:
        """Where a bundle is to be fetched from.

        Raises:
            BadRequest: from there none may be fetched.
        """
        if order.url is None:
            return None
        if order.action != "pull":
            raise BadRequest("a url is for pull; switch to the model when it is here", field="url")
        if not any(order.url.startswith(each) for each in self._live.settings.models.sources):
            raise BadRequest("it is below none of models.sources, which is set on the box", field="url")
        try:
            return BundleSource(url=order.url, sha256=order.sha256 or "")
        except ValueError as error:
            raise BadRequest(str(error), field="url" if order.sha256 else "sha256") from error

    # ------------------------------------------------------------------------------------------ in their own thread

    def _pull(self, wanted: str, settings: Settings, source: BundleSource | None) -> None:
        self._at(ModelState.PULLING)
        store = self._store(settings)
        try:
            if source is None:
                store.pull(wanted, show_progress=False)
            else:
                store.fetch_bundle(source, wanted, check=partial(self._try_out, settings), show_progress=False)
        except Exception as error:  # noqa: BLE001 - the top of the thread
            self._refuse(wanted, reason_of(error))
            return
        self._post(lambda: self._pulled(wanted))

    def _switch(self, changed: Settings, is_judged: bool) -> None:
        """Load the model of the settings and use it, if it may be used."""
        self._at(ModelState.LOADING)
        wanted = changed.model.id
        fault: str | None = None
        new: StoppableEngine | None = None
        tasks = self._live.contract.tasks
        try:
            self._store(changed).path(wanted)
            canary = Canary(changed, tasks, clock=self._clock) if is_judged else None
            new = self._loader.load_beside(changed, tasks)
            before = None if canary is None else canary.verdict(self._engine)
            if new is None:
                self._loader.let_go(wanted)
                self._at(ModelState.LOADING)
                new = self._loader.load(changed, tasks)
            if canary is not None:
                self._at(ModelState.JUDGING)
                canary.compare(new, before)
        except Exception as error:  # noqa: BLE001 - the top of the thread
            fault = reason_of(error)
        # Outside of the clause above: its error would hold the memory of what could not be loaded.
        if fault is not None:
            if new is not None:
                new.stop(_STOP_S)
                new = None
            self._refuse(wanted, fault)
        elif new is not None:
            ready = new
            self._post(lambda: self._use(changed, ready, tasks))

    def _at(self, state: ModelState) -> None:
        self._post(lambda: self._told(state))

    def _refuse(self, wanted: str, reason: str) -> None:
        log.warning("model_refused", id=wanted, reason=reason)
        if not self._engine.has_model:
            self._at(ModelState.LOADING)
            self._loader.load_again(self._live.settings, self._live.contract.tasks)
        self._post(lambda: self._told(ModelState.REFUSED, reason=reason))

    # ------------------------------------------------------------------------------------- in the worker's thread

    def _told(self, state: ModelState, *, reason: str | None = None) -> None:
        self._state, self._reason = state, reason
        self._is_busy = state in _PERCENT
        self.tell()

    def _pulled(self, wanted: str) -> None:
        self._latest = wanted
        self._told(ModelState.IDLE)

    def _use(self, changed: Settings, new: StoppableEngine, tasks: Tasks) -> None:
        """Switch, if the tasks are still those that the new model is ready for; else get it ready first."""
        wanted = changed.model.id
        now = self._live.contract.tasks
        if now is not tasks:
            new.prepare(now, lambda error: self._post(lambda: self._used_or_not(changed, new, now, error)))
            return
        before = self._live.settings.model.id
        try:
            self._trial.begin(wanted, previous=before)
            self._live.keep_model(changed)
        except EdgedError as error:
            self._trial.end()
            self._give_up(wanted, new, error)
            return
        self._loader.go_on(new)
        self._previous = before
        self._live.tell_parts()
        log.info("model_switched", id=wanted, previous=before)
        self._told(ModelState.SWITCHED)

    def _used_or_not(self, changed: Settings, new: StoppableEngine, tasks: Tasks, error: EdgedError | None) -> None:
        if error is None:
            self._use(changed, new, tasks)
            return
        self._give_up(changed.model.id, new, error)

    def _give_up(self, wanted: str, new: StoppableEngine, error: EdgedError) -> None:
        new.stop(_STOP_S)
        # The model before may have to be loaded again, which takes long.
        threading.Thread(target=self._refuse, args=(wanted, str(error)), name="models", daemon=True).start()
