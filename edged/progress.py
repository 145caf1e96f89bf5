"""Shows a person at a terminal that something takes long. Knows nothing about the work itself."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO

_AT_TERMINAL_S = 1.0
_IN_LOG_S = 30.0
_CLEAR = "\r\x1b[K"


@contextlib.contextmanager
def waiting(what: str, *, out: IO[str] | None = None, lines: bool = True, has_bar: bool = False) -> Iterator[None]:
    """Say that `what` is going on, and for how long.

    At a terminal that is one line, which changes every second and is gone in the end. Elsewhere, unless `lines` is
    False, it is a line at the beginning and one every half minute.

    Args:
        what: as in "loading the model".
        out: where to; standard error if None.
        lines: whether to write where there is no terminal.
        has_bar: whether something else draws at the terminal.
    """
    stream = out or sys.stderr
    at_terminal = stream.isatty()
    if has_bar if at_terminal else not lines:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_tell, args=(stream, what, ended, at_terminal), name="progress", daemon=True)
    if not at_terminal:
        _write(stream, f"{what}\n")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if at_terminal:
            _write(stream, _CLEAR)


def _tell(stream: IO[str], what: str, ended: threading.Event, at_terminal: bool) -> None:
    begin = time.monotonic()
    while not ended.wait(_AT_TERMINAL_S if at_terminal else _IN_LOG_S):
        told = f"{what}: {time.monotonic() - begin:.0f} s"
        _write(stream, f"{_CLEAR}{told}" if at_terminal else f"{told}\n")


def _write(stream: IO[str], text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone, or closed: there is nobody to tell
        stream.write(text)
        stream.flush()
