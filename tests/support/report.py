"""A health report (`R/health`) in which every optional field is there."""

from typing import Any

REPORT: dict[str, Any] = {
    "state": "ready",
    "reasons": [],
    "uptime_s": 12.5,
    "boot_id": "b",
    "version": "1.2.3",
    "time": "2026-01-01T00:00:00.000Z",
    "model": {
        "id": "tiny",
        "format": "int8",
        "device": "cpu",
        "threads": 2,
        "parameters": 1000,
        "weight_bytes": 1024,
        "load_s": 1.5,
        "duty": 1.0,
    },
    "queue": {"depth": 3, "capacity": 64, "oldest_age_s": 0.25, "running": 2},
    "requests": {
        "received": 10,
        "shared": 0,
        "answered": 7,
        "duplicates": 1,
        "redelivered": 2,
        "errors": {"bad_request": 2, "expired": 1},
        "expired": 1,
        "cancelled": 0,
    },
    "latency_ms": {
        "total": {"p50": 700.0, "p95": 900.0, "p99": 950.0},
        "queue": {"p50": 1.0, "p95": 2.0, "p99": 3.0},
        "first_token": {"p50": 50.0, "p95": 60.0, "p99": 70.0},
        "sentiment": {"p50": None, "p95": None, "p99": None},
    },
    "tokens": {
        "prompt_total": 100,
        "cached_total": 60,
        "completion_total": 50,
        "prompt_per_s": 4.0,
        "completion_per_s": 30.0,
        "batch_mean": 2.5,
    },
    "cache": {"prefix_hits": 5, "prefix_misses": 1, "bytes": 1000, "capacity": 2000},
    "mqtt": {"connected_since": "2026-01-01T00:00:00Z", "reconnects": 1, "unacked": 3, "outbox": 0, "protocol": "5"},
    "system": {
        "cpu_percent": 50.0,
        "load": 0.7,
        "memory_rss_mb": 2.0,
        "memory_available_mb": 4.0,
        "temperature_c": 48.5,
        "throttled": False,
        "disk_free_mb": 8.0,
    },
    "probe": {"ok": True, "age_s": 3.0, "ms": 20.0},
}
