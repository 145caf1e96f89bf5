"""Fakes of the link, the engine and the journal, for tests without a broker, a model or a disk.

They implement the Protocols of `ports`, ship with the package, and pass the same contract tests as the real parts.
No other module imports them.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from edged.errors import Cancelled, EdgedError, Expired, RequestError, ShuttingDown
from edged.mqtt.delivery import CONFIRMED, Inbox
from edged.mqtt.limits import Limits, unsendable
from edged.ports.engine import (
    Classified,
    EngineState,
    Failed,
    Generated,
    ModelInfo,
    TextDelta,
    Timings,
    Usage,
    Work,
    WorkEvent,
)
from edged.ports.journal import Entry, Recorded
from edged.ports.link import Delivery, LinkState, Message, Outcome, Publication, Sent, Ticket
from edged.tasks.calibration import Observation
from edged.tasks.conversation import Turn
from edged.tasks.specs import ClassifySpec, Tasks

T = TypeVar("T")

# ------------------------------------------------------------------------------------------------------ the link


@dataclass(slots=True, eq=False)
class _Pending:
    publication: Publication
    on_done: Callable[[Outcome], None] | None


@dataclass(frozen=True, slots=True)
class _Connection:
    since: float  # monotonic seconds
    receive_maximum: int  # as it was announced when the connection was made


class _OneByOne:
    """Runs actions one after the other: an action that is asked for while another runs comes right after it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the next two
        self._todo: deque[Callable[[], object]] = deque()
        self._is_busy = False

    def __call__(self, action: Callable[[], object]) -> None:
        """Run the action now, or leave it to the thread that runs one now."""
        with self._lock:
            self._todo.append(action)
            if self._is_busy:
                return
            self._is_busy = True
        while (todo := self._next()) is not None:
            todo()

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            self._is_busy = bool(self._todo)
            return self._todo.popleft() if self._todo else None


class FakeLink:
    """A `ports.Link` with the broker inside. Everything happens in the calling thread, before the call returns.

    So `on_done` may be called before `publish` returns; code that works with this link works with the real one too.
    What is asked for while a callback runs is done after that callback has returned, as the network thread does it.

    Attributes:
        on_delivery: gets the deliveries of `deliver`; may be set later.
        on_change: told when the connection is made or lost.
        limits: what the broker takes; may be changed at any time.
        auto: whether publications are confirmed at once; else by `finish`.
        published: what reached the broker, in order.
        acked: the deliveries that were acked, in the order of their acks.
        shares: whether it takes from shared queues.
        keeps_packet_ids: whether what comes again after `reconnect` has the packet id that it had.
        errors: what callbacks raised; tests of the worker assert that it is empty.
    """

    def __init__(
        self,
        on_delivery: Callable[[Delivery], None] | None = None,
        *,
        on_change: Callable[[LinkState], None] | None = None,
        receive_maximum: int = 65535,
        limits: Limits | None = None,
        auto: bool = True,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.on_delivery = on_delivery
        self.on_change = on_change
        self.limits = limits or Limits()
        self.auto = auto
        self.published: list[Publication] = []
        self.acked: list[Delivery] = []
        self.shares = False
        self.keeps_packet_ids = True
        self.errors: list[Exception] = []
        self._clock = clock
        self._inbox = Inbox(receive_maximum=receive_maximum)
        self._receive_maximum = receive_maximum  # of the next connection
        self._packet_ids = itertools.count(1)
        self._unacked: dict[int, Delivery] = {}  # what the broker keeps, by packet id, in order of arrival
        self._waiting: deque[_Pending] = deque()  # for a connection
        self._in_flight: deque[_Pending] = deque()  # for a confirmation
        self._connection: _Connection | None = _Connection(clock(), receive_maximum)
        self._reconnects = 0
        self._taken_over = False
        self._do = _OneByOne()

    # what the program calls

    def publish(self, publication: Publication, on_done: Callable[[Outcome], None] | None = None) -> None:
        """Send, or keep until `reconnect` (QoS 1)."""
        self._do(partial(self._publish, _Pending(publication, on_done)))

    def settle(self, ticket: Ticket) -> None:
        """Ack a delivery as soon as the order of arrival allows."""
        self._do(partial(self._settle, ticket))

    def unsubscribe(self, *, keep_shared: bool = False) -> None:
        """Hand over no more QoS 1 deliveries."""
        self._inbox.draining = True
        self.shares = self.shares and keep_shared

    def share(self, *, taking: bool) -> None:
        """Take from the shared queues, or leave them to others."""
        self.shares = taking

    def listen(self, filters: Sequence[str], *, at_qos_0: Sequence[str] = ()) -> None:
        """Nothing to do: `deliver` brings messages of any topic."""

    def announce(self, receive_maximum: int) -> None:
        """Announce this Receive Maximum from the next connection on."""
        self._receive_maximum = receive_maximum

    def state(self) -> LinkState:
        """The link at a glance."""
        connection = self._connection
        return LinkState(
            connected_since=connection.since if connection else None,
            reconnects=self._reconnects,
            unacked=self._inbox.unacked,
            receive_maximum=connection.receive_maximum if connection else None,
            outbox=len(self._waiting) + len(self._in_flight),
            protocol="5",
            fault=None if connection else "the connection was lost",
            contended=False,
            taken_over=self._taken_over,
            last_progress=self._clock(),
        )

    # what a test calls

    def deliver(self, message: Message) -> Delivery:
        """Bring a message as the broker would; gives the delivery, handed over now or once there is room.

        Raises:
            ConnectionError: there is no connection.
        """
        if self._connection is None:
            raise ConnectionError("there is no connection; call reconnect() first")
        delivery = self._arrive(message, next(self._packet_ids), redelivered=False)
        self._do(self._hand_over)
        return delivery

    def finish(self, outcome: Outcome = CONFIRMED) -> Publication:
        """End the oldest publication that is in flight."""
        pending = self._in_flight.popleft()
        self._do(partial(self._call, pending.on_done, outcome))
        return pending.publication

    def disconnect(self, *, taken_over: bool = False) -> None:
        """Lose the connection: all tickets are void, and what was in flight goes out again on the next one."""
        self._connection = None
        self._inbox.reset()
        self._waiting.extendleft(reversed(self._in_flight))
        self._in_flight.clear()
        if taken_over:
            self._taken_over = True
            while self._waiting:
                self._do(partial(self._drop, self._waiting.popleft()))
        self._do(self._tell)

    def reconnect(self) -> None:
        """Connect again: what was not acked comes again, and what waited to be sent goes out."""
        self._connection = _Connection(self._clock(), self._receive_maximum)
        self._reconnects += 1
        self._do(self._tell)
        again, self._unacked = self._unacked, {}
        if not self.keeps_packet_ids:
            self._packet_ids = itertools.count(1)
        for packet_id, delivery in again.items():
            sent_as = packet_id if self.keeps_packet_ids else next(self._packet_ids)
            self._arrive(delivery.message, sent_as, redelivered=True)
        self._do(self._hand_over)
        for _ in range(len(self._waiting)):
            self._do(partial(self._publish, self._waiting.popleft()))

    # parts

    def _publish(self, pending: _Pending) -> None:
        publication = pending.publication
        if (reason := unsendable(publication)) is not None:
            self._call(pending.on_done, Outcome(sent=Sent.REFUSED, reason=reason))
        elif self._taken_over or (self._connection is None and publication.qos == 0):
            self._drop(pending)
        elif self._connection is None:
            self._waiting.append(pending)
        elif (refusal := self.limits.refusal(publication)) is not None:
            self._call(pending.on_done, refusal)
        else:
            self.published.append(publication)
            self._in_flight.append(pending)
            if self.auto or publication.qos == 0:
                self._in_flight.remove(pending)
                self._call(pending.on_done, CONFIRMED)

    def _drop(self, pending: _Pending) -> None:
        self._call(pending.on_done, Outcome(sent=Sent.DROPPED, reason="there is no connection"))

    def _settle(self, ticket: Ticket) -> None:
        self.acked += [self._unacked.pop(packet_id) for packet_id in self._inbox.settle(ticket)]
        self._hand_over()

    def _arrive(self, message: Message, packet_id: int, *, redelivered: bool) -> Delivery:
        delivery = self._inbox.arrived(message, packet_id=packet_id, redelivered=redelivered, now=self._clock())
        if delivery.ticket is not None:
            self._unacked[packet_id] = delivery
        return delivery

    def _hand_over(self) -> None:
        for delivery in self._inbox.release():
            if not self._call(self.on_delivery, delivery) and delivery.ticket is not None:
                self.settle(delivery.ticket)  # as the real link does: no other code will

    def _tell(self) -> None:
        self._call(self.on_change, self.state())

    def _call(self, callback: Callable[[T], None] | None, argument: T) -> bool:
        if callback is None:
            return True
        try:
            callback(argument)
        except Exception as error:  # noqa: BLE001 - an error of a callback does not stop the real link either
            self.errors.append(error)
            return False
        return True


# ---------------------------------------------------------------------------------------------------- the engine


class ScriptedEngine:
    """A `ports.Engine` without a model: answers by rule, in the calling thread, before `submit` returns.

    A text that holds the word "bad" gets the last label, every other text the first. A reply repeats the text; an
    extraction gives the text itself.

    Attributes:
        auto: whether work is answered at once; else by `finish`.
        submitted: all work that came in, in order.
        faults: text -> the error that work on it ends with.
        prepared: the task sets that it was asked to get ready for.
        forgotten: the conversations that it was asked to forget.
        keeps_conversations: whether it was asked to keep the others.
        unprepared: why it cannot get ready for others.
        away: see `ports.EngineState`.
    """

    def __init__(self, *, auto: bool = True, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.auto = auto
        self.submitted: list[Work] = []
        self.faults: dict[str, RequestError] = {}
        self.prepared: list[Tasks] = []
        self.forgotten: list[str] = []
        self.keeps_conversations = False
        self.unprepared: EdgedError | None = None
        self._clock = clock
        self._open: dict[str, tuple[Work, Callable[[WorkEvent], None]]] = {}
        self.away: str | None = None
        self._answered = 0
        self._last: float | None = None

    def start(self) -> None:
        """Nothing to load."""

    def wait_ready(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - always ready
        return True

    def stop(self, timeout: float = 10.0) -> None:  # noqa: ARG002 - nothing to wait for
        for key in list(self._open):
            self._end(key, Failed(key=key, error=ShuttingDown("the engine stopped")))

    def prepare(self, tasks: Tasks, on_done: Callable[[EdgedError | None], None]) -> None:
        """Be ready for the tasks at once, unless `unprepared` says why that cannot be."""
        self.prepared.append(tasks)
        on_done(self.unprepared)

    def submit(self, work: Work, on_event: Callable[[WorkEvent], None]) -> None:
        self.submitted.append(work)
        self._open[work.key] = (work, on_event)
        if self.auto:
            self.finish(work.key)

    def forget(self, conversation: str) -> None:
        self.forgotten.append(conversation)

    def keep_conversations(self) -> None:
        self.keeps_conversations = True

    def cancel(self, key: str) -> None:
        if key in self._open:
            self._end(key, Failed(key=key, error=Cancelled("cancelled before there was an answer")))

    def finish(self, key: str | None = None) -> None:
        """Answer the work of this key, or the oldest."""
        key = key if key is not None else next(iter(self._open))
        work, on_event = self._open[key]
        if work.text in self.faults:
            self._end(key, Failed(key=key, error=self.faults[work.text]))
        elif work.deadline is not None and self._clock() >= work.deadline:
            self._end(key, Failed(key=key, error=Expired("the deadline passed before there was an answer")))
        elif isinstance(work.spec, ClassifySpec):
            self._end(key, Classified(key=key, scores=_rule(work), usage=_usage(work, 0), timings=_TIMINGS))
        else:
            said = f"You said: {work.text.strip()}" if work.spec.schema is None else work.text
            words = said.split(" ")[: work.params.max_tokens]
            for i, word in enumerate(words if work.stream else ()):
                on_event(TextDelta(key=key, text=f" {word}" if i else word))
            self._end(
                key,
                Generated(
                    key=key,
                    text=" ".join(words),
                    finish_reason="stop" if work.params.max_tokens is None else "length",
                    usage=_usage(work, len(words)),
                    timings=_TIMINGS,
                ),
            )

    def step(self, batch: int) -> None:
        """Answer up to `batch` pieces of each kind by their order, as an engine whose work takes one step does."""
        in_order = sorted((work for work, _ in self._open.values()), key=lambda work: work.order)
        short = [work.key for work in in_order if isinstance(work.spec, ClassifySpec)]
        long = [work.key for work in in_order if not isinstance(work.spec, ClassifySpec)]
        for key in (*short[:batch], *long[:batch]):
            self.finish(key)

    def state(self) -> EngineState:
        return EngineState(
            waiting=0,
            running=len(self._open),
            last_token_at=self._last,
            last_progress=self._clock(),
            prompt_tokens=0,
            cached_tokens=0,
            completion_tokens=0,
            steps=self._answered,
            step_rows=self._answered,
            cache_hits=0,
            cache_misses=0,
            cache_bytes=0,
            cache_capacity=0,
            fault=None,
            away=self.away,
        )

    @property
    def model(self) -> ModelInfo:
        return ModelInfo(
            id="scripted",
            architecture="none",
            format="fp32",
            device="cpu",
            threads=1,
            parameters=0,
            weight_bytes=0,
            load_s=0.0,
            max_context_tokens=2048,
            max_new_tokens=128,
        )

    def _end(self, key: str, event: WorkEvent) -> None:
        _, on_event = self._open.pop(key)
        self._answered += 1
        self._last = self._clock()
        on_event(event)


_TIMINGS = Timings(queue_ms=0.0, prefill_ms=0.0, decode_ms=0.0, first_token_ms=0.0, total_ms=0.0)


def _usage(work: Work, completion_tokens: int) -> Usage:
    return Usage(prompt_tokens=len(work.text.split()), cached_tokens=0, completion_tokens=completion_tokens)


def _rule(work: Work) -> dict[str, float]:
    if not isinstance(work.spec, ClassifySpec):
        raise TypeError(f"{work.spec.name} classifies nothing")
    names = [label.canonical for label in work.spec.labels]
    chosen = names[-1] if "bad" in work.text else names[0]
    return {name: 0.9 if name == chosen else 0.1 / (len(names) - 1) for name in names}


# --------------------------------------------------------------------------------------------------- the journal


class MemoryJournal:
    """A `ports.Journal` in memory."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}
        self._settled: set[tuple[str, str]] = set()
        self._turns: dict[str, list[Turn]] = {}
        self._observations: list[Observation] = []

    def open(self) -> None:
        """Nothing to open."""

    def record(self, entries: Sequence[Entry], settled: Iterable[tuple[str, str]] = ()) -> list[Recorded]:
        for entry in entries:
            key = (entry.request_id, entry.fingerprint)
            if key in self._entries:
                continue
            self._entries[key] = entry
            self._observations += entry.observations
            if entry.session is not None:
                self._turns.setdefault(entry.session, []).extend(entry.turns)
        self.settled(settled)
        keys = [(entry.request_id, entry.fingerprint) for entry in entries]
        return [Recorded(request_id=key[0], payload=self._entries[key].payload) for key in keys]

    def find(self, request_id: str, fingerprint: str) -> Recorded | None:
        entry = self._entries.get((request_id, fingerprint))
        return None if entry is None else Recorded(request_id=request_id, payload=entry.payload)

    def find_unsettled(self, packet_id: int, fingerprint: str) -> Recorded | None:
        for key, entry in reversed(self._entries.items()):
            if (entry.packet_id, entry.fingerprint) == (packet_id, fingerprint) and key not in self._settled:
                return self.find(*key)
        return None

    def unsettled(self, fingerprint: str) -> tuple[Recorded, ...]:
        return tuple(
            Recorded(request_id=key[0], payload=entry.payload)
            for key, entry in self._entries.items()
            if entry.fingerprint == fingerprint and entry.packet_id is not None and key not in self._settled
        )

    def settled(self, requests: Iterable[tuple[str, str]]) -> None:
        self._settled |= self._entries.keys() & set(requests)

    def starts(self, fingerprint: str) -> int:  # noqa: ARG002 - no process was before this one
        return 0

    def begin(self, fingerprint: str) -> None:
        """No process will come after this one."""

    def hand_back(self) -> None:
        """No later process asks."""

    def turns(self, session: str) -> tuple[Turn, ...]:
        return tuple(self._turns.get(session, ()))

    def observations(self) -> tuple[Observation, ...]:
        return tuple(self._observations)

    def forget(self, session: str) -> int:
        for key in [key for key, entry in self._entries.items() if entry.session == session]:
            del self._entries[key]
            self._settled.discard(key)
        return len(self._turns.pop(session, ()))

    def tidy(self, *, is_quiet: bool) -> None:
        """Nothing is left behind."""

    def hurry(self) -> None:
        """Nothing takes long."""
