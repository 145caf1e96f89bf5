"""The worker: take, answer, record, publish, settle. One thread owns every job; others only put events in.

A delivery is settled when its answer has the broker's PUBACK, and not before. Answers are recorded before they are
published, many in one transaction, so a crash at any point ends in the same answer.
"""

import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from edged.contract.requests import Contract, Rejected, Request, decode
from edged.errors import Busy, Cancelled, Expired, Fate, ModelError, RequestError, ShuttingDown, TooLarge
from edged.journal.buffered import Recorder
from edged.monitoring.metrics import Metrics
from edged.ports.engine import Classified, Engine, Work, WorkEvent
from edged.ports.journal import Entry, Journal
from edged.ports.link import Delivery, Link, Outcome, Sent
from edged.ports.worker import WorkerState
from edged.serving.job import Addressee, Job, fingerprint_of, lacks_history, seed_of
from edged.serving.outbound import Responder
from edged.serving.sessions import Sessions
from edged.tasks.calibration import RunningCalibration, judge_of, observe
from edged.tasks.specs import ClassifySpec
from edged.tasks.text import Language, language_of

log = structlog.get_logger(__name__)

_BATCH = 256  # events handled between two commits
_TICK_S = 0.5
_FAULT = "a fault of the daemon; its log has more"
_RESEND_S = 1.0  # after which an answer is offered again that the link had no room for
MAX_STARTS = 2  # processes that may end over one request before it is given up


@dataclass(frozen=True, kw_only=True, slots=True)
class _Happened:
    number: int
    part: str
    event: WorkEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class _Published:
    number: int
    place: Addressee
    outcome: Outcome


_Call = Callable[[], None]  # run in the worker's thread
_Event = Delivery | _Happened | _Published | _Call


class Worker:
    """Answers deliveries below `in/`; hands those below `request/` to `on_control`.

    Attributes:
        recorder: results and conversations; for the worker's thread, and so for `on_control`.
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
        on_control: Callable[[Delivery], None],
        calibration: RunningCalibration | None = None,
        has_shared_journal: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """Assign; `start` begins.

        `batch` requests are answered side by side. `language` None goes by each text's script. Without a `calibration`
        scores stay as the engine gives them. `has_shared_journal`: other boxes of the group record there too.
        """
        self._contract = contract
        self._engine = engine
        self._responder = Responder(link, node=contract.topics.node, wall_clock=wall_clock)
        self.recorder = Recorder(journal, clock=clock)
        self._metrics = metrics
        self._capacity = capacity
        self._batch = batch
        self._language = language
        self._on_control = on_control
        self._calibration = calibration
        self._has_shared_journal = has_shared_journal
        self._clock = clock
        self._wall_clock = wall_clock
        self._new_id = new_id
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}
        self._by_identity: dict[tuple[str, str], Job] = {}
        self._sessions: Sessions[Job] = Sessions()
        self._suspects: deque[Job] = deque()  # the first one runs
        self._unsent: list[tuple[float, Job, Addressee]] = []  # when to offer an answer again
        self._complete: list[Job] = []  # answered since the last commit
        self._settled: list[tuple[str, str]] = []
        self._numbers = 0
        self._service_s: float | None = None
        self._counted_from = clock()
        self._draining = False
        self._stopping = False
        self._idle = threading.Event()
        self._died: str | None = None
        self._last_progress = clock()
        self._thread = threading.Thread(target=self._main, name="worker", daemon=True)

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

    def on_delivery(self, delivery: Delivery) -> None:
        """Take a delivery in; for the link's thread."""
        self._events.put(delivery)
        self.recorder.hurry()

    def call(self, function: Callable[[], None]) -> None:
        """Run `function` in the worker's thread, between two events."""
        self._events.put(function)

    def drain(self) -> None:
        """Begin no new work; `wait_idle` tells when what is in hand is done."""
        self._events.put(self._begin_drain)

    def wait_idle(self, timeout: float) -> bool:
        """After `drain`: wait until every job is answered and confirmed."""
        return self._idle.wait(timeout)

    def abandon(self) -> None:
        """After `drain`: give up what is left. QoS 1 goes back to the broker, QoS 0 is told."""
        self._events.put(self._give_up)

    def state(self) -> WorkerState:
        jobs = list(self._jobs.values())
        return WorkerState(
            jobs=len(jobs),
            capacity=self._capacity,
            oldest=min((job.received for job in jobs), default=None),
            last_progress=self._last_progress,
            service_s=self._service_s,
            journal_fault=self.recorder.fault,
            died=self._died,
        )

    # -------------------------------------------------------------------- for control, in the worker's thread

    def cancel(self, request_id: str) -> int:
        """Cancel the jobs of this id, waiting or running; gives how many there were."""
        jobs = [job for job in self._jobs.values() if job.request.id == request_id and job.payload is None]
        for job in jobs:
            if job.submitted is None:
                self._finish_with(job, Cancelled("the request was cancelled before there was an answer"))
            else:
                self._cancel_parts(job)
        return len(jobs)

    # ---------------------------------------------------------------------------------- the worker's own thread

    def _main(self) -> None:
        try:
            while not self._stopping:
                self.turn(_TICK_S)
        except Exception as error:
            # The top of the thread: whoever supervises must see that it is gone.
            self._died = f"the worker stopped: {type(error).__name__}: {error}"
            log.exception("worker_died")

    def turn(self, wait_s: float) -> None:
        """Handle the events at hand, waiting for the first, then commit and publish once for all of them."""
        handled = 0
        try:
            self._handle(self._events.get(timeout=wait_s) if wait_s > 0 else self._events.get_nowait())
            for handled in range(1, _BATCH):  # noqa: B007 - read below
                self._handle(self._events.get_nowait())
        except queue.Empty:
            pass
        self._expire_waiting()
        self._send_unsent()
        self._commit()
        self.recorder.tidy(is_quiet=not handled and not self._jobs)
        self._last_progress = self._clock()
        if self._draining and not self._jobs:
            self._idle.set()

    def _begin(self) -> None:
        self.recorder.open()
        if self._calibration is not None:
            self._calibration.add(self.recorder.observations())

    def _handle(self, event: _Event) -> None:
        if isinstance(event, Delivery):
            self._take(event)
        elif isinstance(event, _Happened):
            self._advance(event)
        elif isinstance(event, _Published):
            self._confirmed(event)
        else:
            event()

    # take

    def _take(self, delivery: Delivery) -> None:
        if self._contract.topics.control(delivery.message.topic) is not None:
            self._on_control(delivery)
            return
        self._metrics.received()
        if self._contract.topics.place(delivery.message.topic).is_shared:
            self._metrics.shared()
        if delivery.redelivered:
            self._metrics.redelivered()
        if self._draining and delivery.ticket is not None:
            return  # unacked: the broker keeps it for the next daemon
        decoded = decode(delivery.message, contract=self._contract, new_id=self._new_id())
        if isinstance(decoded, Request) and self._contract.topics.asks_another(delivery.message.topic):
            decoded = _not_ours(decoded)
        if isinstance(decoded, Rejected):
            self._reject(decoded, delivery)
            return
        try:
            self._take_request(decoded, delivery)
        except Exception:
            # A fault of ours that one message brings out must not end the daemon: the broker would bring it again.
            log.exception("request_fault", request_id=decoded.id)
            for job in [job for job in self._jobs.values() if job.request is decoded]:
                self._cancel_parts(job)
                self._leave(job)
            fault = ModelError(_FAULT)
            self._reject(Rejected(id=decoded.id, task=decoded.task, address=decoded.address, error=fault), delivery)

    def _take_request(self, request: Request, delivery: Delivery) -> None:
        fingerprint = fingerprint_of(request)
        running = self._in_hand(request, fingerprint, delivery)
        if running is not None:
            self._metrics.duplicate()
            new_places = running.join(request.address, delivery)
            if running.payload is not None:
                self._publish(running, new_places)
            return
        job = self._make_job(request, fingerprint, delivery)
        again = delivery.ticket.packet_id if delivery.redelivered and delivery.ticket is not None else None
        recorded = self.recorder.answer_before(request, fingerprint, redelivered_packet=again)
        if recorded is not None:
            self._metrics.duplicate()
            job.request = replace(request, id=recorded.request_id)
            job.payload = recorded.payload
            self._add(job)
            self._publish(job, job.addressees)
            return
        try:
            self._check_admissible(job)
        except RequestError as error:
            self._add(job)
            self._finish_with(job, error)
            return
        self._add(job)
        log.info("request_received", request_id=request.id, task=request.task, session=request.session)
        self._enqueue(job)

    def _in_hand(self, request: Request, fingerprint: str, delivery: Delivery) -> Job | None:
        """The job of the same request, if it has not ended yet."""
        if request.has_own_id:
            return self._by_identity.get((request.id, fingerprint))
        if not delivery.redelivered or delivery.ticket is None:
            return None
        return next(
            (
                job
                for job in self._jobs.values()
                if job.fingerprint == fingerprint and job.packet_id == delivery.ticket.packet_id
            ),
            None,
        )

    def _make_job(self, request: Request, fingerprint: str, delivery: Delivery) -> Job:
        self._numbers += 1
        ticket = delivery.ticket
        left = request.time_left_ms
        is_again = request.attempt > 1 or delivery.redelivered
        return Job(
            number=self._numbers,
            request=request,
            fingerprint=fingerprint,
            language=self._language or language_of(request.text),
            parts={spec.name: spec for spec in self._contract.tasks.parts(request.task)},
            addressees=[Addressee(request.address, [ticket] if ticket is not None else [])],
            packet_id=ticket.packet_id if ticket is not None else None,
            received=delivery.received_at,
            is_left_over=delivery.redelivered and ticket is not None,
            may_be_double=request.is_shared and is_again,
            deadline=None if left is None else delivery.received_at + left / 1000,
        )

    def _check_admissible(self, job: Job) -> None:
        if self._draining:
            raise ShuttingDown("the daemon is shutting down; send it again when it is back", retry_after_ms=5000)
        if job.deadline is not None and self._clock() >= job.deadline:
            raise Expired("the request's time was over when it was received")
        if job.is_lossy and len(self._jobs) >= self._capacity:
            raise Busy(
                f"{len(self._jobs)} requests are in hand and this one came at QoS 0; send it again later, or at "
                "QoS 1, where the broker keeps it",
                retry_after_ms=max(100, int(1000 * (self._service_s or 1.0))),
            )

    def _add(self, job: Job) -> None:
        if not self._jobs:
            self._counted_from = self._clock()
        self._jobs[job.number] = job
        self._by_identity[job.identity] = job

    def _reject(self, rejected: Rejected, delivery: Delivery) -> None:
        log.info("request_rejected", request_id=rejected.id, task=rejected.task[:64], code=rejected.error.code)
        self._metrics.failed(rejected.error.code)
        payload = self._responder.error(
            rejected.error, request_id=rejected.id, task=rejected.task, session=rejected.session
        )
        self._responder.send_and_settle(rejected.address, payload, delivery.ticket)

    # answer

    def _enqueue(self, job: Job) -> None:
        """Start the job, or let it wait for the earlier turns of its session."""
        session = self._session_of(job)
        if session is None or self._sessions.enter(session, job):
            self._start(job)

    def _session_of(self, job: Job) -> str | None:
        """The session whose turns this job reads and writes, if it does."""
        request = job.request
        if request.history is not None or not self._contract.tasks.keeps_history(request.task):
            return None
        return request.session

    def _start(self, job: Job) -> None:
        """Give the job to the engine, unless it is to be feared that it ends the process."""
        if job.is_left_over and (starts := self.recorder.starts(job.fingerprint)):
            if starts >= MAX_STARTS:
                reason = f"{starts + 1} processes of the daemon ended before they had an answer to this; it is given up"
                self._finish_with(job, ModelError(reason))
                return
            # One after the other, so that the one at fault ends the process alone.
            self._suspects.append(job)
            if self._suspects[0] is not job:
                return
        self._submit(job)

    def _submit(self, job: Job) -> None:
        if job.is_left_over:
            self.recorder.begin(job.fingerprint)
        session = self._session_of(job)
        turns, is_whole = job.request.history or (), True
        if session is not None:
            turns, is_whole = self.recorder.conversation(session)
            job.lacks_history = not is_whole or lacks_history(job.request, turns)
        job.submitted = self._clock()
        for part, spec in job.parts.items():
            work = Work(
                key=f"{job.number}/{part}",
                spec=spec,
                text=job.request.text,
                language=job.language,
                turns=turns if spec.keeps_history else (),
                params=job.request.params,
                seed=seed_of(*job.identity),
                continues=spec.keeps_history and (session is not None or job.request.history is not None),
                stream=job.request.stream and spec.streams_words,
                deadline=job.deadline,
            )
            self._engine.submit(work, self._listener(job.number, part))

    def _listener(self, number: int, part: str) -> Callable[[WorkEvent], None]:
        return lambda event: self._events.put(_Happened(number=number, part=part, event=event))

    def _advance(self, happened: _Happened) -> None:
        job = self._jobs.get(happened.number)
        if job is None or job.payload is not None:
            return  # it failed by another part, or was given up
        try:
            for chunk in job.take(happened.part, self._calibrated(job, happened)):
                self._responder.stream(job, chunk)
        except Exception:
            log.exception("answer_fault", request_id=job.request.id)
            self._give_up_one(job)
            return
        if job.error is not None:
            self._cancel_parts(job)
            self._finish_with(job, job.error)
        elif job.is_complete:
            self._complete.append(job)

    def _give_up_one(self, job: Job) -> None:
        """End a job that brings out a fault of ours; the others go on."""
        self._cancel_parts(job)
        self._finish_with(job, ModelError(_FAULT))

    def _calibrated(self, job: Job, happened: _Happened) -> WorkEvent:
        """The event, its scores corrected by what is recorded so far."""
        event, spec = happened.event, job.parts[happened.part]
        if self._calibration is None or not isinstance(event, Classified) or not isinstance(spec, ClassifySpec):
            return event
        model = self._engine.model
        judge = judge_of(spec, job.language, model=model.id, weight_format=model.format)
        job.observations.append(observe(judge, event.scores))
        return replace(event, scores=self._calibration.correct(judge, event.scores))

    def _cancel_parts(self, job: Job) -> None:
        for part in job.parts:
            if part not in job.events:
                self._engine.cancel(f"{job.number}/{part}")

    def _expire_waiting(self) -> None:
        """The engine watches the deadlines of what it has; those that wait for their turn are ours."""
        now = self._clock()
        for job in [*self._sessions.waiting(), *list(self._suspects)[1:]]:
            if job.deadline is not None and now >= job.deadline:
                self._finish_with(job, Expired("the deadline passed before work began"))

    # record, publish, settle

    def _finish_with(self, job: Job, error: RequestError) -> None:
        """End a job with an error; a request that may be tried again elsewhere goes back to the broker."""
        if error.fate is Fate.RETRY and not job.is_lossy:
            self._leave(job)
            return
        self._metrics.failed(error.code)
        log.info("request_failed", request_id=job.request.id, code=error.code, session=job.request.session)
        job.payload = self._error_payload(job, error)
        self._next_in_session(job)
        self._publish(job, job.addressees)

    def _commit(self) -> None:
        """Record what was answered since the last time, in one transaction, then publish it."""
        complete, self._complete = self._complete, []
        settled, self._settled = self._settled, []
        answered = [(job, entry) for job in complete if (entry := self._entry_of(job)) is not None]
        if answered:
            self._measure(len(answered))
        payloads = self.recorder.commit([entry for _, entry in answered], settled)
        for (job, _), payload in zip(answered, payloads, strict=True):
            if payload != job.payload:  # another box was first
                self._metrics.duplicate()
                job.payload = payload
            elif self._calibration is not None:
                self._calibration.add(job.observations)
            self._next_in_session(job)
            self._publish(job, job.addressees)

    def _entry_of(self, job: Job) -> Entry | None:
        """The answer of a complete job, to be recorded; None: it cannot be written, and the caller is told."""
        try:
            return self._complete_job(job)
        except Exception:
            log.exception("answer_fault", request_id=job.request.id)
            self._give_up_one(job)
            return None

    def _complete_job(self, job: Job) -> Entry:
        now = self._clock()
        if self._has_shared_journal and self.recorder.fault is None:
            job.may_be_double = False  # where another box was first, its answer will be given
        job.payload = self._responder.result(job, model=self._engine.model.id, now=now)
        session = self._session_of(job)
        self._count(job, now)
        return Entry(
            request_id=job.request.id,
            fingerprint=job.fingerprint,
            packet_id=job.packet_id,
            payload=job.payload,
            session=job.request.session,  # `forget` deletes this answer too, also where no turn is kept
            turns=job.turns() if session is not None else (),
            at=self._wall_clock(),
            observations=tuple(job.observations),
        )

    def _count(self, job: Job, now: float) -> None:
        timings, usage = job.timings(now), job.usage()
        log.info(
            "request_answered",
            request_id=job.request.id,
            session=job.request.session,
            total_ms=timings.total_ms,
            tokens=usage.completion_tokens,
        )
        self._metrics.answered(
            now,
            total_ms=timings.total_ms,
            queue_ms=timings.queue_ms,
            first_token_ms=timings.first_token_ms,
            sentiment_ms=job.classified_ms(),
        )
        self._metrics.tokens(now, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)

    def _measure(self, answers: int) -> None:
        """How fast it goes: seconds from the answer before these, or since there is work, shared by them.

        A box with a few requests does not show what it can do: what it had is taken as a part of a full batch.
        """
        now = self._clock()
        part = min(len(self._jobs), self._batch) / self._batch
        between = part * (now - self._counted_from) / answers
        kept = 0.0 if self._service_s is None else 0.9**answers
        self._service_s = kept * (self._service_s or 0.0) + (1 - kept) * between
        self._counted_from = now

    def _publish(self, job: Job, places: list[Addressee]) -> None:
        for place in list(places):
            self._send(job, place, job.payload or b"")

    def _send(self, job: Job, place: Addressee, payload: bytes) -> None:
        number = job.number

        def on_done(outcome: Outcome) -> None:
            self._events.put(_Published(number=number, place=place, outcome=outcome))

        self._responder.send(place.address, payload, on_done)

    def _confirmed(self, published: _Published) -> None:
        job = self._jobs.get(published.number)
        if job is None or published.place not in job.addressees:
            return
        sent = published.outcome.sent
        if sent is Sent.TOO_LARGE:
            self._send_instead(job, published)
            return
        if sent is not Sent.CONFIRMED:
            log.warning("answer_not_sent", request_id=job.request.id, fate=sent, reason=published.outcome.reason)
            self._metrics.failed(f"publish_{sent}")
        if sent is Sent.DROPPED and published.place.tickets:
            # Without an end, all deliveries behind this one would wait for its ack.
            self._unsent.append((self._clock() + _RESEND_S, job, published.place))
            return
        # A refused answer would be refused again: the delivery is settled, the operator is told.
        self._responder.settle(published.place.tickets)
        job.addressees.remove(published.place)
        if not job.addressees:
            if job.packet_id is not None:
                self._settled.append(job.identity)
            self._leave(job)

    def _send_unsent(self) -> None:
        """Offer the link again what it had no room for."""
        now = self._clock()
        due = [each for each in self._unsent if each[0] <= now]
        self._unsent = [each for each in self._unsent if each[0] > now]
        for _, job, place in due:
            self._send(job, place, job.payload or b"")

    def _send_instead(self, job: Job, published: _Published) -> None:
        """The broker takes no packet of this size: say so in a small one."""
        error = TooLarge(f"the result does not fit the broker: {published.outcome.reason}")
        payload = self._error_payload(job, error)
        if job.payload == payload or len(payload) >= len(job.payload or b""):
            log.warning("answer_not_sent", request_id=job.request.id, reason=published.outcome.reason)
            self._confirmed(replace(published, outcome=Outcome(sent=Sent.REFUSED, reason=published.outcome.reason)))
            return
        job.payload = payload
        self._send(job, published.place, payload)

    def _leave(self, job: Job) -> None:
        """The job is over."""
        self._jobs.pop(job.number, None)
        if self._by_identity.get(job.identity) is job:
            del self._by_identity[job.identity]
        self._next_in_session(job)

    def _next_in_session(self, job: Job) -> None:
        """Let the session's next turn begin once this one is recorded, and the next suspect."""
        if job in self._suspects:
            was_first = self._suspects[0] is job
            self._suspects.remove(job)
            if was_first and self._suspects:
                self._submit(self._suspects[0])
        session = self._session_of(job)
        following = None if session is None else self._sessions.leave(session, job)
        if following is not None:
            self._start(following)

    def _error_payload(self, job: Job, error: RequestError) -> bytes:
        request = job.request
        return self._responder.error(error, request_id=request.id, task=request.task, session=request.session)

    # the end

    def _begin_drain(self) -> None:
        self._draining = True

    def _give_up(self) -> None:
        for job in list(self._jobs.values()):
            if job.payload is None and not job.is_complete:
                self._cancel_parts(job)
                self._finish_with(job, ShuttingDown("the daemon is shutting down"))
        self.recorder.hand_back()

    def _stop(self) -> None:
        self._stopping = True


def _not_ours(request: Request) -> Rejected:
    """What becomes of a request that the broker brings by a subscription of settings that are no more."""
    error = Busy(
        "this box takes no work from there any more; send it again, for another to have it", retry_after_ms=1000
    )
    return Rejected(id=request.id, task=request.task, address=request.address, error=error, session=request.session)
