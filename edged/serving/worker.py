"""The worker: one thread that owns every job. Other threads only queue events. It commits once for all events of a
round.

Its parts: `intake` makes jobs of deliveries, `running` has the engine work on them, `outbound` records, publishes and
settles. All of them run in this thread.
"""

import queue
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import structlog

from edged.contract.requests import Contract, Rejected, Request
from edged.contract.topics import AskedRoute, ControlRoute, RuleRoute, TaskRoute
from edged.errors import Cancelled, ShuttingDown
from edged.journal.buffered import BufferedJournal
from edged.monitoring.metrics import Metrics
from edged.ports.caller import Caller
from edged.ports.engine import Engine
from edged.ports.journal import Journal
from edged.ports.link import Delivery, Link
from edged.ports.worker import WorkerState
from edged.serving.engine_queue import EngineQueue
from edged.serving.intake import Intake
from edged.serving.job import Job
from edged.serving.job_runner import JobRunner
from edged.serving.live_settings import LiveSettings
from edged.serving.open_jobs import OpenJobs
from edged.serving.outbound import Answers, Outbound
from edged.serving.rate import ServiceRate
from edged.serving.senders import Senders
from edged.tasks.calibration import RunningCalibration
from edged.tasks.text import Language

log = structlog.get_logger(__name__)

_BATCH = 256  # events handled between two commits
_TICK_S = 0.5

_Event = Callable[[], None]  # run in the worker's thread


class Worker:
    """Answers requests for tasks, and hands commands to `on_control`.

    Attributes:
        recorder: results and conversations; for the worker's thread, and so for `on_control`.
        outbound: the way out; for the worker's thread, and so for `on_control`.
    """

    def __init__(
        self,
        *,
        contract: Contract,
        engine: Engine,
        link: Link,
        journal: Journal,
        metrics: Metrics,
        capacity: int,
        batch: int = 1,
        language: Language | None,
        on_control: Callable[[ControlRoute, Delivery], None],
        calibration: RunningCalibration | None = None,
        has_shared_journal: bool = False,
        commit_after_s: float = 0.0,
        sender_record: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """Assign; `start` begins.

        `batch` requests are answered side by side. `language` None: each text's script decides. Without a `calibration`
        scores stay as the engine gives them. `has_shared_journal`: other boxes of the group record there too. A result
        waits `commit_after_s` seconds for others, which are recorded with it. `sender_record` keeps what senders took.
        """
        self._capacity = capacity
        self._on_control = on_control
        self._calibration = calibration
        self._clock = clock
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._in_hand = OpenJobs()
        self._rate = ServiceRate(batch=batch, clock=clock)
        self._senders = Senders(contract, clock=clock, wall_clock=wall_clock, record=sender_record)
        self.recorder = BufferedJournal(journal, clock=clock)
        self.outbound = Outbound(
            link, node=contract.topics.node, metrics=metrics, post=self._events.put, clock=clock, wall_clock=wall_clock
        )
        self._answers = Answers(
            outbound=self.outbound,
            recorder=self.recorder,
            in_hand=self._in_hand,
            metrics=metrics,
            rate=self._rate,
            calibration=calibration,
            has_shared_journal=has_shared_journal,
            commit_after_s=commit_after_s,
            model=lambda: engine.model,
            on_answered=self._answered,
            clock=clock,
            wall_clock=wall_clock,
        )
        self._running = self._make_running(engine, batch)
        self._intake = self._make_intake(contract, metrics, language, new_id)
        self._is_stopping = False
        self._idle = threading.Event()
        self._died: str | None = None
        self._last_progress = clock()
        self._thread = threading.Thread(target=self._main, name="worker", daemon=True)

    def _make_running(self, engine: Engine, batch: int) -> JobRunner:
        queue = EngineQueue(engine, batch=batch, senders=self._senders, post=self._events.put, clock=self._clock)
        return JobRunner(
            engine=engine,
            queue=queue,
            in_hand=self._in_hand,
            recorder=self.recorder,
            answers=self._answers,
            outbound=self.outbound,
            calibration=self._calibration,
            clock=self._clock,
        )

    def _make_intake(
        self, contract: Contract, metrics: Metrics, language: Language | None, new_id: Callable[[], str]
    ) -> Intake:
        return Intake(
            contract=contract,
            in_hand=self._in_hand,
            recorder=self.recorder,
            outbound=self.outbound,
            answers=self._answers,
            running=self._running,
            metrics=metrics,
            rate=self._rate,
            senders=self._senders,
            capacity=self._capacity,
            language=language,
            clock=self._clock,
            new_id=new_id,
        )

    # ------------------------------------------------------------------------------ called from other threads

    def start(self) -> None:
        self._last_progress = self._clock()
        self._events.put(self._begin)
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread; what is in hand stays unacked at the broker."""
        self._events.put(self._stop)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def on_delivery(self, route: AskedRoute, delivery: Delivery) -> None:
        """Take in what is asked of the daemon; for the link's thread."""
        self._events.put(lambda: self._take(route, delivery))
        self.recorder.hurry()

    def ask(self, asked: Request | Rejected) -> None:
        """Take in what a caller in this process asks; from any thread."""
        self._events.put(lambda: self._intake.take_asked(asked))
        self.recorder.hurry()

    def hang_up(self, caller: Caller) -> None:
        """The caller waits no longer: what nobody else waits for is cancelled. From any thread."""
        self._events.put(lambda: self._forsake(caller))

    def call(self, function: Callable[[], None]) -> None:
        """Run `function` in the worker's thread, between two events."""
        self._events.put(function)

    def drain(self) -> None:
        """Begin no new work; `wait_idle` tells when what is in hand is done."""
        self._events.put(self._begin_drain)

    def wait_idle(self, timeout: float) -> bool:
        """After `drain`: wait until everything is answered and confirmed."""
        return self._idle.wait(timeout)

    def abandon(self) -> None:
        """After `drain`: give up what is left. QoS 1 goes back to the broker, senders at QoS 0 are told."""
        self._events.put(self._give_up)

    def state(self) -> WorkerState:
        jobs = list(self._in_hand)
        return WorkerState(
            jobs=len(jobs),
            capacity=self._capacity,
            oldest=min((job.received for job in jobs), default=None),
            last_progress=self._last_progress,
            service_s=self._rate.seconds,
            journal_fault=self.recorder.fault,
            died=self._died,
            senders=self._senders.counts(job.request.sender for job in jobs),
        )

    # -------------------------------------------------------------------- for control, in the worker's thread

    def use(self, live: LiveSettings) -> None:
        """Take in requests by these settings from now on."""
        self._intake.use(live.contract, live.settings.prompt_language)
        self._senders.use(live.contract)

    def hold(self, *, is_held: bool) -> None:
        """Give the engine no work, or go on with it. What waits is not acked: the broker has it too."""
        self._running.hold(is_held=is_held)

    def cancel(self, request_id: str, owner: str | None = None) -> int:
        """Cancel the jobs of this id (and owner, if one is named), waiting or running; gives how many there were."""
        jobs = [job for job in self._in_hand if job.request.id == request_id and job.answer is None]
        jobs = [job for job in jobs if owner in {None, job.request.owner}]
        for job in jobs:
            self._cancel(job)
        return len(jobs)

    def forget(self, conversation: str) -> int:
        """Delete a conversation; gives how many turns it had. Raises JournalFault."""
        self._running.forget(conversation)
        return self.recorder.forget(conversation)

    # ---------------------------------------------------------------------------------- the worker's own thread

    def _main(self) -> None:
        try:
            while not self._is_stopping:
                self.turn(_TICK_S)
        except Exception as error:
            # The top of the thread: the supervision must see that the thread has ended.
            self._died = f"the worker stopped: {type(error).__name__}: {error}"
            log.exception("worker_died")

    def turn(self, wait_s: float) -> None:
        """Handle the events at hand, waiting for the first, then commit and publish once for all of them."""
        handled = 0
        if (due_in := self._answers.commit_due_in()) is not None:
            wait_s = min(wait_s, due_in)
        try:
            event = self._events.get(timeout=wait_s) if wait_s > 0 else self._events.get_nowait()
            event()
            for handled in range(1, _BATCH):  # noqa: B007 - read below
                self._events.get_nowait()()
        except queue.Empty:
            pass
        self._running.expire_waiting()
        self.outbound.tick()
        if not self._answers.commit_due_in() or self._intake.is_draining:
            self._answers.commit()
        self.recorder.tidy(is_quiet=not handled and not self._in_hand)
        self._senders.note()
        self._last_progress = self._clock()
        if self._intake.is_draining and not self._in_hand and self.outbound.is_idle:
            self._idle.set()

    def _begin(self) -> None:
        self.recorder.open()
        self._senders.recall()
        if self._calibration is not None:
            self._calibration.add(self.recorder.observations())

    def _take(self, route: AskedRoute, delivery: Delivery) -> None:
        match route:
            case TaskRoute() | RuleRoute():
                self._intake.take(route, delivery)
            case ControlRoute():
                self._on_control(route, delivery)

    def _forsake(self, caller: Caller) -> None:
        for job in self._in_hand:
            if job.answer is None and all(each.address.caller is caller for each in job.addressees):
                self._cancel(job)

    def _cancel(self, job: Job) -> None:
        if job.submitted is None:
            self._answers.fail(job, Cancelled("the request was cancelled before there was an answer"))
        else:
            self._running.cancel(job)

    def _answered(self, job: Job) -> None:
        self._running.leave(job)

    def _begin_drain(self) -> None:
        self._intake.is_draining = True

    def _give_up(self) -> None:
        for job in self._in_hand:
            if job.answer is None and not job.is_complete:
                self._running.cancel(job)
                self._answers.fail(job, ShuttingDown("the daemon is shutting down"))
        self.recorder.hand_back()

    def _stop(self) -> None:
        self._senders.note(at_once=True)
        self._is_stopping = True
