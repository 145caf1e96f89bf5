"""How fast this box reads its memory. Knows processors and memory, and nothing about models.

The method: a buffer much larger than the last-level cache is split into pieces. As many threads as the engine has
combine the 64-bit words of the pieces by exclusive or. That costs the processor almost nothing, so the time measured is
the time of reading. The best of a few passes is the figure, as in STREAM (McCalpin 1995): other work on the box can
only make a pass slower.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil

_MIB = 1 << 20
_LEAST = 256 * _MIB
_TIMES_CACHE = 8  # size of the buffer relative to the last-level cache
_OF_FREE_MEMORY = 4  # the buffer takes at most this share of it
_PIECES_PER_THREAD = 8  # many small pieces: a thread that is delayed does not delay the others for long
_PASSES = 5
_CPU = Path("/sys/devices/system/cpu/cpu0")


def read_bandwidth(threads: int) -> float:
    """Measure the read bandwidth, in bytes per second, with this many threads."""
    words = np.arange(_buffer_bytes() // 8, dtype=np.uint64)  # written, so that every page is really there
    pieces = np.array_split(words, threads * _PIECES_PER_THREAD)
    with ThreadPoolExecutor(threads) as pool:
        return words.nbytes / min(_seconds(pool, pieces) for _ in range(_PASSES))


def _seconds(pool: ThreadPoolExecutor, pieces: list[np.ndarray]) -> float:
    begin = time.perf_counter()
    for _ in pool.map(np.bitwise_xor.reduce, pieces):  # numpy releases the interpreter's lock
        pass
    return time.perf_counter() - begin


def _buffer_bytes() -> int:
    wanted = max(_LEAST, _TIMES_CACHE * cache_bytes())
    return max(min(wanted, psutil.virtual_memory().available // _OF_FREE_MEMORY), _MIB)


def cache_bytes(cpu: Path = _CPU) -> int:
    """Give the size of the largest cache that the kernel shows; 0 where it shows none."""
    return max((_size(file) for file in cpu.glob("cache/index*/size")), default=0)


def _size(file: Path) -> int:
    try:
        text = file.read_text(encoding="ascii").strip()
        return int(text.rstrip("KM")) * {"K": 1 << 10, "M": _MIB}.get(text[-1:], 1)
    except (OSError, ValueError):
        return 0
