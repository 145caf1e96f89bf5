"""Stops one thread of a process and keeps it stopped until it is killed: a hang that the process cannot see.

usage: stop_thread.py PID

The thread is the one, other than the main thread, that has used the most CPU time. By ptrace(2), so it needs root.
"""

import ctypes
import os
import sys
from pathlib import Path

_SEIZE, _INTERRUPT = 0x4206, 0x4207
_WALL = 0x40000000


def busiest(pid: int) -> int:
    """The thread, other than the main one, with the most CPU time."""

    def used(thread: int) -> int:
        fields = Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    threads = [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    return max((each for each in threads if each != pid), key=used)


def main() -> None:
    thread = busiest(int(sys.argv[1]))
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for request in (_SEIZE, _INTERRUPT):
        if ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), f"ptrace: {os.strerror(ctypes.get_errno())}")
    print(thread, flush=True)
    # A traced thread that was killed is not gone before its tracer has taken note of it.
    while not os.WIFSIGNALED(os.waitpid(thread, _WALL)[1]):
        pass


if __name__ == "__main__":
    main()
