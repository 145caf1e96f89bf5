"""Probes the engine by decoding a token: decides when, and keeps the last result.

A token that was decoded for a request proves as much as one that was decoded for a probe, so a busy engine is not
probed.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from edged.ports.engine import Engine, EngineState, Failed, Params, Work, WorkEvent
from edged.tasks.specs import GenerateSpec

PROBE = GenerateSpec(name="probe", system={"en": "Say OK.", "zh": "说好。"}, max_tokens=1, keeps_history=False)

_AWAY_INTERVAL_S = 5.0  # between two probes of an engine that can answer nothing just now


class Prober:
    """Decodes one real token, to learn whether the engine can."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float], timeout_s: float) -> None:
        self._engine = engine
        self._clock = clock
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._number = 0

    def probe(self, on_end: Callable[[float | None], None]) -> None:
        """Decode; `on_end` gets the milliseconds it took, or None on failure, in the engine's thread."""
        with self._lock:
            self._number += 1
            key = f"probe/{self._number}"
        begin = self._clock()

        def on_event(event: WorkEvent) -> None:
            on_end(None if isinstance(event, Failed) else 1000 * (self._clock() - begin))

        work = Work(
            key=key,
            spec=PROBE,
            text="OK",
            language="en",
            params=Params(max_tokens=1, temperature=0.0),
            deadline=begin + self._timeout_s,
        )
        self._engine.submit(work, on_event)


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """The last proof that the engine can decode, or that it cannot.

    Attributes:
        at: monotonic seconds of the end of a probe, or of a token that was decoded for a request.
        ms: how long the last probe took; None if it failed, or if there was none yet.
    """

    ok: bool
    at: float
    ms: float | None


class Probing:
    """Probes the engine when it has decoded nothing for a while, and keeps the last proof.

    `tick` is for one thread; probes end in the engine's thread.
    """

    def __init__(self, prober: Prober, *, interval: float, give_up_after: float, clock: Callable[[], float]) -> None:
        """Assign.

        Args:
            prober: decodes a token.
            interval: seconds without a token after which the engine is probed.
            give_up_after: seconds after which a probe that has not ended counts as failed.
            clock: monotonic seconds.
        """
        self._prober = prober
        self._interval = interval
        self._give_up_after = give_up_after
        self._clock = clock
        self._last: Probe | None = None
        self._since: float | None = None  # when the probe that runs now began

    @property
    def last(self) -> Probe | None:
        """The last proof; None before the first."""
        return self._last

    def tick(self, engine: EngineState) -> None:
        """Take note of the tokens that requests had decoded; probe if that is due."""
        now = self._clock()
        last, decoded_at = self._last, engine.last_token_at
        latest = max((at for at in (decoded_at, last.at if last else None) if at is not None), default=None)
        if decoded_at is not None and (last is None or (decoded_at > last.at and self._since is None)):
            self._last = Probe(ok=True, at=decoded_at, ms=last.ms if last else None)
        if self._since is not None:
            if now - self._since > self._give_up_after:
                self._last = Probe(ok=False, at=now, ms=None)
            return
        # Only a probe can tell that an engine that was away is back: in a group, such a box gets no other work.
        # After a failed probe the next one comes soon too; else a fault that is over would show for a whole interval.
        is_well = engine.away is None and (last is None or last.ok)
        interval = self._interval if is_well else _AWAY_INTERVAL_S
        if latest is None or now - latest >= interval:
            self._since = now
            self._prober.probe(self._ended)

    def _ended(self, ms: float | None) -> None:
        self._last = Probe(ok=ms is not None, at=self._clock(), ms=ms)
        self._since = None
