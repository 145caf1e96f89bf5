"""Stops one thread of a process and keeps it stopped until this program ends: a hang that the process cannot see.

usage: stop_thread.py PID [SECONDS]

The thread is the one, other than the main thread, that has used the most CPU time. By ptrace(2), so it needs root.
"""

import ctypes
import os
import sys
import time
from pathlib import Path

_SEIZE, _INTERRUPT = 0x4206, 0x4207


def busiest(pid: int) -> int:
    """The thread, other than the main one, with the most CPU time."""

    def used(thread: int) -> int:
        fields = Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    threads = [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    return max((each for each in threads if each != pid), key=used)


def main() -> None:
    pid, seconds = int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 600.0
    thread = busiest(pid)
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for request in (_SEIZE, _INTERRUPT):
        if ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), f"ptrace: {os.strerror(ctypes.get_errno())}")
    print(thread, flush=True)
    time.sleep(seconds)


if __name__ == "__main__":
    main()
