"""The jobs in hand: taken in, and not yet answered and confirmed. Pure."""

from collections.abc import Iterator

from edged.contract.requests import Request
from edged.ports.link import Arrival
from edged.serving.job import Job


class OpenJobs:
    """The jobs by number and by identity. For the worker's thread; others may count and iterate."""

    def __init__(self) -> None:
        self._by_number: dict[int, Job] = {}
        self._by_identity: dict[tuple[str, str], Job] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Job]:
        """All jobs, oldest first, as they are at this moment."""
        return iter(list(self._by_number.values()))

    def add(self, job: Job) -> None:
        self._by_number[job.number] = job
        self._by_identity[job.identity] = job

    def remove(self, job: Job) -> None:
        self._by_number.pop(job.number, None)
        if self._by_identity.get(job.identity) is job:
            del self._by_identity[job.identity]

    def get(self, number: int) -> Job | None:
        return self._by_number.get(number)

    def has(self, request_id: str, fingerprint: str) -> bool:
        """Whether there is a job of this request."""
        return (request_id, fingerprint) in self._by_identity

    def same_as(self, request: Request, fingerprint: str, arrival: Arrival) -> Job | None:
        """The job of the same request: found by the request's own id, or by the delivery that comes again."""
        if request.has_own_id:
            return self._by_identity.get((request.id, fingerprint))
        if not arrival.redelivered or arrival.ticket is None:
            return None
        ticket = arrival.ticket
        same = [job for job in self if job.fingerprint == fingerprint and not job.is_lossy]
        by_packet = (job for job in same if job.packet_id == ticket.packet_id)
        # Some brokers (RabbitMQ) send it again under another packet id. Of several jobs that ask the same it does not
        # matter which one it joins, as long as each delivery that comes again joins another.
        waiting = (job for job in same if job.epoch < ticket.epoch)
        return next(by_packet, None) or next(waiting, None)
