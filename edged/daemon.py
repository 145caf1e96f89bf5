"""The daemon: which parts there are, in which order they start and stop, and what a signal does.

Nothing is decided here about a request; `serving` does that, and `monitoring` decides what others are told.
"""

import contextlib
import queue
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import structlog

from edged import __version__, logs, state_files
from edged.build import (
    contract_of,
    discard_conversations,
    discovery_of,
    health_of,
    identity_of,
    journal_of,
    link_of,
    listen,
    lossy_filters,
    make_engine,
    route_filters,
    speed_mark,
    try_out_bundle,
)
from edged.contract.model_report import ModelReport
from edged.contract.requests import Contract
from edged.contract.results import encode
from edged.contract.status import Identity, State
from edged.contract.topics import ControlRoute, MemberRoute, ProbeRoute, Topics
from edged.errors import ExitCode, FatalError, JournalFault
from edged.fleet.instance_lock import InstanceLock
from edged.fleet.measured_window import MeasuredWindow
from edged.fleet.membership import Membership, join
from edged.fleet.name_clash import NameCheck, NameWatch
from edged.journal.sqlite import SqliteJournal
from edged.models.store import Store
from edged.monitoring.health import Health
from edged.monitoring.info import describe
from edged.monitoring.log_publisher import LogPublisher
from edged.monitoring.metrics import Metrics
from edged.monitoring.parts import Parts
from edged.monitoring.probe import Prober
from edged.monitoring.supervision import Supervision
from edged.monitoring.systemd import Notifier
from edged.mqtt.link import STOPPED, Link
from edged.mqtt.subscription_record import SubscriptionRecord
from edged.ports.engine import StoppableEngine
from edged.ports.journal import Journal
from edged.ports.link import Delivery, LinkState, Publication
from edged.serving.control import Control
from edged.serving.languages import LanguageRule
from edged.serving.live_settings import LiveSettings
from edged.serving.model_trial import ModelTrial
from edged.serving.models import Models
from edged.serving.reception import Reception
from edged.serving.switchable import SwitchableEngine
from edged.serving.worker import Worker
from edged.settings.load import ReadSettings, Systemd
from edged.settings.schema import Settings
from edged.tasks.calibration import RunningCalibration
from edged.tasks.own import tasks_of
from edged.tasks.specs import Tasks

if TYPE_CHECKING:
    from edged.journal.redis import RedisJournal

log = structlog.get_logger(__name__)

_TICK_S = 1.0
_LOAD_GRACE_S = 30.0  # seconds of further time that systemd is asked for, repeatedly, while the model loads
_FINAL_S = 5.0  # for the last message and the last disk write
_HANDOVER_S = 1.0  # for another box of the group to take over the queue


class Wake:
    """Wakes the main thread.

    A signal's handler may set it: the handler runs in the main thread, and would wait for ever for the lock of a
    `threading.Event` that this thread holds just then. `SimpleQueue.put` may be called there.
    """

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Wake the main thread, now or at its next wait."""
        self._told.put(None)

    def wait(self, timeout: float) -> None:
        """Wait until it is set, or was set since the last wait."""
        with contextlib.suppress(queue.Empty):
            self._told.get(timeout=timeout)
            while True:
                self._told.get_nowait()


@dataclass(slots=True)
class _Signals:
    """The requests of signals and other threads to the main thread."""

    wake: Wake
    asked_to_stop: int = 0
    asked_to_reload: bool = False

    def on_signal(self, number: int, _: FrameType | None) -> None:
        self.ask()
        log.info("signal", name=signal.Signals(number).name)

    def on_hangup(self, _number: int, _: FrameType | None) -> None:
        self.asked_to_reload = True
        self.wake.set()

    def ask(self) -> None:
        self.asked_to_stop += 1
        self.wake.set()


@dataclass(frozen=True, kw_only=True, slots=True)
class _StateFiles:
    """The state files that this process leaves for the next process with its name."""

    lock: InstanceLock
    subscribed: SubscriptionRecord
    pace: MeasuredWindow


def _files_of(settings: Settings, topics: Topics, identity: Identity) -> _StateFiles:
    folder = settings.state_dir
    return _StateFiles(
        lock=InstanceLock(folder, root=topics.root, identity=identity),
        subscribed=SubscriptionRecord(folder / "subscribed"),
        pace=MeasuredWindow(folder / "pace", of=speed_mark(settings)),
    )


class Daemon:
    """One model, one broker, one process."""

    def __init__(
        self,
        settings: Settings,
        systemd: Systemd,
        *,
        read_settings: ReadSettings,
        make_engine: Callable[[Settings, Tasks], StoppableEngine] = make_engine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        tasks = tasks_of(settings.tasks, settings.languages)
        self._engine = SwitchableEngine(make_engine(settings, tasks), clock=clock)
        self._live = LiveSettings(
            settings, read=read_settings, contract_of=contract_of, prepare=self._engine.prepare, post=self._post
        )
        self._clock = clock
        self._started = clock()
        self._signals = _Signals(Wake())
        self._notifier = Notifier(systemd.notify_socket)
        self._listening = contextlib.ExitStack()
        topics = self._live.contract.topics
        self._identity = identity_of(settings)
        metrics = Metrics()
        self._journal = journal_of(settings, clock)
        self._files = _files_of(settings, topics, self._identity)
        prober = Prober(self._engine, clock=clock, timeout_s=settings.health.stall_after)
        self._link = link_of(
            settings,
            topics,
            subscriptions=_subscriptions(topics),
            identity=self._identity,
            on_delivery=self._on_delivery,
            on_change=self._on_link_change,
        )
        self._worker = _worker_of(
            settings,
            self._live.contract,
            engine=self._engine,
            link=self._link,
            journal=self._journal,
            metrics=metrics,
            on_control=self._on_control,
            clock=clock,
        )
        self._log_publisher = LogPublisher(self._link, topic=topics.log, clock=clock, wall_clock=time.time)
        self._health = self._make_health(metrics, prober)
        self._discovery = discovery_of(
            settings, lambda: self._live.contract, link=self._link, engine=self._engine, report=self._health.snapshot
        )
        self._membership = self._join(topics)
        self._name_watch = NameWatch(settings, identity=self._identity, on_found=self._signals.wake.set, clock=clock)
        self._reception = self._make_reception()
        self._models = _models_of(
            self._live, engine=self._engine, link=self._link, worker=self._worker, make_engine=make_engine, clock=clock
        )
        self._control = self._control_of(prober)
        self._live.parts = (self._reception.use, self._control.use, self._worker.use, self._use)

    def _join(self, topics: Topics) -> Membership | None:
        return join(
            self._live.settings,
            topics,
            link=self._link,
            worker=self._worker.state,
            is_well=lambda: self._health.state is State.READY,
            note=self._files.pace.note,
            clock=self._clock,
        )

    def run(self) -> ExitCode:
        """Serve until a signal or a fatal fault; gives the exit code.

        Raises:
            NameTaken: a daemon of our name runs already.
            FatalError: the model cannot be loaded, a part died, or another daemon took our name.
        """
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._signals.on_signal)
        signal.signal(signal.SIGHUP, self._signals.on_hangup)
        _make_private(self._live.settings.state_dir)
        with self._files.lock.held():
            return self._run()

    def _run(self) -> ExitCode:
        self._listening = listen(
            self._live.settings,
            contract=lambda: self._live.contract,
            worker=self._worker,
            engine=self._engine,
            health=self._health,
        )
        self._log_publisher.use(self._live.settings.log)
        logs.add_handler(self._log_publisher)
        self._listening.callback(logs.remove_handler, self._log_publisher)
        log.info(
            "starting", version=__version__, root=self._live.contract.topics.root, model=self._live.settings.model.id
        )
        discard_conversations(self._live.settings)
        self._engine.start()  # the model loads beside what follows
        self._notifier.status("looking for another daemon of this name")
        try:
            _take_name(self._files.lock, self._live, self._signals, self._clock)
        except FatalError:
            self._engine.stop(_FINAL_S)
            raise
        self._notifier.status("connecting")
        if self._membership is not None:
            self._membership.recall(self._files.pace.recall(at_most=self._live.settings.queue_capacity))
        self._link.listen(route_filters(self._live.settings), at_qos_0=lossy_filters(self._live.settings))
        self._link.start(unsubscribe_from=self._files.subscribed.begin(self._filters()))
        self._link.publish(self._health.status())
        try:
            is_loaded = self._load()
            if is_loaded:
                self._serve()
            return self._shut_down(is_loaded=is_loaded)
        except FatalError as error:
            if not self._name_watch.has_namesake:  # else the name and the status belong to the other daemon
                self._health.become(State.STOPPED, (str(error),))
            self._stop_parts(None)
            raise

    def _tell_what_came_again(self) -> None:
        """After a crash of the process before: log once how many requests the broker sent again."""
        came_again = self._reception.came_again
        if self._files.lock.unended is not None and came_again is not None:
            self._files.lock.unended = None
            log.warning("requests_came_again", requests=came_again)

    def _filters(self) -> tuple[str, ...]:
        topics = self._live.contract.topics
        return (*_subscriptions(topics), *route_filters(self._live.settings), *topics.shared)

    def _make_health(self, metrics: Metrics, prober: Prober) -> Health:
        return health_of(
            self._live.settings,
            self._live.contract.topics,
            self._identity,
            parts=Parts(engine=self._engine, worker=self._worker.state, link=self._link),
            metrics=metrics,
            prober=prober,
            group=lambda: None if self._membership is None else self._membership.snapshot(),
            started=self._started,
            clock=self._clock,
            wall_clock=time.time,
        )

    def _make_reception(self) -> Reception:
        return Reception(
            topics=self._live.contract.topics,
            link=self._link,
            identity=self._identity,
            health=self._health,
            discovery=self._discovery,
            on_asked=self._worker.on_delivery,
            on_member=self._on_member,
            on_rival=self._name_watch.suspect,
            wake=self._signals.wake.set,
            clock=self._clock,
        )

    def _control_of(self, prober: Prober) -> Control:
        return Control(
            contract=self._live.contract,
            worker=self._worker,
            prober=prober,
            set_log_level=logs.set_level,
            live=self._live,
            change_model=self._models.obey,
            drain=self._signals.ask,
            is_late=self._reception.is_late,
        )

    # ---------------------------------------------------------------------------------------------- start, serve

    def _load(self) -> bool:
        """Load and warm up; False when a signal came first."""
        self._notifier.status(f"loading {self._live.settings.model.id}")
        while not self._engine.wait_ready(_TICK_S):
            self._notifier.extend_timeout(_LOAD_GRACE_S)
            self._name_watch.look(self._link.state())
            if self._membership is not None:
                self._membership.check_broker()
            if self._signals.asked_to_stop:
                return False
        self._worker.start()
        self._publish_info()
        self._models.tell()
        self._discovery.start()
        if self._membership is not None:
            self._membership.start()
        if self._link.state().connected_since is not None:  # then it got the UNSUBSCRIBE
            self._files.subscribed.note(self._filters())
        away = self._engine.state().away  # a server may be there and fail every request
        self._health.become(*((State.READY, ()) if away is None else (State.DEGRADED, (away,))))
        self._notifier.ready()
        log.info("ready", seconds=round(self._clock() - self._started, 2), requests=self._live.contract.topics.requests)
        return True

    def _serve(self) -> None:
        supervision = Supervision(
            self._health,
            engine=self._engine.state,
            worker=self._worker.state,
            stall_after=self._live.settings.health.stall_after,
            clock=self._clock,
        )
        while not self._signals.asked_to_stop:
            self._health.tick()
            self._discovery.tick()
            self._name_watch.look(self._link.state())
            supervision.check()
            if self._signals.asked_to_reload:
                self._signals.asked_to_reload = False
                self._worker.call(self._live.reload_or_log)
            self._tell_what_came_again()
            if self._membership is not None and self._membership.tick():
                self._health.report()
            reasons = "; ".join(self._health.reasons)
            self._notifier.status(f"{self._health.state}: {reasons}" if reasons else str(self._health.state))
            if self._health.makes_progress:
                self._notifier.watchdog()
            self._signals.wake.wait(_TICK_S)

    def _use(self, live: LiveSettings) -> None:
        """Change what no part of its own changes, after the settings did."""
        self._link.listen(route_filters(live.settings), at_qos_0=lossy_filters(live.settings))
        self._files.subscribed.note(self._filters())
        logs.set_level(live.settings.log.level)
        self._log_publisher.use(live.settings.log)
        self._publish_info()
        self._discovery.announce()

    def _publish_info(self) -> None:
        settings, contract = self._live.settings, self._live.contract
        info = describe(contract=contract, settings=settings, model=self._engine.model, version=__version__)
        self._link.publish(Publication(topic=contract.topics.info, payload=encode(info), qos=1, retain=True))

    # --------------------------------------------------------------------------- the network and worker threads'

    def _on_delivery(self, delivery: Delivery) -> None:
        self._reception.on_delivery(delivery)

    def _post(self, function: Callable[[], None]) -> None:
        self._worker.call(function)

    def _on_control(self, route: ControlRoute, delivery: Delivery) -> None:
        self._control.handle(route, delivery)

    def _on_member(self, route: ProbeRoute | MemberRoute, payload: bytes) -> None:
        if self._membership is not None:
            self._membership.hear(route, payload)

    def _on_link_change(self, state: LinkState) -> None:
        _log_link(state)
        self._signals.wake.set()

    # -------------------------------------------------------------------------------------------------- shut down

    def _shut_down(self, *, is_loaded: bool) -> ExitCode:
        """Finish the requests in hand or leave them to the broker, then stop the parts in the reverse order of start.

        Without a model no request can be finished, but the worker is started to answer requests at QoS 0 with an error.
        """
        begin = self._clock()
        asked = self._signals.asked_to_stop
        timeout = self._live.settings.shutdown_timeout
        self._notifier.stopping()
        self._notifier.status("draining")
        self._health.become(State.DRAINING)
        if self._membership is not None:
            _hand_over(self._membership, self._signals, self._clock)
        # The last box of a group stays subscribed: brokers throw away what comes to a queue without subscribers.
        self._link.unsubscribe(keep_shared=self._membership is not None and self._membership.is_last())
        self._worker.drain()
        if not is_loaded:
            self._worker.start()
        finished = False
        while is_loaded and not finished and self._clock() - begin < timeout and self._signals.asked_to_stop == asked:
            finished = self._worker.wait_idle(0.1)
        if not finished:
            self._worker.abandon()
            self._worker.wait_idle(1.0)
            log.warning("work_handed_back")
        self._engine.keep_conversations()
        self._stop_parts(self._health.status(State.STOPPED))
        log.info("stopped", seconds=round(self._clock() - begin, 2))
        return ExitCode.INTERRUPTED if self._signals.asked_to_stop > asked else ExitCode.DONE

    def _stop_parts(self, final: Publication | None) -> None:
        self._name_watch.stop()
        self._worker.call(lambda: _close(self._journal))
        self._worker.stop(_FINAL_S)
        self._engine.stop(_FINAL_S)
        self._link.stop(final, _FINAL_S)
        self._listening.close()


def _models_of(
    live: LiveSettings,
    *,
    engine: SwitchableEngine,
    link: Link,
    worker: Worker,
    make_engine: Callable[[Settings, Tasks], StoppableEngine],
    clock: Callable[[], float],
) -> Models:
    """Make the part that changes the model."""
    topic = live.contract.topics.model

    def publish(report: ModelReport) -> None:
        link.publish(Publication(topic=topic, payload=encode(report.body()), qos=1, retain=True))

    return Models(
        engine=engine,
        live=live,
        make_engine=make_engine,
        store=lambda settings: Store(settings.model_dir),
        try_out=try_out_bundle,
        trial=ModelTrial(live.settings.state_dir, wall_clock=time.time),
        publish=publish,
        hold=lambda is_held: worker.hold(is_held=is_held),
        post=worker.call,
        clock=clock,
    )


def _take_name(lock: InstanceLock, live: LiveSettings, signals: _Signals, clock: Callable[[], float]) -> None:
    """Check that no other daemon of our name runs, and record that this one does."""
    if (unended := lock.unended) is not None:
        log.warning("unclean_end", of="the process before this one", started=unended.started, pid=unended.pid)
    NameCheck(live.settings, status_topic=live.contract.topics.status, clock=clock).run(
        ended=None if unended is None else unended.boot_id, is_stopping=lambda: signals.asked_to_stop > 0
    )
    lock.note()


def _hand_over(membership: Membership, signals: _Signals, clock: Callable[[], float]) -> None:
    """Go on taking work for a moment, if other boxes of the group may have left the queue to this one.

    The others learn that this box stops, and take over the queue.
    """
    until = clock() + _HANDOVER_S
    while membership.must_hand_over and signals.asked_to_stop == 1 and (left := until - clock()) > 0:
        signals.wake.wait(left)


def _close(journal: "SqliteJournal | RedisJournal") -> None:
    with contextlib.suppress(JournalFault):
        journal.tidy(is_quiet=True)
    journal.close()


def _log_link(state: LinkState) -> None:
    if state.connected_since is not None:
        log.info("broker_connected", protocol=state.protocol, reconnects=state.reconnects)
    elif state.fault == STOPPED:
        log.info("broker_left")
    elif state.fault is not None:
        log.warning("broker_lost", reason=state.fault)


def _subscriptions(topics: Topics) -> tuple[str, ...]:
    """Topic filters of the daemon's own; the group's queue is subscribed to separately, according to load."""
    return (topics.requests, topics.controls, topics.status, *topics.births, *Membership.subscriptions(topics))


def _worker_of(
    settings: Settings,
    contract: Contract,
    *,
    engine: StoppableEngine,
    link: Link,
    journal: Journal,
    metrics: Metrics,
    on_control: Callable[[ControlRoute, Delivery], None],
    clock: Callable[[], float],
) -> Worker:
    return Worker(
        contract=contract,
        engine=engine,
        link=link,
        journal=journal,
        metrics=metrics,
        capacity=settings.queue_capacity,
        batch=settings.engine.max_batch,
        languages=LanguageRule.of_settings(settings),
        on_control=on_control,
        calibration=RunningCalibration() if settings.calibration == "running" else None,
        has_shared_journal=settings.journal.url is not None and settings.journal.keep_text,
        commit_after_s=settings.journal.commit_ms / 1000,
        sender_record=settings.state_dir / "senders",
        clock=clock,
    )


def _make_private(folder: Path) -> None:
    """Make the state folder. One that cannot be made shows as a fault of the journal; the daemon goes on."""
    fault = state_files.fault_of(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        fault = fault or str(error.strerror)
    if fault is not None:
        log.warning("state_dir", path=str(folder), reason=fault)
