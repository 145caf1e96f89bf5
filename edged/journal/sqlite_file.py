"""The database file of the SQLite journal: opening it, its schema, its faults. Knows the tables, and no query.

A database that cannot be opened now is a `JournalFault`, and is tried again later; one that can only be read is opened
to be read; one that is corrupt is moved aside, and a new one is begun.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import structlog

from edged.errors import JournalFault

log = structlog.get_logger(__name__)

Sync = Literal["full", "normal"]

_RETRY_S = 5.0  # between two attempts to open a database that cannot be opened
_BUSY_S = 1.0  # that another program may hold the database
_CACHE_KIB = 1024  # of pages in memory
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_STILL_READABLE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY}
_PERHAPS_READABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}

# One step for each version. New steps are added; existing ones are never changed.
_MIGRATIONS = (
    """
    CREATE TABLE results (
        request_id TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        packet_id INTEGER,  -- of the delivery, until it is settled
        payload BLOB NOT NULL,
        session TEXT,
        at REAL NOT NULL,
        PRIMARY KEY (request_id, fingerprint)
    );
    CREATE INDEX results_by_time ON results (at);
    CREATE INDEX results_by_session ON results (session) WHERE session IS NOT NULL;
    CREATE INDEX results_unsettled ON results (packet_id, fingerprint) WHERE packet_id IS NOT NULL;
    CREATE TABLE turns (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        session TEXT NOT NULL,
        role TEXT NOT NULL,
        content TEXT NOT NULL,
        at REAL NOT NULL
    );
    CREATE INDEX turns_by_session ON turns (session, number);
    """,
    """
    CREATE TABLE starts (  -- of requests that an earlier process left without an answer
        fingerprint TEXT PRIMARY KEY,
        process TEXT NOT NULL,  -- the last one that began it
        processes INTEGER NOT NULL,
        at REAL NOT NULL
    );
    CREATE TABLE chores (name TEXT PRIMARY KEY, since REAL NOT NULL);
    """,
    """
    CREATE TABLE observations (  -- what texts got, for the running calibration; none of their words
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        judge TEXT NOT NULL,
        scores TEXT NOT NULL
    );
    """,
)


def known_version() -> int:
    """The version of the schema that this edged makes; it reads the earlier ones too."""
    return len(_MIGRATIONS)


class DatabaseFile:
    """One database file. Opens itself when it is first used, and again after `close`.

    Attributes:
        connection: the open database; None while it is closed.
    """

    def __init__(
        self, path: Path, *, sync: Sync, on_opened: Callable[[sqlite3.Connection], None], clock: Callable[[], float]
    ) -> None:
        """Assign.

        Args:
            path: of the file.
            sync: "full" waits at each commit until the disk has it; "normal" does so only now and then.
            on_opened: gets a database that can be written, before its first use.
            clock: gives wall-clock seconds.
        """
        self._path = path
        self._sync = sync
        self._on_opened = on_opened
        self._clock = clock
        self.connection: sqlite3.Connection | None = None
        self._fault = ""  # why it could not be opened
        self._tried_at = float("-inf")
        self._is_read_only = False

    @contextlib.contextmanager
    def using(self) -> Iterator[sqlite3.Connection]:
        """Give the open database; an error of SQLite or of the disk becomes a JournalFault."""
        try:
            yield self._opened()
        except sqlite3.DatabaseError as error:
            raise self._fault_of(error) from error
        except OSError as error:
            raise JournalFault(f"{self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Write all to the file and let go of it."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    @staticmethod
    def megabytes(db: sqlite3.Connection) -> float:
        """The size of the kept data."""
        pages, free, size = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return float((pages - free) * size / (1 << 20))

    def erase_deleted(self, db: sqlite3.Connection) -> None:
        """Erase all traces of deleted rows from the files.

        `secure_delete` alone does not: pages that were rebuilt earlier keep copies of rows that moved away.
        """
        db.execute("VACUUM")
        is_held = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_held:
            raise JournalFault(f"{self._path}: another program reads it, so deleted text is still in its log")
        self._delete_corrupt()

    def _opened(self) -> sqlite3.Connection:
        is_early = abs(self._clock() - self._tried_at) < _RETRY_S  # the wall clock may be set back
        if self.connection is not None and (is_early or not self._is_read_only):
            return self.connection
        if is_early:
            raise JournalFault(self._fault)
        self.close()
        self._is_read_only = False
        try:
            self.connection = self._open()
        except OSError as error:
            fault = self._hold_off(f"{self._path}: {error.strerror}")
            self.connection = self._open_to_read(fault)
        except sqlite3.OperationalError as error:
            fault = self._hold_off(f"{self._path}: {error}")
            if error.sqlite_errorcode & 0xFF not in _PERHAPS_READABLE:
                raise fault from error
            self.connection = self._open_to_read(fault)
        except JournalFault as fault:
            raise self._hold_off(str(fault)) from fault
        return self.connection

    def _open_to_read(self, fault: JournalFault) -> sqlite3.Connection:
        """Open to be read only, as is possible on a disk that is read-only or full.

        Raises:
            JournalFault: `fault`, if the file cannot be read either.
        """
        # Without `immutable`, SQLite needs companion files, which a clean end deletes and a read-only disk cannot get.
        for way in ("mode=ro", "mode=ro&immutable=1"):
            with contextlib.suppress(sqlite3.OperationalError):
                uri = f"{self._path.absolute().as_uri()}?{way}"
                db = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, check_same_thread=False)
                try:
                    version = db.execute("PRAGMA user_version").fetchone()[0]
                    if 1 <= version <= known_version():
                        self._is_read_only = True
                        return db
                finally:
                    if not self._is_read_only:
                        db.close()
        raise fault

    def _hold_off(self, fault: str) -> JournalFault:
        """Note why the file cannot be opened; until the next attempt every use raises it."""
        self._fault = fault
        self._tried_at = self._clock()
        return JournalFault(fault)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The file is made before SQLite can make it with wider rights; SQLite gives its companions the same rights.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level="IMMEDIATE", check_same_thread=False)
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            # FULL: an answer that was acked survives a power cut. NORMAL: the last ones may not; the file stays whole.
            db.execute(f"PRAGMA synchronous = {self._sync}")
            db.execute("PRAGMA secure_delete = ON").fetchall()
            db.execute(f"PRAGMA cache_size = {-_CACHE_KIB}")
            self._migrate(db)
            self._on_opened(db)
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self, db: sqlite3.Connection) -> None:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        known = known_version()
        if version > known:
            raise JournalFault(
                f"{self._path} is of a newer edged (schema {version}; {known} is known): move it away, or upgrade"
            )
        for number, step in enumerate(_MIGRATIONS[version:], start=version + 1):
            db.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")

    def _fault_of(self, error: sqlite3.DatabaseError) -> JournalFault:
        """Close the database, or move a corrupt one aside; gives the fault in words."""
        if self._is_read_only and self.connection is not None:
            return JournalFault(self._fault)  # why it could only be opened to read
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code
        if code in _CORRUPT:
            self.close()
            return self._begin_anew(error)
        is_whole = self.connection is not None and not self.connection.in_transaction
        if code not in _STILL_READABLE or not is_whole:
            self.close()
        return JournalFault(f"{self._path}: {error}")

    def _begin_anew(self, error: sqlite3.DatabaseError) -> JournalFault:
        """Move the corrupt database aside; the last one is kept, so that something may be saved of it by hand."""
        aside = self._path.with_name(f"{self._path.name}.corrupt-{int(self._clock())}")
        try:
            self._delete_corrupt()
            for suffix in ("-wal", "-shm", ""):  # the log first: left behind, it would be read into the new database
                with contextlib.suppress(FileNotFoundError):
                    self._path.with_name(self._path.name + suffix).rename(aside.with_name(aside.name + suffix))
        except OSError as trouble:
            return self._hold_off(f"{self._path}: {error}; it cannot be moved aside: {trouble.strerror}")
        log.error("journal_corrupt", path=str(self._path), reason=str(error), kept_as=str(aside))
        return JournalFault(f"{self._path}: {error}; kept as {aside.name}, a new one is begun")

    def corrupt(self) -> Iterator[Path]:
        """The files of corrupt databases that were moved aside."""
        return self._path.parent.glob(f"{self._path.name}.corrupt-*")

    def _delete_corrupt(self) -> None:
        for path in self.corrupt():
            path.unlink(missing_ok=True)
