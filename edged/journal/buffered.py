"""The journal as the worker uses it: answers go out even if the disk has a fault, which is reported.

Entries that cannot be written now wait here. Meanwhile they are found as if they were written, and writing is tried
again a moment later.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import structlog

from edged.errors import JournalFault
from edged.ports.journal import Entry, Journal, Recorded
from edged.tasks.calibration import Observation
from edged.tasks.conversation import Turn

log = structlog.get_logger(__name__)

KEPT = 5000  # entries that may wait for a disk to work again; beyond, the oldest are lost
RETRY_S = 3.0  # between two attempts to write to a disk that does not take it
_PRESSING = KEPT // 2  # waiting entries, from which on the disk is tried more often
_PRESSING_RETRY_S = 0.2
_SETTLED = 1000  # settled requests that may wait for a quiet moment to be noted


class Asked(Protocol):
    """The fields of a request by which the journal finds its answer."""

    @property
    def id(self) -> str: ...

    @property
    def has_own_id(self) -> bool: ...


class BufferedJournal:
    """Writes to a journal and reads from it, also while the journal has a fault.

    For the worker's thread; other threads may read `fault` and call `hurry`.

    Attributes:
        fault: what is wrong with the journal, in words; None while nothing is.
    """

    def __init__(self, journal: Journal, *, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._journal = journal
        self._clock = clock
        self._unwritten: deque[Entry] = deque()
        self._settled: list[tuple[str, str]] = []
        self._failed_at = float("-inf")
        self.fault: str | None = None

    def open(self) -> None:
        """Open the journal before it is needed: a fault shows at once, and text that may not be kept is deleted."""
        try:
            self._journal.open()
            self._is_well()
        except JournalFault as fault:
            self._note(fault)

    def answer_before(
        self,
        request: Asked,
        fingerprint: str,
        *,
        redelivered_packet: int | None,
        is_in_hand: Callable[[str, str], bool],
    ) -> Recorded | None:
        """The answer that this request was given: found by its own id, or by the delivery that comes again.

        Some brokers (RabbitMQ) send a message again under another packet id. It then gets the oldest answer to a
        delivery of the same fingerprint that was never settled and whose request (id, fingerprint) is not in hand.
        """
        try:
            if request.has_own_id:
                unwritten = self._unwritten_where(lambda entry: entry.request_id == request.id, fingerprint)
                return unwritten[-1] if unwritten else self._journal.find(request.id, fingerprint)
            if redelivered_packet is None:
                return None
            found = (*self._by_packet(redelivered_packet, fingerprint), *self._unsettled(fingerprint))
            return next((each for each in found if not is_in_hand(each.request_id, fingerprint)), None)
        except JournalFault as fault:
            self._note(fault)
        return None

    def _unwritten_where(self, is_meant: Callable[[Entry], bool], fingerprint: str) -> list[Recorded]:
        """The answers that wait to be written, oldest first."""
        return [
            Recorded(request_id=entry.request_id, payload=entry.payload)
            for entry in self._unwritten
            if entry.fingerprint == fingerprint and is_meant(entry)
        ]

    def _by_packet(self, packet_id: int, fingerprint: str) -> list[Recorded]:
        unwritten = self._unwritten_where(lambda entry: entry.packet_id == packet_id, fingerprint)
        if unwritten:
            return unwritten[-1:]
        written = self._journal.find_unsettled(packet_id, fingerprint)
        return [] if written is None else [written]

    def _unsettled(self, fingerprint: str) -> list[Recorded]:
        settled = set(self._settled)
        written = self._journal.unsettled(fingerprint)
        return [
            *(each for each in written if (each.request_id, fingerprint) not in settled),
            *self._unwritten_where(lambda entry: entry.packet_id is not None, fingerprint),
        ]

    def starts(self, fingerprint: str) -> int:
        """See `Journal.starts`."""
        try:
            return self._journal.starts(fingerprint)
        except JournalFault as fault:
            self._note(fault)
            return 0

    def begin(self, fingerprint: str) -> None:
        """See `Journal.begin`."""
        try:
            self._journal.begin(fingerprint)
        except JournalFault as fault:
            self._note(fault)

    def hand_back(self) -> None:
        """See `Journal.hand_back`."""
        try:
            self._journal.hand_back()
        except JournalFault as fault:
            self._note(fault)

    def turns(self, session: str) -> tuple[Turn, ...]:
        """The conversation so far, as far as it can be read, with the turns that could not be written yet."""
        return self.conversation(session)[0]

    def conversation(self, session: str) -> tuple[tuple[Turn, ...], bool]:
        """The turns as by `turns`, and whether they are complete."""
        is_whole = True
        try:
            written = self._journal.turns(session)
        except JournalFault as fault:
            self._note(fault)
            written, is_whole = (), False
        return self._with_unwritten(session, written), is_whole

    def _with_unwritten(self, session: str, written: tuple[Turn, ...]) -> tuple[Turn, ...]:
        return written + tuple(turn for entry in self._unwritten if entry.session == session for turn in entry.turns)

    def observations(self) -> tuple[Observation, ...]:
        """See `Journal.observations`."""
        try:
            return self._journal.observations()
        except JournalFault as fault:
            self._note(fault)
            return ()

    def forget(self, session: str) -> int:
        """Delete a conversation; gives how many turns it had.

        Raises:
            JournalFault: the disk still has it.
        """
        kept = [entry for entry in self._unwritten if entry.session != session]
        lost = sum(len(entry.turns) for entry in self._unwritten) - sum(len(entry.turns) for entry in kept)
        self._unwritten = deque(kept)
        return self._journal.forget(session) + lost

    def commit(self, entries: Sequence[Entry], settled: Iterable[tuple[str, str]]) -> list[bytes]:
        """Write answers, in one transaction, and note which requests' deliveries were acked.

        Little is lost by an ack that is not noted, so acks wait for the next answers or for a quiet moment.

        Returns:
            The answers that count, in the order of `entries`: if another box was first, the answer of that box.
        """
        self._settled += settled
        self._unwritten += entries
        stand = [entry.payload for entry in entries]
        if self._unwritten and self._may_retry():
            written = self._write()
            stand = [each.payload for each in written[len(written) - len(entries) :]] if written else stand
        while len(self._unwritten) > KEPT:
            lost = self._unwritten.popleft()
            log.error("record_lost", request_id=lost.request_id)
        return stand

    def tidy(self, *, is_quiet: bool) -> None:
        """Do the work that can wait, and see whether a fault is over."""
        try:
            if self.fault is not None and not self._unwritten and self._may_retry():
                self._failed_at = self._clock()
                self._journal.open()
                self._is_well()
            if self._settled and (is_quiet or len(self._settled) >= _SETTLED):
                settled, self._settled = self._settled, []
                self._journal.settled(settled)
            self._journal.tidy(is_quiet=is_quiet)
        except JournalFault as fault:
            self._note(fault)

    def hurry(self) -> None:
        """Cut `tidy` short, because there is work."""
        self._journal.hurry()

    def _may_retry(self) -> bool:
        pause = RETRY_S if len(self._unwritten) < _PRESSING else _PRESSING_RETRY_S
        return self._clock() - self._failed_at >= pause

    def _write(self) -> list[Recorded]:
        try:
            written = self._journal.record(list(self._unwritten), self._settled)
        except JournalFault as fault:
            self._note(fault)
            return []
        self._unwritten.clear()
        self._settled = []
        self._is_well()
        return written

    def _is_well(self) -> None:
        self.fault = None
        self._failed_at = float("-inf")

    def _note(self, fault: JournalFault) -> None:
        if self.fault != str(fault):
            log.warning("journal_fault", reason=str(fault))
        self.fault = str(fault)
        # A fault that is over at once, as after a corrupt file was moved aside, is still reported for this long.
        self._failed_at = self._clock()
