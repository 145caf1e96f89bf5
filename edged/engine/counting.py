"""The engine's counters, and the times of each piece of work. Knows no model and no torch."""

from dataclasses import dataclass

from edged.ports.engine import Timings


@dataclass(slots=True)
class Counts:
    """Totals since the engine was ready.

    Attributes:
        cached_tokens: those of `prompt_tokens` that did not have to be computed.
        step_rows: tokens that went through the model, over all steps.
        last_token_at: when a token was last decoded or a label scored, in monotonic seconds.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    step_rows: int = 0
    last_token_at: float | None = None


@dataclass(slots=True, kw_only=True)
class Times:
    """When things happened to a piece of work, in monotonic seconds; None for what has not happened yet."""

    submitted: float
    admitted: float | None = None
    first_token: float | None = None

    def timings(self, now: float) -> Timings:
        """The times so far, in milliseconds."""
        admitted = now if self.admitted is None else self.admitted
        first = now if self.first_token is None else self.first_token
        return Timings(
            queue_ms=1000 * (admitted - self.submitted),
            prefill_ms=1000 * (first - admitted),
            decode_ms=1000 * (now - first),
            first_token_ms=1000 * (first - self.submitted),
            total_ms=1000 * (now - self.submitted),
        )
