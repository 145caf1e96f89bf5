"""Lets only one daemon of a name use a state folder, and tells whether the process before this one ended in order.

The lock is the kernel's (flock), which releases it when a process ends in whatever way. The file's
text describes the process that holds the lock. A process that ends in order empties the file, so text that is found was
left by a process that did not.
"""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import structlog

from edged.contract.status import Identity
from edged.errors import ExitCode, FatalError, NameTaken

log = structlog.get_logger(__name__)

_MAX_BYTES = 4096  # bytes of the file that are read


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """A process as described in the file; None for a value that the file lacks."""

    boot_id: str | None = None
    pid: int | None = None
    started: str | None = None


class InstanceLock:
    """The lock file of one name.

    Attributes:
        unended: the process before this one, if it did not end in order; known after `acquire`.
    """

    def __init__(self, folder: Path, *, root: str, identity: Identity) -> None:
        """`root` is the name: prefix and node; `identity` is this process."""
        self._path = folder / f"{quote(root, safe='')}.lock"
        self._root = root
        self._identity = identity
        self._file: int | None = None
        self.unended: Instance | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock, and note at the end whether this process ended in order; see `acquire`."""
        self.acquire()
        is_in_order = False
        try:
            yield
            is_in_order = True
        except FatalError as error:
            # What stopped the process before it was told of an earlier unclean end leaves that to the next one.
            is_in_order = error.exit_code is not ExitCode.BUG and self.unended is None
            raise
        finally:
            self.release(in_order=is_in_order)

    def acquire(self) -> None:
        """Take the lock. If the disk allows no lock (it is full, or a network disk), the daemon goes on without one.

        Raises:
            NameTaken: another process has it.
        """
        file = None
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.unended = _read(file)
        except OSError as error:
            holder = None if file is None else _read(file)
            if file is not None:
                os.close(file)
            if error.errno == errno.EWOULDBLOCK:
                process = "another process" if holder is None or holder.pid is None else f"process {holder.pid}"
                raise NameTaken(
                    f"{self._root} runs already: {process} uses {self._path.parent} as its state folder. It goes on. "
                    "Stop it first, or give this one another EDGED_NODE"
                ) from error
            log.warning("instance_lock", path=str(self._path), reason=error.strerror)
            return
        self._file = file

    def note(self) -> None:
        """Write that this process runs under the name."""
        told = {"boot_id": self._identity.boot_id, "pid": os.getpid(), "started": self._identity.started}
        self._write(json.dumps(told).encode())

    def release(self, *, in_order: bool) -> None:
        """Release the lock; without `in_order` the file's text stays, so that the next process finds it."""
        if self._file is None:
            return
        if in_order:
            self._write(b"")
        os.close(self._file)
        self._file = None

    def _write(self, text: bytes) -> None:
        # In place: a file that took this one's place would not be locked.
        if self._file is None:
            return
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text, 0)
            os.fsync(self._file)
        except OSError as error:
            log.warning("instance_lock", path=str(self._path), reason=error.strerror)


def _read(file: int) -> Instance | None:
    """Read the file; None if it is empty."""
    text = os.pread(file, _MAX_BYTES, 0)
    if not text:
        return None
    told = None
    with contextlib.suppress(ValueError, RecursionError):  # torn by a power cut
        told = json.loads(text)
    if not isinstance(told, dict):
        return Instance()
    boot_id, pid, started = told.get("boot_id"), told.get("pid"), told.get("started")
    return Instance(
        boot_id=boot_id if isinstance(boot_id, str) else None,
        pid=pid if isinstance(pid, int) else None,
        started=started if isinstance(started, str) else None,
    )
