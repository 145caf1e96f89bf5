"""State files: small records that one process leaves for the next one.

A record is replaced as a whole: written to a temporary file in the same folder, synced, renamed, and the folder
synced. So a power cut or a full disk leaves either the old record or the new one. Each file names its kind and the
version of its form. A file that is torn, damaged or not ours is reported in the log and ignored.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import psutil
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

log = structlog.get_logger(__name__)

T = TypeVar("T")


def nearest(folder: Path) -> Path:
    """Give the folder, or the nearest one above it that exists."""
    # os.path's: it takes a folder that may not be looked into, or a name that is too long, as one that is not there.
    return next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))  # noqa: PTH110


def fault_of(folder: Path) -> str | None:
    """Why the state folder cannot be written, in words with a remedy; None if it can, or can be made."""
    there = nearest(folder)
    if not there.is_dir():
        return f"{there} is no folder; set EDGED_STATE_DIR to one that can be written"
    longest = os.pathconf(there, "PC_NAME_MAX")
    if too_long := [part for part in folder.parts if len(os.fsencode(part)) > longest]:
        return f"the name {too_long[0][:20]}… is too long for a folder; set EDGED_STATE_DIR to another one"
    for each in (there, *(folder.glob("journal.db*") if there == folder else ())):
        if not os.access(each, os.R_OK | os.W_OK):
            user = psutil.Process().username()
            return (
                f"{each} may not be written by user {user}; run this as the daemon's user, or set EDGED_STATE_DIR to a "
                "folder of its own"
            )
    return None


class _Header(BaseModel):
    """The fields with which every state file begins."""

    model_config = ConfigDict(strict=True, frozen=True)

    kind: str
    version: int


class _File(_Header, Generic[T]):
    """A whole state file."""

    content: T


class StateFile(Generic[T]):
    """One record in one file. Neither reading nor writing raises: a fault is logged."""

    def __init__(
        self,
        path: Path,
        content: type[T],
        *,
        kind: str,
        version: int = 1,
        earlier: Callable[[bytes], T] | None = None,
    ) -> None:
        """Assign; nothing is read.

        Args:
            path: where the file is, in a folder that exists.
            content: the record's type, for pydantic, which checks it strictly.
            kind: what the file is for; a file of another kind is not read.
            version: of the record's form; a file of another version is not read.
            earlier: reads the form that a file without kind and version had; raises ValueError if it is not that.
        """
        self._path = path
        self._kind = kind
        self._version = version
        self._earlier = earlier
        self._content = content

    @cached_property
    def _file(self) -> type[_File[T]]:  # made when it is needed: many a file is neither read nor written
        return _File[self._content]  # type: ignore[name-defined]  # known at run time only

    def read(self) -> T | None:
        """The record; None where there is no file, or none that can be read."""
        try:
            return self._decode(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell("state_file_unreadable", error.strerror)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            self._tell("state_file_unreadable", ": ".join([*map(str, first["loc"]), first["msg"]]))
        except ValueError as error:
            self._tell("state_file_unreadable", str(error))
        return None

    def write(self, content: T) -> None:
        """Replace the record."""
        try:
            replace(self._path, self.encode(content))
        except OSError as error:
            self._tell("state_file_unwritten", error.strerror)

    def encode(self, content: T) -> bytes:
        """A file with this record, for a writer of another kind of file."""
        return self._file(kind=self._kind, version=self._version, content=content).model_dump_json().encode()

    def delete(self) -> None:
        """Delete the file, if there is one."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            self._tell("state_file_unwritten", error.strerror)

    def _decode(self, written: bytes) -> T:
        """Read a file's bytes.

        Raises:
            ValueError: they are not a file of this kind and version.
        """
        try:
            header = _Header.model_validate_json(written)
        except ValidationError:
            if self._earlier is None:
                raise
            return self._earlier(written)
        if (header.kind, header.version) != (self._kind, self._version):
            raise ValueError(
                f"it is {header.kind} of version {header.version}, and not {self._kind} of version {self._version}"
            )
        return self._file.model_validate_json(written).content

    def _tell(self, event: str, reason: str | None) -> None:
        log.warning(event, path=str(self._path), reason=reason)


def sync(path: Path) -> None:
    """Write a file's content, or a folder's names, to the disk (fsync).

    Raises:
        OSError: that failed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes) -> None:
    """Put a file in place of another, whole and for its owner alone.

    Raises:
        OSError: that failed; the other file is still there.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
    temporary = Path(name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    try:
        sync(path.parent)
    except OSError as error:  # the file is replaced: to say that it is not would be wrong
        log.warning("state_folder_not_synced", path=str(path.parent), reason=error.strerror)
