"""The daemon: which part is made of what, in which order they start and stop, and what a signal does.

Nothing is decided here about a request; see `worker.py` for that, and `health.py` for what the world is told.
"""

import contextlib
import json
import signal
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from edged import __version__, logs
from edged.build import contract_of, journal_of, make_engine, speed_mark
from edged.contract.results import encode, rfc3339
from edged.contract.status import Identity, State, client_mark
from edged.contract.topics import Topics
from edged.errors import ExitCode, FatalError, JournalFault
from edged.fleet.membership import Membership
from edged.fleet.name_clash import Lookout
from edged.fleet.pace import Pace
from edged.fleet.policy import Group
from edged.monitoring import system
from edged.monitoring.health import Health
from edged.monitoring.home_assistant import Discovery, births
from edged.monitoring.home_assistant import describe as describe_device
from edged.monitoring.info import describe
from edged.monitoring.metrics import Metrics
from edged.monitoring.parts import Parts
from edged.monitoring.probe import Prober, Probing
from edged.monitoring.prometheus import Exporter
from edged.monitoring.report import Reporter
from edged.monitoring.systemd import Notifier
from edged.mqtt.link import STOPPED, Link
from edged.mqtt.past_subscriptions import Subscribed
from edged.ports.engine import StoppableEngine
from edged.ports.link import Delivery, LinkState, Publication
from edged.serving.control import Control
from edged.serving.worker import Worker
from edged.settings.load import Systemd
from edged.settings.schema import Settings
from edged.tasks.calibration import RunningCalibration
from edged.tasks.own import tasks_of
from edged.tasks.specs import Tasks

log = structlog.get_logger(__name__)

_TICK_S = 1.0
_LOAD_GRACE_S = 30.0  # asked of systemd again and again while the model loads
_FINAL_S = 5.0  # for the last message and the last disk write
_BACKLOG_S = 30.0  # in which the broker brings what it kept for us
_OVERSIZE = 16 << 20  # bytes over the largest request that are read, to be answered; beyond, nothing is
_SILENT_REPORTS = 3  # of another box's health that do not come, after which it is not counted on; boxes tell alike
_HANDOVER_S = 1.0  # for another box of the group to take the queue over
_STALLS = 3  # times `health.stall_after` without progress after which the process ends, for a supervisor to restart it


@dataclass(slots=True)
class _Signals:
    """What the outside asked of the main thread."""

    wake: threading.Event
    asked_to_stop: int = 0

    def on_signal(self, number: int, _: FrameType | None) -> None:
        log.info("signal", name=signal.Signals(number).name)
        self.ask()

    def ask(self) -> None:
        self.asked_to_stop += 1
        self.wake.set()


class Daemon:
    """One model, one broker, one process."""

    def __init__(
        self,
        settings: Settings,
        systemd: Systemd,
        *,
        make_engine: Callable[[Settings, Tasks], StoppableEngine] = make_engine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        tasks = tasks_of(settings.tasks)
        self._contract = contract_of(settings, tasks)
        self._clock = clock
        self._started = clock()
        self._systemd = systemd
        self._exporter: Exporter | None = None
        self._notifier = Notifier(systemd.notify_socket)
        self._signals = _Signals(threading.Event())
        self._heard_ourselves_at: float | None = None
        self._progress_at = self._started
        self._metrics = Metrics()
        self._journal = journal_of(settings, clock)
        self._engine = make_engine(settings, tasks)
        topics = self._contract.topics
        self._identity = Identity(
            boot_id=uuid.uuid4().hex[:12],
            started=rfc3339(time.time()),
            version=__version__,
            client=client_mark(settings.client_id),
        )
        subscriptions = (
            topics.requests,
            topics.controls,
            topics.status,
            *births(settings.homeassistant),
            *Membership.subscriptions(topics),
        )
        self._filters = (*subscriptions, *topics.shared)
        self._subscribed = Subscribed(settings.state_dir / "subscribed")
        self._pace = Pace(settings.state_dir / "pace", of=speed_mark(settings))
        prober = Prober(self._engine, clock=clock, timeout_s=settings.health.stall_after)
        self._link = Link(
            settings=settings.mqtt,
            client_id=settings.client_id,
            subscriptions=subscriptions,
            temporary=(topics.controls, *topics.members),
            at_qos_0=topics.members,  # a box with much to do must hear the others still
            shared=topics.shared,
            will=Publication(
                topic=topics.status,
                payload=encode(self._identity.last_will().body()),
                qos=1,
                retain=True,
            ),
            receive_maximum=settings.queue.capacity,
            maximum_packet_size=settings.limits.payload_bytes + _OVERSIZE,
            on_delivery=self._on_delivery,
            on_change=self._on_link_change,
        )
        self._discovery = Discovery(
            settings=settings.homeassistant,
            topics=topics,
            link=self._link,
            record=settings.state_dir / "homeassistant",
            describe=self._device,
        )
        self._worker = Worker(
            contract=self._contract,
            engine=self._engine,
            link=self._link,
            journal=self._journal,
            metrics=self._metrics,
            capacity=settings.queue.capacity,
            batch=settings.engine.max_batch,
            language=None if settings.language == "auto" else settings.language,
            on_control=self._on_control,
            calibration=RunningCalibration() if settings.calibration == "running" else None,
            has_shared_journal=settings.journal.url is not None and settings.journal.keep_text,
            clock=clock,
        )
        self._membership = self._join(settings, topics)
        self._control = Control(
            contract=self._contract,
            link=self._link,
            prober=prober,
            set_log_level=logs.set_level,
            drain=self._signals.ask,
            is_late=self._is_late,
        )
        self._health = self._make_health(settings, topics, prober)
        self._lookout = Lookout(settings, identity=self._identity, on_found=self._signals.wake.set, clock=clock)

    def run(self) -> ExitCode:
        """Serve until a signal or a fatal fault; gives the exit code.

        Raises:
            FatalError: the model cannot be loaded, or another daemon has our name.
        """
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._signals.on_signal)
        self._exporter = self._start_exporter()
        _make_private(self._settings.state_dir)
        log.info("starting", version=__version__, root=self._contract.topics.root, model=self._settings.model.id)
        self._notifier.status("connecting")
        if self._membership is not None:
            self._membership.recall(self._pace.recall(at_most=self._settings.queue.capacity))
        self._link.start(unsubscribe_from=self._subscribed.begin(self._filters))
        self._link.publish(self._health.status())
        try:
            is_loaded = self._load()
            if is_loaded:
                self._serve()
            return self._shut_down(is_loaded=is_loaded)
        except FatalError as error:
            if not self._lookout.has_namesake:  # else the name is another's, and so is the status
                self._health.become(State.STOPPED, (str(error),))
            self._stop_parts(None)
            raise

    def _make_health(self, settings: Settings, topics: Topics, prober: Prober) -> Health:
        stall_after, clock = settings.health.stall_after, self._clock
        parts = Parts(engine=self._engine, worker=self._worker.state, link=self._link)
        probing = Probing(prober, interval=settings.health.probe_interval, give_up_after=stall_after, clock=clock)
        reporter = Reporter(
            identity=self._identity,
            parts=parts,
            metrics=self._metrics,
            probing=probing,
            system=lambda: system.read(settings.state_dir),
            group=lambda: None if self._membership is None else self._membership.snapshot(),
            started=self._started,
            clock=clock,
            wall_clock=time.time,
        )
        return Health(
            topics=topics,
            identity=self._identity,
            parts=parts,
            probing=probing,
            reporter=reporter,
            stall_after=stall_after,
            interval=settings.health.interval,
            clock=clock,
            wall_clock=time.time,
        )

    def _join(self, settings: Settings, topics: Topics) -> Membership | None:
        if topics.group is None:
            return None
        capacity = settings.queue.capacity
        group = Group(
            topics.group,
            node=topics.node,
            shards=topics.shards,
            batch=settings.engine.max_batch,
            capacity=capacity,
            silence_s=_SILENT_REPORTS * settings.health.interval,
        )
        return Membership(
            group,
            topics=topics,
            link=self._link,
            worker=self._worker.state,
            is_well=lambda: self._health.state is State.READY,
            note=self._pace.note,
            clock=self._clock,
        )

    # ---------------------------------------------------------------------------------------------- start, serve

    def _start_exporter(self) -> Exporter | None:
        settings = self._settings.metrics
        if settings.port == 0:
            return None
        node = self._contract.topics.node
        return Exporter(host=settings.host, port=settings.port, node=node, snapshot=self._health.snapshot)

    def _load(self) -> bool:
        """Load and warm up; False when a signal came first."""
        self._notifier.status(f"loading {self._settings.model.id}")
        self._engine.start()
        while not self._engine.wait_ready(_TICK_S):
            self._notifier.extend_timeout(_LOAD_GRACE_S)
            self._lookout.look(self._link.state())
            if self._membership is not None:
                self._membership.check_broker()
            if self._signals.asked_to_stop:
                return False
        self._worker.start()
        self._publish_info()
        self._discovery.start()
        if self._membership is not None:
            self._membership.start()
        if self._link.state().connected_since is not None:  # and so the broker has heard what is to end
            self._subscribed.note(self._filters)
        away = self._engine.state().away  # a server may be there and fail all that it is asked
        self._health.become(*((State.READY, ()) if away is None else (State.DEGRADED, (away,))))
        self._notifier.ready()
        log.info("ready", seconds=round(self._clock() - self._started, 2), requests=self._contract.topics.requests)
        return True

    def _serve(self) -> None:
        self._progress_at = self._clock()
        while not self._signals.asked_to_stop:
            self._health.tick()
            self._discovery.tick()
            self._lookout.look(self._link.state())
            self._check_parts_live()
            if self._membership is not None:
                self._tick_membership(self._membership)
            reasons = "; ".join(self._health.reasons)
            self._notifier.status(f"{self._health.state}: {reasons}" if reasons else str(self._health.state))
            if self._health.makes_progress:
                self._notifier.watchdog()
            self._signals.wake.wait(_TICK_S)
            self._signals.wake.clear()

    def _tick_membership(self, membership: Membership) -> None:
        if membership.tick():
            self._health.report()

    def _check_parts_live(self) -> None:
        """A part that died does not come back by itself; systemd starts us anew and the broker has the work."""
        died = self._engine.state().fault or self._worker.state().died
        if died is not None:
            raise FatalError(died)
        now = self._clock()
        if self._health.makes_progress:
            self._progress_at = now
        # A thread that stands still cannot be mended from outside. Under systemd the watchdog comes before this.
        elif now - self._progress_at >= (_STALLS - 1) * self._settings.health.stall_after:
            raise FatalError("; ".join(self._health.reasons) or "a thread stands still")

    def _publish_info(self) -> None:
        info = describe(contract=self._contract, settings=self._settings, model=self._engine.model, version=__version__)
        self._link.publish(Publication(topic=self._contract.topics.info, payload=encode(info), qos=1, retain=True))

    def _device(self) -> dict[str, Any]:
        return describe_device(
            topics=self._contract.topics,
            tasks=self._contract.tasks,
            model=self._engine.model.id,
            version=__version__,
            report=self._health.snapshot(),
        )

    # ------------------------------------------------------------------------------------- the network thread's

    def _on_delivery(self, delivery: Delivery) -> None:
        topic, payload = delivery.message.topic, delivery.message.payload
        if self._contract.topics.asks(topic) or self._contract.topics.asks_another(topic):
            self._worker.on_delivery(delivery)
            return
        if delivery.ticket is not None:
            self._link.settle(delivery.ticket)
        if self._discovery.hear(topic, payload):
            self._signals.wake.set()
        elif topic == self._contract.topics.status:
            self._hear_status(delivery)
        elif self._membership is not None and self._membership.hear(topic, payload):
            self._signals.wake.set()  # a box may have come, or gone: its work may be ours now
        else:
            # Of other settings, whose subscriptions the broker had kept for our session.
            log.debug("stray_message", topic=topic)

    def _hear_status(self, delivery: Delivery) -> None:
        status = _json_object(delivery.message.payload)
        if self._identity.is_ours(status) and self._heard_ourselves_at is None:
            self._heard_ourselves_at = delivery.received_at
        self._health.hear_status(status)
        if self._identity.is_rival(status):
            self._lookout.suspect()
            self._signals.wake.set()

    def _is_late(self, delivery: Delivery) -> bool:
        """Whether the broker may have kept `delivery` since before this process.

        What it kept comes before the first status of ours, which it got after all that. Where we may not read our
        status, the first seconds of the connection are all that can be told.
        """
        if self._heard_ourselves_at is not None:
            return delivery.received_at < self._heard_ourselves_at
        connected = self._link.state().connected_since
        return connected is None or delivery.received_at < connected + _BACKLOG_S

    def _on_link_change(self, state: LinkState) -> None:
        if state.connected_since is not None:
            log.info("broker_connected", protocol=state.protocol, reconnects=state.reconnects)
        elif state.fault == STOPPED:
            log.info("broker_left")
        elif state.fault is not None:
            log.warning("broker_lost", reason=state.fault)
        self._signals.wake.set()

    def _on_control(self, delivery: Delivery) -> None:
        self._control.handle(delivery, self._worker)

    # -------------------------------------------------------------------------------------------------- shut down

    def _shut_down(self, *, is_loaded: bool) -> ExitCode:
        """Finish what is in hand, or give it back to the broker; then stop in the reverse order of start.

        Without a model nothing can be finished; the worker starts all the same, to tell those who asked at QoS 0.
        """
        begin = self._clock()
        asked = self._signals.asked_to_stop
        timeout = self._settings.shutdown_timeout
        self._notifier.stopping()
        self._notifier.status("draining")
        self._health.become(State.DRAINING)
        self._hand_over()
        # Who goes last leaves no queue behind that nobody subscribes to: brokers throw away what comes there.
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
        self._stop_parts(self._health.status(State.STOPPED))
        log.info("stopped", seconds=round(self._clock() - begin, 2))
        return ExitCode.INTERRUPTED if self._signals.asked_to_stop > asked else ExitCode.DONE

    def _hand_over(self) -> None:
        """Take work still, until a box of the group that had left it to us has heard that we go, and we have heard it.

        Who is new may have been ready for a moment only.
        """
        until = self._clock() + _HANDOVER_S
        while (
            self._membership is not None
            and self._membership.must_hand_over
            and self._signals.asked_to_stop == 1
            and (left := until - self._clock()) > 0
        ):
            self._signals.wake.clear()
            self._signals.wake.wait(left)

    def _stop_parts(self, final: Publication | None) -> None:
        self._lookout.stop()
        self._worker.call(self._close_journal)
        self._worker.stop(_FINAL_S)
        self._engine.stop(_FINAL_S)
        self._link.stop(final, _FINAL_S)
        if self._exporter is not None:
            self._exporter.stop()

    def _close_journal(self) -> None:
        with contextlib.suppress(JournalFault):
            self._journal.tidy(is_quiet=True)
        self._journal.close()


def _json_object(payload: bytes) -> dict[str, Any]:
    """What a payload says; nothing, if it is no JSON object."""
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _make_private(folder: Path) -> None:
    """Make the state folder. A folder that cannot be made shows as a fault of the journal, not as the end."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        log.warning("state_dir", path=str(folder), reason=error.strerror)
