"""The journal as the worker uses it: a fault of the disk is noted and told, and stops no answer.

What cannot be written is kept here and tried again with the next commit.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

import structlog

from edged.conversation import Turn
from edged.errors import JournalFault
from edged.ports import Entry, Journal, Recorded

log = structlog.get_logger(__name__)

_KEPT = 1000  # entries that wait for a disk to heal; then the oldest are lost


class Asked(Protocol):
    """What names a request: `edged.wire.Request` does."""

    @property
    def id(self) -> str: ...

    @property
    def has_own_id(self) -> bool: ...


class Recorder:
    """Keeps a journal in use. For the worker's thread; `fault` may be read by others."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._unwritten: deque[Entry] = deque(maxlen=_KEPT)
        self.fault: str | None = None

    def answer_before(self, request: Asked, fingerprint: str, *, redelivered_packet: int | None) -> Recorded | None:
        """The answer that this request was given: found by its own id, or by the delivery that comes again."""
        try:
            if request.has_own_id:
                return self._journal.find(request.id, fingerprint)
            if redelivered_packet is not None:
                return self._journal.find_unsettled(redelivered_packet, fingerprint)
        except JournalFault as fault:
            self._note(fault)
        return None

    def turns(self, session: str) -> tuple[Turn, ...]:
        """The conversation so far: as written, and what could not be written yet."""
        try:
            written = self._journal.turns(session)
        except JournalFault as fault:
            self._note(fault)
            written = ()
        return written + tuple(turn for entry in self._unwritten if entry.session == session for turn in entry.turns)

    def forget(self, session: str) -> int:
        """Delete a conversation; gives how many turns it had.

        Raises:
            JournalFault: the disk still has it.
        """
        kept = [entry for entry in self._unwritten if entry.session != session]
        lost = sum(len(entry.turns) for entry in self._unwritten) - sum(len(entry.turns) for entry in kept)
        self._unwritten.clear()
        self._unwritten.extend(kept)
        return self._journal.forget(session) + lost

    def commit(self, entries: Sequence[Entry], settled: Iterable[tuple[str, str]]) -> None:
        """Write answers, in one transaction, and note whose deliveries were acked."""
        settled = list(settled)
        try:
            if self._unwritten or entries:
                self._journal.record([*self._unwritten, *entries])
                self._unwritten.clear()
                self.fault = None
                entries = ()
            if settled:
                self._journal.settled(settled)
        except JournalFault as fault:
            self._note(fault)
            self._unwritten.extend(entries)

    def _note(self, fault: JournalFault) -> None:
        if self.fault != str(fault):
            log.warning("journal_fault", reason=str(fault))
        self.fault = str(fault)
