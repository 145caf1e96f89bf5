"""Counters that add up, quantiles by definition, rates that hold at any age, memory that is bounded."""

import json
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from edged.contract.health import Quantiles
from edged.monitoring.metrics import WINDOW_S, Metrics, quantiles

MILLISECONDS = st.floats(0, 1e7)


def answered(metrics: Metrics, now: float, total_ms: float) -> None:
    metrics.answered(now, total_ms=total_ms, queue_ms=0.0)


def test_nothing_has_happened_yet() -> None:
    empty = {"p50": None, "p95": None, "p99": None}
    measured = Metrics().snapshot(0.0)
    assert measured.requests.model_dump() == {
        "received": 0,
        "shared": 0,
        "answered": 0,
        "duplicates": 0,
        "routed": 0,
        "skipped": 0,
        "redelivered": 0,
        "errors": {},
        "route_errors": {},
        "expired": 0,
        "cancelled": 0,
    }
    kinds = ("total", "queue", "first_token", "sentiment")
    assert measured.latency_ms.model_dump() == dict.fromkeys(kinds, empty)
    assert (measured.prompt_per_s, measured.completion_per_s) == (0.0, 0.0)


def test_every_event_counts_once_in_its_place() -> None:
    metrics = Metrics()
    events: tuple[tuple[Callable[[], None], int], ...] = (
        (metrics.received, 7),
        (metrics.redelivered, 2),
        (metrics.duplicate, 1),
        (metrics.shared, 6),
        (metrics.routed, 9),
        (metrics.skipped, 8),
        (lambda: metrics.route_failed("a"), 10),
        (lambda: answered(metrics, 0.0, 1.0), 3),
        (lambda: metrics.failed("busy"), 2),
        (lambda: metrics.failed("expired"), 4),
        (lambda: metrics.failed("cancelled"), 5),
    )
    for event, times in events:
        for _ in range(times):
            event()
    assert metrics.snapshot(1.0).requests.model_dump() == {
        "received": 7,
        "shared": 6,
        "answered": 3,
        "duplicates": 1,
        "routed": 9,
        "skipped": 8,
        "redelivered": 2,
        "route_errors": {"a": 10},
        "errors": {"busy": 2, "cancelled": 5, "expired": 4},
        "expired": 4,
        "cancelled": 5,
    }


def test_a_kind_of_latency_that_was_not_measured_stays_empty() -> None:
    metrics = Metrics()
    metrics.answered(0.0, total_ms=30.0, queue_ms=10.0, sentiment_ms=20.0)
    latency = metrics.snapshot(1.0).latency_ms.model_dump()
    assert latency["total"] == {"p50": 30.0, "p95": 30.0, "p99": 30.0}
    assert latency["sentiment"] == {"p50": 20.0, "p95": 20.0, "p99": 20.0}
    assert latency["first_token"] == {"p50": None, "p95": None, "p99": None}


@given(st.lists(MILLISECONDS, min_size=1, max_size=300))
@settings(deadline=None)
def test_a_quantile_is_the_least_value_that_enough_values_do_not_exceed(values: list[float]) -> None:
    for name, found in quantiles(values).model_dump().items():
        share = int(name[1:]) / 100
        least = min(value for value in values if sum(each <= value for each in values) >= share * len(values))
        assert found == round(least, 1)


def test_what_is_older_than_the_window_is_forgotten_and_the_counters_are_not() -> None:
    metrics = Metrics()
    answered(metrics, 0.0, 1000.0)
    answered(metrics, 10.0, 1.0)
    assert metrics.snapshot(WINDOW_S - 1).latency_ms.total.p99 == 1000.0
    late = metrics.snapshot(WINDOW_S + 5)
    assert late.latency_ms.total == Quantiles(p50=1.0, p95=1.0, p99=1.0)
    assert late.requests.answered == 2
    assert metrics.snapshot(2 * WINDOW_S).latency_ms.total.p50 is None


@pytest.mark.parametrize("age_s", [20, 100, 299, 301, 1000])
@pytest.mark.parametrize("times_a_second", [1, 10, 20])
def test_a_steady_rate_reads_the_same_at_any_age(age_s: int, times_a_second: int) -> None:
    metrics = Metrics()
    for i in range(age_s * times_a_second):
        metrics.tokens(i / times_a_second, prompt=30, cached=20, completion=5)
    rates = metrics.snapshot(float(age_s))
    assert rates.prompt_per_s == pytest.approx(10 * times_a_second, rel=0.02)
    assert rates.completion_per_s == pytest.approx(5 * times_a_second, rel=0.02)


def test_rates_fall_to_nothing_when_nothing_comes() -> None:
    metrics = Metrics()
    metrics.tokens(0.0, prompt=100, cached=0, completion=100)
    readings = [metrics.snapshot(now).completion_per_s for now in (0.0, 10.0, 100.0, WINDOW_S)]
    assert readings == [100.0, 10.0, 1.0, 0.0]


def test_a_busy_hour_takes_no_memory() -> None:
    metrics = Metrics()
    tracemalloc.start()
    try:
        for i in range(20_000):
            answered(metrics, i / 1000, float(i))
        assert tracemalloc.get_traced_memory()[0] < 20_000
    finally:
        tracemalloc.stop()


@given(st.lists(st.tuples(st.floats(0, 1000), MILLISECONDS, st.integers(0, 10**6), st.integers(0, 10**6)), max_size=20))
@settings(deadline=None)
def test_a_snapshot_is_always_json_without_nan(events: list[tuple[float, float, int, int]]) -> None:
    metrics = Metrics()
    for now, ms, prompt, completion in sorted(events):
        metrics.answered(now, total_ms=ms, queue_ms=ms, first_token_ms=ms, sentiment_ms=ms)
        metrics.tokens(now, prompt, 0, completion)
    json.dumps(asdict(metrics.snapshot(1000.0)), default=BaseModel.model_dump, allow_nan=False)


def test_one_thread_writes_while_another_reads() -> None:
    metrics = Metrics()
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            seen.append(metrics.snapshot(1.0).requests.answered)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(300):
        answered(metrics, 0.5, 1.0)
        metrics.failed("busy")
    done.set()
    reader.join(10)
    assert seen == sorted(seen)
    assert metrics.snapshot(1.0).requests.errors == {"busy": 300}
