"""Counters and latencies of the requests, over the life of the process and over a sliding window. Pure: time comes in.

Written by the worker's thread and read by the main thread, so one lock guards all. Holds numbers only, never text.
"""

import threading
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence

WINDOW_S = 300.0
_MAX_SAMPLES = 2048  # of one kind in the window: bounds the memory of a busy hour
_COUNTS = ("received", "shared", "answered", "duplicates", "redelivered")
_LATENCIES = ("total", "queue", "first_token", "sentiment")


class _Window:
    """The latest samples: a ring whose memory is there from the start, so that a busy hour takes no more of it."""

    def __init__(self) -> None:
        self._times = array("d", bytes(8 * _MAX_SAMPLES))
        self._values = array("d", bytes(8 * _MAX_SAMPLES))
        self._added = 0  # of all time; the next one's place is its remainder
        self._since: float | None = None  # when the first sample of all came

    def add(self, now: float, value: float) -> None:
        self._since = now if self._since is None else self._since
        self._times[self._added % _MAX_SAMPLES] = now
        self._values[self._added % _MAX_SAMPLES] = value
        self._added += 1

    def values(self, now: float) -> list[float]:
        """The samples that are young enough."""
        # Before the ring is full its unused part must not count.
        times, values = self._times[: self._added], self._values[: self._added]
        return [value for at, value in zip(times, values, strict=True) if at > now - WINDOW_S]

    def per_second(self, now: float) -> float:
        """The sum of the window over the time that it covers."""
        values = self.values(now)
        if not values or self._since is None:
            return 0.0
        # A young window has not covered its length yet; a full one has lost its older part.
        is_full = len(values) == _MAX_SAMPLES
        begin = self._times[self._added % _MAX_SAMPLES] if is_full else max(self._since, now - WINDOW_S)
        return sum(values) / max(now - begin, 1.0)


class Metrics:
    """What happened to the requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._latencies = {name: _Window() for name in _LATENCIES}
        self._prompt = _Window()
        self._completion = _Window()

    def received(self) -> None:
        """A message came below `in/`."""
        self._count("received")

    def redelivered(self) -> None:
        """The broker sent a message again."""
        self._count("redelivered")

    def shared(self) -> None:
        """It came by the queue of a group."""
        self._count("shared")

    def duplicate(self) -> None:
        """A request was answered from the journal, or joined the one in hand."""
        self._count("duplicates")

    def answered(
        self,
        now: float,
        *,
        total_ms: float,
        queue_ms: float,
        first_token_ms: float | None = None,
        sentiment_ms: float | None = None,
    ) -> None:
        """A request got its result; times from its receipt, None where there is none of that kind."""
        measured = {
            "total": total_ms,
            "queue": queue_ms,
            "first_token": first_token_ms,
            "sentiment": sentiment_ms,
        }
        with self._lock:
            self._counts["answered"] += 1
            for name, value in measured.items():
                if value is not None:
                    self._latencies[name].add(now, value)

    def failed(self, code: str) -> None:
        """A request got an error."""
        with self._lock:
            self._errors[code] += 1

    def tokens(self, now: float, prompt: int, cached: int, completion: int) -> None:
        """Tokens of an answered request; those from the cache were not computed."""
        with self._lock:
            self._prompt.add(now, prompt - cached)
            self._completion.add(now, completion)

    def snapshot(self, now: float) -> dict[str, Mapping[str, object]]:
        """The figures, JSON-ready: `requests`, `latency_ms`, and the rates of `tokens`."""
        with self._lock:
            counts = {name: self._counts[name] for name in _COUNTS}
            errors = dict(self._errors)
            latencies = {name: window.values(now) for name, window in self._latencies.items()}
            tokens = {
                "prompt_per_s": round(self._prompt.per_second(now), 1),
                "completion_per_s": round(self._completion.per_second(now), 1),
            }
        return {
            "requests": {
                **counts,
                "errors": dict(sorted(errors.items())),
                "expired": errors.get("expired", 0),
                "cancelled": errors.get("cancelled", 0),
            },
            "latency_ms": {name: quantiles(values) for name, values in latencies.items()},
            "tokens": tokens,
        }

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def quantiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95 and p99 by nearest rank; None for no values."""
    ranked = sorted(values)
    if not ranked:
        return {"p50": None, "p95": None, "p99": None}
    return {f"p{percent}": round(ranked[max(0, -(-percent * len(ranked) // 100) - 1)], 1) for percent in (50, 95, 99)}
