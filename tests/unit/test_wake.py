"""What wakes the daemon's main thread."""

import signal
import threading

from edged.daemon import Wake

_WAITS = 3000
_EVERY_S = 1e-4  # so some signals come while the main thread begins or ends a wait


def test_a_signal_may_wake_the_main_thread_at_any_moment() -> None:
    wake = Wake()
    before = signal.signal(signal.SIGALRM, lambda *_: wake.set())
    signal.setitimer(signal.ITIMER_REAL, _EVERY_S, _EVERY_S)
    try:
        for _ in range(_WAITS):
            wake.wait(0.01)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_is_set_before_a_wait_ends_it() -> None:
    wake = Wake()
    wake.set()
    wake.set()
    wake.wait(threading.TIMEOUT_MAX)
    wake.wait(0)  # both were heard
