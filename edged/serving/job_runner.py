"""Gives jobs to the engine, and lets later turns of a session and suspected requests wait for their turn.

A request that the broker sends again may be the reason why an earlier process crashed (a suspect). Suspects run one
after the other, so that a crash shows which one causes it. A request on which too many processes crashed is given up.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from edged.errors import Expired, ModelError
from edged.journal.buffered import BufferedJournal
from edged.ports.engine import Classified, Engine, Work, WorkEvent
from edged.serving.engine_queue import EngineQueue
from edged.serving.job import Job, lacks_history, seed_of
from edged.serving.open_jobs import OpenJobs
from edged.serving.outbound import FAULT, Answers, Outbound
from edged.serving.sessions import Sessions
from edged.tasks.calibration import RunningCalibration, judge_of, labels_alone, observe, with_others
from edged.tasks.specs import ClassifySpec

log = structlog.get_logger(__name__)

MAX_STARTS = 2  # processes that may crash on one request before it is given up


class JobRunner:
    """Gives jobs to the engine and takes what it says of them. For the worker's thread."""

    def __init__(
        self,
        *,
        engine: Engine,
        queue: EngineQueue,
        in_hand: OpenJobs,
        recorder: BufferedJournal,
        answers: Answers,
        outbound: Outbound,
        calibration: RunningCalibration | None,
        clock: Callable[[], float],
    ) -> None:
        """Assign; `queue` gives the work to the engine."""
        self._engine = engine
        self._queue = queue
        self._in_hand = in_hand
        self._recorder = recorder
        self._answers = answers
        self._outbound = outbound
        self._calibration = calibration
        self._clock = clock
        self._sessions: Sessions[Job] = Sessions()
        self._suspects: deque[Job] = deque()  # the first one runs

    def enter(self, job: Job) -> None:
        """Start the job, or let it wait for the earlier turns of its session."""
        if job.conversation is None or self._sessions.enter(job.conversation, job):
            self._start(job)

    def leave(self, job: Job) -> None:
        """The job has its answer, or is given up: the next suspect and the session's next turn may begin."""
        if job in self._suspects:
            was_first = self._suspects[0] is job
            self._suspects.remove(job)
            if was_first and self._suspects:
                self._submit(self._suspects[0])
        following = None if job.conversation is None else self._sessions.leave(job.conversation, job)
        if following is not None:
            self._start(following)

    def cancel(self, job: Job) -> None:
        """Let the engine end the parts that it has not finished."""
        for part in job.parts:
            if part not in job.events:
                self._queue.cancel(f"{job.number}/{part}")

    def hold(self, *, is_held: bool) -> None:
        """Give the engine no further work, or go on with it."""
        self._queue.hold(is_held=is_held)

    def forget(self, conversation: str) -> None:
        """Let the engine keep nothing of a conversation."""
        self._queue.forget(conversation)

    def expire_waiting(self) -> None:
        """End jobs whose deadline passed while they waited."""
        self._queue.expire()
        now = self._clock()
        for job in [*self._sessions.waiting(), *list(self._suspects)[1:]]:
            if job.deadline is not None and now >= job.deadline:
                self._answers.fail(job, Expired("the deadline passed before work began"))

    def _start(self, job: Job) -> None:
        """Give the job to the engine, unless it is given up because too many processes crashed on it."""
        if job.is_left_over and (starts := self._recorder.starts(job.fingerprint)):
            if starts >= MAX_STARTS:
                reason = f"{starts + 1} processes of the daemon ended before they had an answer to this; it is given up"
                self._answers.fail(job, ModelError(reason))
                return
            self._suspects.append(job)
            if self._suspects[0] is not job:
                return
        self._submit(job)

    def _submit(self, job: Job) -> None:
        if job.is_left_over:
            self._recorder.begin(job.fingerprint)
        turns, is_whole = job.request.history or (), True
        if job.conversation is not None:
            turns, is_whole = self._recorder.conversation(job.conversation)
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
                continues=spec.keeps_history and (job.conversation is not None or job.request.history is not None),
                stream=job.request.stream and spec.streams_words,
                deadline=job.deadline,
                logprobs=job.request.logprobs,
                conversation=job.conversation if spec.keeps_history else None,
            )
            request = job.request
            self._queue.submit(
                work,
                partial(self._advance, job.number, part),
                sender=request.sender,
                priority=request.priority,
                received=job.received,
            )

    def _advance(self, number: int, part: str, event: WorkEvent) -> None:
        """Take in what the engine says of a part of a job."""
        job = self._in_hand.get(number)
        if job is None or job.answer is not None:
            return  # another part of it failed, or it was given up
        try:
            for chunk in job.take(part, self._calibrated(job, part, event)):
                self._outbound.chunk(job, chunk)
        except Exception:
            # A bug that one answer triggers must not end the daemon.
            log.exception("answer_fault", request_id=job.request.id)
            self.cancel(job)
            self._answers.fail(job, ModelError(FAULT))
            return
        if job.error is not None:
            self.cancel(job)
            self._answers.fail(job, job.error)
        elif job.is_complete:
            self._answers.complete(job)

    def _calibrated(self, job: Job, part: str, event: WorkEvent) -> WorkEvent:
        """The event, its scores corrected by what is recorded so far."""
        spec = job.parts[part]
        if self._calibration is None or not isinstance(event, Classified) or not isinstance(spec, ClassifySpec):
            return event
        model = event.model or self._engine.model
        judge = judge_of(spec, job.language, model=model.id, weight_format=model.format)
        of_labels = labels_alone(spec, event.scores)
        job.observations.append(observe(judge, of_labels))
        corrected = self._calibration.correct(judge, of_labels)
        return replace(event, scores=with_others(corrected, event.scores))
