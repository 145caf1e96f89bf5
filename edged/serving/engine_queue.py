"""The work that waits for the engine, in fair order; see `shares`. For the worker's thread.

The engine has two kinds of work with places of their own: classifications, and texts to write. Each kind has its own
queue here, so that a short question never waits behind long texts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from edged.errors import Cancelled, Expired
from edged.ports.engine import Classified, Engine, Failed, Generated, TextDelta, Usage, Work, WorkEvent
from edged.serving.senders import Senders
from edged.serving.shares import Shares
from edged.tasks.specs import ClassifySpec

_AT_ENGINE = 64  # pieces of work of a kind: more than a batch, so that it never waits for the next
_CHARS_PER_TOKEN = 3
_LIKELY_TOKENS = 64  # of a text whose length nobody limits

OnEvent = Callable[[WorkEvent], None]


@dataclass(slots=True)
class _Piece:
    """A piece of work: `since` it waits, by the clock; `waited_ms` is known when the engine has it."""

    work: Work
    on_event: OnEvent
    sender: str
    shares: Shares
    since: float
    waited_ms: float | None = None


class EngineQueue:
    """Gives work to the engine; its events come in the worker's thread."""

    def __init__(
        self,
        engine: Engine,
        *,
        batch: int,
        senders: Senders,
        post: Callable[[Callable[[], None]], None],
        clock: Callable[[], float],
    ) -> None:
        """`batch` pieces of work of a kind run side by side; `post` runs a function in the worker's thread."""
        self._engine = engine
        self._senders = senders
        self._post = post
        self._clock = clock
        room = max(_AT_ENGINE, 2 * batch)
        self._short = Shares(room=room)
        self._long = Shares(room=room)
        self._pieces: dict[str, _Piece] = {}
        self._is_held = False

    def hold(self, *, is_held: bool) -> None:
        """Let all work wait here, or give it to the engine again."""
        self._is_held = is_held
        self._feed(self._short)
        self._feed(self._long)

    def submit(self, work: Work, on_event: OnEvent, *, sender: str, priority: int, received: float) -> None:
        """Take work in. Exactly one of its events is an end, as of `ports.Engine.submit`."""
        shares = self._short if isinstance(work.spec, ClassifySpec) else self._long
        self._pieces[work.key] = _Piece(work, on_event, sender, shares, self._clock())
        shares.enter(work.key, sender=sender, cost=_likely_cost(work), priority=priority, at=received)
        self._feed(shares)

    def cancel(self, key: str) -> None:
        """End work early, wherever it is."""
        self._take_out(key, Failed(key=key, error=Cancelled("the request was cancelled before there was an answer")))
        self._engine.cancel(key)

    def forget(self, conversation: str) -> None:
        """See `ports.Engine.forget`; also of the work that waits."""
        for piece in self._pieces.values():
            piece.work = piece.work.without(conversation)
        self._engine.forget(conversation)

    def expire(self) -> None:
        """End the work whose deadline passed while it waited; the engine watches the deadlines of what it has."""
        now = self._clock()
        for key in [*self._short.waiting(), *self._long.waiting()]:
            deadline = self._pieces[key].work.deadline
            if deadline is not None and now >= deadline:
                self._take_out(key, Failed(key=key, error=Expired("the deadline passed before work began")))

    def _take_out(self, key: str, event: WorkEvent) -> None:
        piece = self._pieces.get(key)
        if piece is not None and piece.shares.leave(key):
            del self._pieces[key]
            self._post(lambda: piece.on_event(event))

    def _feed(self, shares: Shares) -> None:
        while not self._is_held and (chosen := shares.take()) is not None:
            key, order = chosen
            piece = self._pieces[key]
            piece.waited_ms = 1000 * (self._clock() - piece.since)
            self._engine.submit(replace(piece.work, sender=piece.sender, order=order), self._listener(key))

    def _listener(self, key: str) -> OnEvent:
        return lambda event: self._post(lambda: self._heard(key, event))

    def _heard(self, key: str, event: WorkEvent) -> None:
        piece = self._pieces.get(key)
        if piece is None:
            return
        if isinstance(event, TextDelta):
            piece.on_event(event)
            return
        del self._pieces[key]
        cost = None
        if isinstance(event, Classified | Generated):
            cost = _cost(event.usage)
            self._senders.spent(piece.sender, cost)
            event = _later(event, piece.waited_ms or 0.0)
        piece.shares.end(key, cost)
        piece.on_event(event)
        self._feed(piece.shares)


def _likely_cost(work: Work) -> int:
    read = len(work.text) // _CHARS_PER_TOKEN
    if isinstance(work.spec, ClassifySpec):
        return read
    return read + (work.params.max_tokens or work.spec.max_tokens or _LIKELY_TOKENS)


def _cost(usage: Usage) -> int:
    """The tokens that were computed."""
    return usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens


def _later(event: Classified | Generated, waited_ms: float) -> Classified | Generated:
    """The event, with the time in this queue as a part of its times."""
    timings = event.timings
    return replace(
        event,
        timings=replace(
            timings,
            queue_ms=timings.queue_ms + waited_ms,
            first_token_ms=timings.first_token_ms + waited_ms,
            total_ms=timings.total_ms + waited_ms,
        ),
    )
