"""How tests wait: for an event where there is one, else by polling."""

import queue
import time
from collections.abc import Callable
from typing import TypeVar

TIMEOUT = 120.0  # generous, for a busy box: only a test that fails waits so long

T = TypeVar("T")


def eventually(condition: Callable[[], T | None], what: str = "the condition", *, timeout: float = TIMEOUT) -> T:
    """Poll `condition` until its value is true; give that value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true in {timeout:.0f} s")
        time.sleep(0.005)
    return value


def take(source: "queue.SimpleQueue[T]", number: int) -> list[T]:
    """Wait for the next `number` items of a queue."""
    return [source.get(timeout=TIMEOUT) for _ in range(number)]


def drain(source: "queue.SimpleQueue[T]") -> list[T]:
    """Take all items that are in the queue now."""
    found = []
    while not source.empty():
        found.append(source.get_nowait())
    return found
