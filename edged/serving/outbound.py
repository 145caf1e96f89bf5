"""The only way out for results, errors and answers to commands, and how it keeps the delivery guarantee.

1. A result is recorded in the journal before it is published, together with the turns of its conversation: many
   results in one transaction. After a crash, the same request gets the recorded result (`Answers.commit`).
2. A delivery is settled when its answer has the broker's PUBACK, and not before (`Outbound._confirmed`). The broker
   sends a delivery again that is not settled.
3. An answer that the link had no room for is offered again. In place of an answer that is too large for the broker,
   an error is sent that says so. An answer that the broker refuses would be refused again: its delivery is settled,
   and the log and the metrics tell the operator.
4. The journal notes which requests were settled, so that their packet ids may be used again.

Results, errors and the answers to commands all take this way. Chunks of a stream are published on it too, at QoS 0:
a lost chunk is in the result as well. A caller in this process gets all of it without the link, and its answer counts
as confirmed at once. All of it runs in the worker's thread.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import structlog

from edged.contract.requests import Address, Rejected
from edged.contract.results import encode_chunk, encode_compact, encode_error, encode_result, rfc3339
from edged.contract.rules import parts_of
from edged.errors import Fate, ModelError, RequestError, TooLarge
from edged.journal.buffered import BufferedJournal
from edged.monitoring.metrics import Metrics
from edged.ports.engine import ModelInfo
from edged.ports.journal import Entry, Recorded
from edged.ports.link import Arrival, Delivery, Link, Outcome, Publication, Sent
from edged.serving.answer import Addressee, Answer
from edged.serving.job import Chunk, Job
from edged.serving.open_jobs import OpenJobs
from edged.serving.rate import ServiceRate
from edged.tasks.calibration import RunningCalibration

log = structlog.get_logger(__name__)

FAULT = "a fault of the daemon; its log has more"
_RESEND_S = 1.0  # after which an answer is offered again that the link had no room for


class Outbound:
    """Writes, publishes, confirms and settles, in the name of one node."""

    def __init__(
        self,
        link: Link,
        *,
        node: str,
        metrics: Metrics,
        post: Callable[[Callable[[], None]], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """`post` runs a function in the worker's thread; it is called from the link's."""
        self._link = link
        self._node = node
        self._metrics = metrics
        self._post = post
        self._clock = clock
        self._wall_clock = wall_clock
        self._open: set[Answer] = set()
        self._unsent: list[tuple[float, Answer, Addressee]] = []  # when to offer an answer again

    @property
    def is_idle(self) -> bool:
        """Whether every answer has arrived."""
        return not self._open

    # write

    def result(self, job: Job, *, model: str, now: float) -> bytes:
        """The JSON of a complete job; `now` in monotonic seconds."""
        result = job.result(node=self._node, model=model, time=rfc3339(self._wall_clock()), now=now)
        return encode_compact(result) if job.request.compact else encode_result(result)

    def error(self, error: RequestError, *, request_id: str, task: str, session: str | None) -> bytes:
        """The JSON of an error."""
        time = rfc3339(self._wall_clock())
        return encode_error(request_id=request_id, task=task, session=session, node=self._node, time=time, error=error)

    # publish

    def send(self, answer: Answer, addressees: Iterable[Addressee] | None = None) -> None:
        """Publish an answer to all places that wait for it, or to those of them that are new."""
        self._open.add(answer)
        for addressee in list(answer.addressees if addressees is None else addressees):
            self._send_to(addressee, answer)

    def chunk(self, job: Job, chunk: Chunk) -> None:
        """Publish a chunk beside every place where the result will go, and give it to the callers that wait here."""
        payload = encode_chunk(request_id=job.request.id, seq=chunk.seq, part=chunk.part, value=chunk.value)
        for addressee in job.addressees:
            to = addressee.address
            if to.caller is not None:
                to.caller.take_chunk(payload)
                continue
            address = Address(topic=f"{to.topic}/stream", qos=0, correlation_data=to.correlation_data)
            self._publish(address, payload, None)

    def tick(self) -> None:
        """Offer the answers again that the link had no room for."""
        now = self._clock()
        due = [each for each in self._unsent if each[0] <= now]
        self._unsent = [each for each in self._unsent if each[0] > now]
        for _, answer, addressee in due:
            self._send_to(addressee, answer)

    def _send_to(self, addressee: Addressee, answer: Answer) -> None:
        payload = answer.payload

        def on_done(outcome: Outcome) -> None:
            self._post(lambda: self._confirmed(answer, addressee, payload, outcome))

        address = addressee.address
        if address.caller is not None:
            address.caller.take_answer(payload)
            on_done(Outcome(sent=Sent.CONFIRMED))
            return
        if answer.is_error:
            self._publish(address.errors or address, payload, on_done)
        else:
            self._publish_parts(address, parts_of(payload) if address.is_in_parts else [payload], on_done)

    def _publish_parts(self, address: Address, parts: Sequence[bytes], on_done: Callable[[Outcome], None]) -> None:
        """Publish one after the other; `on_done` gets the end of the last, or of the first that fails."""
        first, *others = parts

        def on_part(outcome: Outcome) -> None:
            if others and outcome.sent is Sent.CONFIRMED:
                self._post(lambda: self._publish_parts(address, others, on_done))
            else:
                on_done(outcome)

        self._publish(address, first, on_part)

    def _publish(self, address: Address, payload: bytes, on_done: Callable[[Outcome], None] | None) -> None:
        publication = Publication(
            topic=address.topic,
            payload=payload,
            qos=address.qos,
            retain=address.retain,
            correlation_data=address.correlation_data,
            content_type=address.content_type,
            user_properties=address.user_properties,
        )
        self._link.publish(publication, on_done)

    # confirm and settle

    def settle(self, delivery: Delivery) -> None:
        """Settle a delivery that gets no answer."""
        if delivery.ticket is not None:
            self._link.settle(delivery.ticket)

    def _confirmed(self, answer: Answer, addressee: Addressee, payload: bytes, outcome: Outcome) -> None:
        """Decide what follows from the end of a publication of `payload`."""
        sent = outcome.sent
        if sent is Sent.TOO_LARGE:
            if self._has_smaller(answer, payload, outcome.reason):
                self._send_to(addressee, answer)
                return
            sent = Sent.REFUSED
        if sent is not Sent.CONFIRMED:
            log.warning("answer_not_sent", request_id=answer.request_id, fate=sent, reason=outcome.reason)
            self._metrics.failed(f"publish_{sent}")
        if sent is Sent.DROPPED and addressee.tickets:
            # Without an end, all deliveries behind this one would wait for its ack.
            self._unsent.append((self._clock() + _RESEND_S, answer, addressee))
            return
        for ticket in addressee.tickets:
            self._link.settle(ticket)
        if addressee in answer.addressees:
            answer.addressees.remove(addressee)
        if not answer.addressees and answer in self._open:
            self._open.remove(answer)
            answer.on_arrived()

    @staticmethod
    def _has_smaller(answer: Answer, payload: bytes, reason: str) -> bool:
        """Replace an answer that is too large for the broker by an error; False: even the error is too large."""
        if answer.payload is payload:
            error = answer.as_error(TooLarge(f"the result does not fit the broker: {reason}"))
            if len(error) >= len(payload):
                return False
            answer.payload = error
            answer.is_error = True
        return len(answer.payload) < len(payload)


class Answers:
    """Takes results and errors of the requests, records the results, and sends all of them."""

    def __init__(
        self,
        *,
        outbound: Outbound,
        recorder: BufferedJournal,
        in_hand: OpenJobs,
        metrics: Metrics,
        rate: ServiceRate,
        calibration: RunningCalibration | None,
        has_shared_journal: bool,
        commit_after_s: float,
        model: Callable[[], ModelInfo],
        on_answered: Callable[[Job], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """Begin with no answer.

        `on_answered` gets each job that has an answer or is given up, so that jobs that wait for it may begin. A result
        waits `commit_after_s` seconds for others, which are recorded with it.
        """
        self._commit_after_s = commit_after_s
        self._complete_since = 0.0
        self._outbound = outbound
        self._recorder = recorder
        self._in_hand = in_hand
        self._metrics = metrics
        self._rate = rate
        self._calibration = calibration
        self._has_shared_journal = has_shared_journal
        self._model = model
        self._on_answered = on_answered
        self._clock = clock
        self._wall_clock = wall_clock
        self._complete: list[Job] = []  # since the last commit
        self._settled: list[tuple[str, str]] = []

    def complete(self, job: Job) -> None:
        """Every part of the job has its output: its result is recorded and sent with the next commit."""
        if not self._complete:
            self._complete_since = self._clock()
        self._complete.append(job)

    def commit_due_in(self) -> float | None:
        """Seconds until the results at hand are to be recorded, 0 if that is now; None: there are none."""
        if not self._complete:
            return None
        return max(0.0, self._complete_since + self._commit_after_s - self._clock())

    def repeat(self, job: Job, recorded: Recorded) -> None:
        """Send the answer that the same request got before."""
        request = job.request
        log.info(
            "request_answered", request_id=request.id, task=request.task, outcome="repeated", session=request.session
        )
        self._send(job, recorded.payload)

    def fail(self, job: Job, error: RequestError) -> None:
        """End a job with an error; a request that may be tried again elsewhere goes back to the broker."""
        if error.fate is Fate.RETRY and not job.is_lossy:
            self.leave(job)
            return
        self._metrics.failed(error.code)
        request = job.request
        log.info("request_failed", request_id=request.id, task=request.task, code=error.code, session=request.session)
        self._count_route(None if request.shape is None else request.shape.rule.name)
        self._send(job, self._error(job, error), is_error=True)
        self._on_answered(job)

    def reject(self, rejected: Rejected, arrival: Arrival) -> None:
        """Send an error to the sender of what is not a valid request."""
        log.info("request_rejected", request_id=rejected.id, task=rejected.task[:64], code=rejected.error.code)
        self._metrics.failed(rejected.error.code)
        self._count_route(rejected.rule)
        write = partial(self._outbound.error, request_id=rejected.id, task=rejected.task, session=rejected.session)
        addressee = Addressee(rejected.address, [] if arrival.ticket is None else [arrival.ticket])
        payload = write(rejected.error)
        answer = Answer(request_id=rejected.id, payload=payload, addressees=[addressee], as_error=write, is_error=True)
        self._outbound.send(answer)

    def skip(self, delivery: Delivery, reason: str) -> None:
        """Settle a message that is no request and gets no answer."""
        log.debug("message_skipped", topic=delivery.message.topic, reason=reason)
        self._metrics.skipped()
        self._outbound.settle(delivery)

    def _count_route(self, rule: str | None) -> None:
        if rule is not None:
            self._metrics.route_failed(rule)

    def leave(self, job: Job) -> None:
        """The job is over: answered and confirmed, or given back to the broker."""
        self._in_hand.remove(job)
        self._on_answered(job)

    def commit(self) -> None:
        """Record what was completed since the last time, in one transaction, then send it.

        What need not be recorded is sent with it.
        """
        complete, self._complete = self._complete, []
        settled, self._settled = self._settled, []
        answered = [(job, entry) for job in complete if (entry := self._entry_of(job)) is not None]
        if answered:
            self._rate.answered(len(answered), jobs=len(self._in_hand))
        recorded = iter(self._recorder.commit([entry for job, entry in answered if job.request.is_recorded], settled))
        for job, entry in answered:
            payload = next(recorded) if job.request.is_recorded else entry.payload
            if payload != entry.payload:  # another box of the group was first
                self._metrics.duplicate()
            elif self._calibration is not None:
                self._calibration.add(job.observations)
            self._on_answered(job)
            self._send(job, payload)

    def _entry_of(self, job: Job) -> Entry | None:
        """The answer of a complete job, to be recorded; None: it cannot be written, and the caller is told."""
        try:
            return self._write(job)
        except RequestError as error:
            self.fail(job, error)
            return None
        except Exception:
            # A bug that one request triggers must not end the daemon.
            log.exception("answer_fault", request_id=job.request.id)
            self.fail(job, ModelError(FAULT))
            return None

    def _write(self, job: Job) -> Entry:
        now = self._clock()
        if self._has_shared_journal and self._recorder.fault is None:
            job.may_be_double = False  # where another box was first, its answer will be given
        payload = self._outbound.result(job, model=job.model or self._model().id, now=now)
        if job.request.shape is not None:
            payload = job.request.shape.write(payload)
        self._count(job, now)
        return Entry(
            request_id=job.request.id,
            fingerprint=job.fingerprint,
            packet_id=job.packet_id,
            payload=payload,
            session=job.request.conversation,  # `forget` deletes this answer too, also where no turn is kept
            turns=job.turns() if job.conversation is not None else (),
            at=self._wall_clock(),
            observations=tuple(job.observations),
        )

    def _count(self, job: Job, now: float) -> None:
        timings, usage = job.timings(now), job.usage()
        log.info(
            "request_answered",
            request_id=job.request.id,
            task=job.request.task,
            outcome="ok",
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

    def _send(self, job: Job, payload: bytes, *, is_error: bool = False) -> None:
        job.answer = Answer(
            request_id=job.request.id,
            payload=payload,
            addressees=job.addressees,
            as_error=partial(self._error, job),
            is_error=is_error,
            on_arrived=partial(self._arrived, job),
        )
        self._outbound.send(job.answer)

    def _error(self, job: Job, error: RequestError) -> bytes:
        request = job.request
        return self._outbound.error(error, request_id=request.id, task=request.task, session=request.session)

    def _arrived(self, job: Job) -> None:
        """Every place has the answer: the journal may forget the packet id with the next commit."""
        if job.packet_id is not None:
            self._settled.append(job.identity)
        self.leave(job)
