"""Counts and latencies of the requests, since the start of the process and over a sliding window. Reads no clock.

The worker's thread writes and the main thread reads, so one lock guards all. Holds numbers only, never text.
A new figure of the health report begins as a field in `contract/health.py`.
"""

import threading
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edged.contract.health import LatencyFigures, Quantiles, RequestFigures

WINDOW_S = 300.0
_MAX_SAMPLES = 2048  # of one kind in the window: bounds the memory of a busy hour


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The figures of the requests for the health report; the rates are tokens per second."""

    requests: RequestFigures
    latency_ms: LatencyFigures
    prompt_per_s: float
    completion_per_s: float


class _Window:
    """The latest samples, in a ring. It takes all its memory at the start, so a busy hour takes no more."""

    def __init__(self) -> None:
        self._times = array("d", bytes(8 * _MAX_SAMPLES))
        self._values = array("d", bytes(8 * _MAX_SAMPLES))
        self._added = 0  # since the start; the next sample goes to the remainder of it
        self._since: float | None = None  # when the first sample came

    def add(self, now: float, value: float) -> None:
        self._since = now if self._since is None else self._since
        self._times[self._added % _MAX_SAMPLES] = now
        self._values[self._added % _MAX_SAMPLES] = value
        self._added += 1

    def values(self, now: float) -> list[float]:
        """The samples that are not older than the window."""
        # Before the ring is full its unused part must not count.
        times, values = self._times[: self._added], self._values[: self._added]
        return [value for at, value in zip(times, values, strict=True) if at > now - WINDOW_S]

    def per_second(self, now: float) -> float:
        """The sum of the samples, divided by the time that they cover."""
        values = self.values(now)
        if not values or self._since is None:
            return 0.0
        # Soon after the start the window covers less than its length; when the ring is full, its oldest samples are
        # gone.
        is_full = len(values) == _MAX_SAMPLES
        begin = self._times[self._added % _MAX_SAMPLES] if is_full else max(self._since, now - WINDOW_S)
        return sum(values) / max(now - begin, 1.0)


class Metrics:
    """Counts what happens to the requests, and keeps how long they took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()  # by the fields of `RequestFigures`
        self._errors: Counter[str] = Counter()
        self._route_errors: Counter[str] = Counter()
        self._latencies = {name: _Window() for name in LatencyFigures.model_fields}
        self._prompt = _Window()
        self._completion = _Window()

    def received(self) -> None:
        """A message came below `in/`."""
        self._count("received")

    def redelivered(self) -> None:
        """The broker sent a message again."""
        self._count("redelivered")

    def shared(self) -> None:
        """A message came by the queue of a group."""
        self._count("shared")

    def routed(self) -> None:
        """A message came by a route of the settings."""
        self._count("routed")

    def skipped(self) -> None:
        """A message of a route was none of its requests."""
        self._count("skipped")

    def route_failed(self, name: str) -> None:
        """A request of this route got an error."""
        with self._lock:
            self._route_errors[name] += 1

    def duplicate(self) -> None:
        """A request was answered from the journal, or together with the same request in hand."""
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
        """A request got its result. Times count from its receipt; None: nothing of that kind was measured."""
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
        """Count the tokens of an answered request; the cached ones were not computed."""
        with self._lock:
            self._prompt.add(now, prompt - cached)
            self._completion.add(now, completion)

    def snapshot(self, now: float) -> Measured:
        """The figures of this moment."""
        with self._lock:
            counts = {name: self._counts[name] for name in RequestFigures.model_fields}
            errors = dict(sorted(self._errors.items()))
            route_errors = dict(sorted(self._route_errors.items()))
            latencies = {name: window.values(now) for name, window in self._latencies.items()}
            prompt_per_s = round(self._prompt.per_second(now), 1)
            completion_per_s = round(self._completion.per_second(now), 1)
        by_code = {"expired": errors.get("expired", 0), "cancelled": errors.get("cancelled", 0)}
        by_name = {"errors": errors, "route_errors": route_errors}
        return Measured(
            requests=RequestFigures.model_validate(counts | by_code | by_name),
            latency_ms=LatencyFigures(**{name: quantiles(values) for name, values in latencies.items()}),
            prompt_per_s=prompt_per_s,
            completion_per_s=completion_per_s,
        )

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def quantiles(values: Sequence[float]) -> Quantiles:
    """p50, p95 and p99 by nearest rank; None for no values."""
    ranked = sorted(values)

    def rank(percent: int) -> float | None:
        return round(ranked[max(0, -(-percent * len(ranked) // 100) - 1)], 1) if ranked else None

    return Quantiles(p50=rank(50), p95=rank(95), p99=rank(99))
