"""One request while it is answered: its parts, their outputs so far, and the places that wait for the answer. Pure.

The worker moves jobs along; a job knows what is still missing and how the result reads.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from edged.contract.requests import Address, Request
from edged.contract.results import Result, ResultTimings
from edged.errors import RequestError
from edged.ports.engine import NO_USAGE, Classified, Failed, Generated, TextDelta, Usage, WorkEvent
from edged.ports.link import Arrival
from edged.serving.answer import Addressee, Answer
from edged.tasks.calibration import Observation
from edged.tasks.conversation import MAX_TURNS, Turn
from edged.tasks.outputs import Output
from edged.tasks.shorten import shorten
from edged.tasks.specs import GenerateSpec, PartSpec
from edged.tasks.text import Language


def fingerprint_of(request: Request) -> str:
    """A hash of what is asked, without the id: the same id with another question is another request."""
    asked: tuple[object, ...] = (request.task, request.session, request.text, request.params, request.history)
    if request.shape is not None:  # the record has the answer in the route's form
        asked += (request.shape.rule.name, request.address.topic)
    if request.max_bytes is not None:
        asked += (request.max_bytes,)
    if request.compact:
        asked += ("compact",)
    if request.owner is not None:
        asked += ("owner", request.owner)
    if request.spec is not None:
        asked += (request.spec, request.logprobs)
    return hashlib.blake2b(repr(asked).encode(), digest_size=16).hexdigest()


def seed_of(request_id: str, fingerprint: str) -> int:
    """The seed of a request that gave none. The same request gets the same text again after a crash."""
    digest = hashlib.blake2b(f"{request_id}\n{fingerprint}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def lacks_history(request: Request, known: Sequence[Turn]) -> bool:
    """Whether the conversation has earlier turns than those that are `known` here.

    A caller that counts its turns is believed. For a caller that does not, a box of a group cannot tell a first turn
    from one whose earlier turns went to another box.
    """
    turns = sum(turn.role == "user" for turn in known)
    if request.turn is None:
        return request.is_shared and not turns
    return turns < min(request.turn - 1, MAX_TURNS // 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A chunk of a stream: the `value` for the key `part`."""

    seq: int
    part: str
    value: Mapping[str, object]


@dataclass(slots=True)
class _Stream:
    """The number of the next chunk of a request, and the words that wait to be sent."""

    sent: int = 0
    waiting: list[tuple[str, TextDelta]] = field(default_factory=list)  # by part

    def chunk(self, part: str, value: Mapping[str, object]) -> Chunk:
        self.sent += 1
        return Chunk(seq=self.sent - 1, part=part, value=value)

    def words(self) -> list[Chunk]:
        """The words that waited."""
        chunks = [self.chunk(part, _delta(event)) for part, event in self.waiting]
        self.waiting.clear()
        return chunks


def _delta(event: TextDelta) -> dict[str, object]:
    value: dict[str, object] = {"delta": event.text}
    if event.logprobs:
        value["logprobs"] = [asdict(each) for each in event.logprobs]
    return value


@dataclass(slots=True, kw_only=True)
class Job:
    """A request in hand.

    Attributes:
        number: unique in this process; names the job in the engine.
        request: its id is final: the caller's, one made for it, or the one it had before a crash.
        conversation: the session whose turns the job reads and writes; None: it neither reads nor writes any.
        packet_id: of the last delivery, None at QoS 0.
        deadline: monotonic seconds.
        is_left_over: the broker brings it again, so an earlier process may have ended while it worked on it.
        submitted: when its parts went to the engine; None while an earlier turn of its session is answered.
        answer: as it is sent out; None while there is none.
        lacks_history: the conversation has earlier turns that were not known when work began.
        may_be_double: another box of the group may have answered the same request.
        observations: the scores of its text before the running calibration.
    """

    number: int
    request: Request
    fingerprint: str
    language: Language
    parts: Mapping[str, PartSpec]
    conversation: str | None
    addressees: list[Addressee]
    packet_id: int | None
    received: float
    deadline: float | None
    is_left_over: bool = False
    submitted: float | None = None
    answer: Answer | None = None
    lacks_history: bool = False
    may_be_double: bool = False
    observations: list[Observation] = field(default_factory=list)
    events: dict[str, Classified | Generated] = field(default_factory=dict)
    error: RequestError | None = None
    _stream: _Stream = field(default_factory=_Stream)
    _outputs: dict[str, Output] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, str]:
        """Two deliveries with the same identity are the same request."""
        return self.request.id, self.fingerprint

    @property
    def epoch(self) -> int:
        """The connection of its last delivery; -1 if it came at QoS 0 alone."""
        return max((ticket.epoch for each in self.addressees for ticket in each.tickets), default=-1)

    @property
    def is_lossy(self) -> bool:
        """Whether it came at QoS 0 only, so that the broker keeps no copy."""
        return self.packet_id is None

    def join(self, address: Address, arrival: Arrival) -> list[Addressee]:
        """Note that the same request came again, from the same sender or another; gives the places that are new."""
        place = next((each for each in self.addressees if each.address == address), None)
        new = [] if place is not None else [Addressee(address)]
        self.addressees += new
        if arrival.ticket is not None:
            (place or new[0]).tickets.append(arrival.ticket)
            self.packet_id = arrival.ticket.packet_id
        return new

    def take(self, part: str, event: WorkEvent) -> list[Chunk]:
        """Note an event of the engine for a part; gives the chunks that can be streamed now."""
        if isinstance(event, Failed):
            self.error = self.error or event.error
            return []
        if isinstance(event, TextDelta):
            self._stream.waiting.append((part, event))
        else:
            event = self._bounded(part, event)
            self.events[part] = event
            self._read(part, event)
        if not self.request.stream:
            return []
        return self._chunks(part)

    @property
    def is_complete(self) -> bool:
        """Whether the result can be written."""
        return self.error is not None or len(self.events) == len(self.parts)

    def _bounded(self, part: str, event: Classified | Generated) -> Classified | Generated:
        """The event, its text within the bytes that the request and the task allow."""
        spec = self.parts[part]
        if not isinstance(event, Generated) or not isinstance(spec, GenerateSpec):
            return event
        allowed = [each for each in (self.request.max_bytes, spec.max_bytes) if each is not None]
        text = shorten(event.text, min(allowed)) if allowed else event.text
        return event if text == event.text else replace(event, text=text, finish_reason="length")

    def _read(self, part: str, event: Classified | Generated) -> None:
        try:
            self._outputs[part] = self.parts[part].output(event, self.language)
        except RequestError as error:
            self.error = self.error or error

    def _chunks(self, part: str) -> list[Chunk]:
        """Parts that precede words are sent whole; the words of a reply wait for them."""
        chunks: list[Chunk] = []
        if self.parts[part].precedes_words and part in self._outputs:
            chunks.append(self._stream.chunk(part, asdict(self._outputs[part])))
        if all(name in self.events for name, spec in self.parts.items() if spec.precedes_words):
            chunks += self._stream.words()
        return chunks

    def turns(self) -> tuple[Turn, ...]:
        """The new turns of the conversation: the user's words and each reply to them."""
        replies = [
            event.text
            for part, event in self.events.items()
            if isinstance(event, Generated) and event.text and self.parts[part].keeps_history
        ]
        if not replies:
            return ()
        asked = Turn(role="user", content=self.request.text)
        return (asked, *(Turn(role="assistant", content=text) for text in replies))

    def result(self, *, node: str, model: str, time: str, now: float) -> Result:
        """The answer, once it is complete and without error; `now` in monotonic seconds."""
        return Result(
            id=self.request.id,
            task=self.request.task,
            session=self.request.session,
            node=node,
            model=model,
            time=time,
            outputs={part: self._outputs[part] for part in self.parts},
            usage=self.usage(),
            timings=self.timings(now),
            lacks_history=self.lacks_history,
            may_be_double=self.may_be_double,
            logprobs={
                part: event.logprobs
                for part, event in self.events.items()
                if isinstance(event, Generated) and event.logprobs
            },
        )

    @property
    def model(self) -> str | None:
        """The model that did the work, where the engine says so; of two models that of the last part, the reply."""
        models = [event.model.id for part in self.parts if (event := self.events.get(part)) and event.model]
        return models[-1] if models else None

    def usage(self) -> Usage:
        """Tokens of all parts."""
        return sum((event.usage for event in self.events.values()), NO_USAGE)

    def timings(self, now: float) -> ResultTimings:
        """Times of the whole request. Parts run side by side, so the longest time counts."""
        parts = [event.timings for event in self.events.values()]
        waited = 1000 * ((self.submitted or now) - self.received)
        decode_ms = max((each.decode_ms for each in parts), default=0.0)
        tokens = self.usage().completion_tokens
        return ResultTimings(
            queue_ms=round(waited + min((each.queue_ms for each in parts), default=0.0), 1),
            prefill_ms=round(max((each.prefill_ms for each in parts), default=0.0), 1),
            decode_ms=round(decode_ms, 1),
            first_token_ms=round(waited + max((each.first_token_ms for each in parts), default=0.0), 1),
            total_ms=round(1000 * (now - self.received), 1),
            # The prefill gives the first token.
            tokens_per_second=round(1000 * (tokens - 1) / decode_ms, 1) if tokens > 1 and decode_ms > 0 else 0.0,
        )

    def classified_ms(self) -> float | None:
        """From receipt to the last label, if any was asked for."""
        times = [event.timings.total_ms for event in self.events.values() if isinstance(event, Classified)]
        if not times or self.submitted is None:
            return None
        return 1000 * (self.submitted - self.received) + max(times)
