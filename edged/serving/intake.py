"""Takes a request in: decodes it, then repeats a known answer, refuses it, or makes a job of it.

For the worker's thread.
"""

from collections.abc import Callable
from dataclasses import replace

import structlog

from edged.contract.requests import Contract, Rejected, Request, decode
from edged.contract.topics import RuleRoute, TaskRoute
from edged.errors import Busy, Expired, ModelError, RequestError, ShuttingDown
from edged.journal.buffered import BufferedJournal
from edged.monitoring.metrics import Metrics
from edged.ports.link import Arrival, Delivery
from edged.serving import routes
from edged.serving.answer import Addressee
from edged.serving.job import Job, fingerprint_of
from edged.serving.job_runner import JobRunner
from edged.serving.open_jobs import OpenJobs
from edged.serving.outbound import FAULT, Answers, Outbound
from edged.serving.rate import ServiceRate
from edged.serving.senders import Senders
from edged.tasks.text import Language, language_of

log = structlog.get_logger(__name__)


class Intake:
    """Makes jobs of deliveries.

    Attributes:
        is_draining: whether no new work is begun.
    """

    def __init__(
        self,
        *,
        contract: Contract,
        in_hand: OpenJobs,
        recorder: BufferedJournal,
        outbound: Outbound,
        answers: Answers,
        running: JobRunner,
        metrics: Metrics,
        rate: ServiceRate,
        senders: Senders,
        capacity: int,
        language: Language | None,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        """`capacity`: the most requests in hand. `language` None: each text's script decides."""
        self._contract = contract
        self._in_hand = in_hand
        self._recorder = recorder
        self._outbound = outbound
        self._answers = answers
        self._running = running
        self._metrics = metrics
        self._rate = rate
        self._senders = senders
        self._capacity = capacity
        self._language = language
        self._clock = clock
        self._new_id = new_id
        self._numbers = 0
        self.is_draining = False

    def use(self, contract: Contract, language: Language | None) -> None:
        """Read requests by another contract from now on; what is in hand goes on by the one before."""
        self._contract = contract
        self._language = language

    def take(self, route: TaskRoute | RuleRoute, delivery: Delivery) -> None:
        """Take a request in. In every case it gets one answer or stays at the broker."""
        self._metrics.received()
        if isinstance(route, RuleRoute):
            self._metrics.routed()
        elif route.is_shared:
            self._metrics.shared()
        if delivery.redelivered:
            self._metrics.redelivered()
        if self.is_draining and delivery.ticket is not None:
            return  # unacked: the broker keeps it for the next daemon
        decoded = self._decode(route, delivery)
        if isinstance(decoded, routes.Skipped):
            self._answers.skip(delivery, decoded.reason)
            return
        self._take_decoded(decoded, delivery)

    def take_asked(self, asked: Request | Rejected) -> None:
        """Take in what a caller in this process asks, which is decoded already. In every case it gets one answer."""
        self._metrics.received()
        self._take_decoded(asked, Arrival(ticket=None, redelivered=False, received_at=self._clock()))

    def _take_decoded(self, decoded: Request | Rejected, arrival: Arrival) -> None:
        if isinstance(decoded, Rejected):
            self._answers.reject(decoded, arrival)
            return
        try:
            self._take_request(decoded, arrival)
        except Exception:
            # A bug that one message triggers must not end the daemon: the broker would send the message again.
            log.exception("request_fault", request_id=decoded.id)
            for job in self._in_hand:
                if job.request is decoded:
                    self._running.cancel(job)
                    self._answers.leave(job)
            fault = ModelError(FAULT)
            rejected = Rejected(id=decoded.id, task=decoded.task, address=decoded.address, error=fault)
            self._answers.reject(rejected, arrival)

    def _decode(self, route: TaskRoute | RuleRoute, delivery: Delivery) -> Request | Rejected | routes.Skipped:
        if isinstance(route, RuleRoute):
            return routes.read(delivery.message, route, contract=self._contract, new_id=self._new_id())
        return decode(delivery.message, route, contract=self._contract, new_id=self._new_id())

    def _take_request(self, request: Request, arrival: Arrival) -> None:
        fingerprint = fingerprint_of(request)
        same = self._in_hand.same_as(request, fingerprint, arrival)
        if same is not None:
            self._metrics.duplicate()
            new_places = same.join(request.address, arrival)
            if same.answer is not None:
                self._outbound.send(same.answer, new_places)
            return
        job = self._make_job(request, fingerprint, arrival)
        again = arrival.ticket.packet_id if arrival.redelivered and arrival.ticket is not None else None
        recorded = self._recorder.answer_before(
            request, fingerprint, redelivered_packet=again, is_in_hand=self._in_hand.has
        )
        if recorded is not None:
            self._metrics.duplicate()
            job.request = replace(request, id=recorded.request_id)
            self._add(job)
            self._answers.repeat(job, recorded)
            return
        self._add(job)
        try:
            self._check_admissible(job)
        except RequestError as error:
            self._answers.fail(job, error)
            return
        log.info("request_received", request_id=request.id, task=request.task, session=request.session)
        self._running.enter(job)

    def _make_job(self, request: Request, fingerprint: str, arrival: Arrival) -> Job:
        self._numbers += 1
        ticket = arrival.ticket
        left = request.time_left_ms
        is_again = request.attempt > 1 or arrival.redelivered
        parts = (request.spec,) if request.spec is not None else self._contract.tasks.parts(request.task)
        keeps_turns = request.history is None and any(spec.keeps_history for spec in parts)
        return Job(
            number=self._numbers,
            request=request,
            fingerprint=fingerprint,
            language=self._language or language_of(request.text),
            parts={spec.name: spec for spec in parts},
            conversation=request.conversation if keeps_turns else None,
            addressees=[Addressee(request.address, [ticket] if ticket is not None else [])],
            packet_id=ticket.packet_id if ticket is not None else None,
            received=arrival.received_at,
            is_left_over=arrival.redelivered and ticket is not None,
            may_be_double=request.is_shared and is_again,
            deadline=None if left is None else arrival.received_at + left / 1000,
        )

    def _add(self, job: Job) -> None:
        if not self._in_hand:
            self._rate.begin()
        self._in_hand.add(job)

    def _check_admissible(self, job: Job) -> None:
        if self.is_draining:
            raise ShuttingDown("the daemon is shutting down; send it again when it is back", retry_after_ms=5000)
        if job.deadline is not None and self._clock() >= job.deadline:
            raise Expired("the request's time was over when it was received")
        shape = job.request.shape
        self._senders.admit(job.request.sender, None if shape is None else shape.rule)
        others = len(self._in_hand) - 1
        if job.is_lossy and others >= self._capacity:
            raise Busy(
                f"{others} requests are in hand and this one came at QoS 0; send it again later, or at QoS 1, where "
                "the broker keeps it",
                retry_after_ms=max(100, int(1000 * (self._rate.seconds or 1.0))),
            )
