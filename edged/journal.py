"""Results and conversations on disk (SQLite): what was answered is known after a crash. Used by one thread.

A database that cannot be used now raises `JournalFault` and is tried again later; one that is corrupt is moved
aside, so that the daemon goes on with a fresh one.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from edged.conversation import Role, Turn
from edged.errors import JournalFault
from edged.ports import Entry, Recorded

log = structlog.get_logger(__name__)

_RETRY_S = 5.0  # between two attempts to open a database that cannot be used
_PRUNE_S = 60.0
_PRUNE_ROWS = 500  # results deleted at once when the file is too large

# One step a version; a new step is added, none is ever changed.
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
)


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalLimits:
    """How much is kept, and for how long."""

    keep_hours: float
    session_hours: float
    max_mb: int
    keep_text: bool


class SqliteJournal:
    """See `edged.ports.Journal`. Opens itself when it is first used."""

    def __init__(self, path: Path, limits: JournalLimits, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._limits = limits
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._tried_at = float("-inf")
        self._pruned_at = float("-inf")
        self._fault = ""

    def close(self) -> None:
        """Write all to the file and let go of it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def record(self, entries: Sequence[Entry]) -> None:
        if not self._limits.keep_text:
            return
        with self._using() as db, db:
            for entry in entries:
                self._insert(db, entry)
        self._prune_if_due()

    def find(self, request_id: str, fingerprint: str) -> Recorded | None:
        return self._find("request_id = ? AND fingerprint = ?", (request_id, fingerprint))

    def find_unsettled(self, packet_id: int, fingerprint: str) -> Recorded | None:
        return self._find("packet_id = ? AND fingerprint = ?", (packet_id, fingerprint))

    def settled(self, requests: Iterable[tuple[str, str]]) -> None:
        with self._using() as db, db:
            db.executemany(
                "UPDATE results SET packet_id = NULL WHERE request_id = ? AND fingerprint = ?", list(requests)
            )

    def turns(self, session: str) -> tuple[Turn, ...]:
        oldest = self._clock() - 3600 * self._limits.session_hours
        with self._using() as db:
            rows: list[tuple[Role, str, float]] = db.execute(
                "SELECT role, content, at FROM turns WHERE session = ? ORDER BY number", (session,)
            ).fetchall()
        # A conversation expires as a whole, by its last turn.
        if not rows or rows[-1][2] < oldest:
            return ()
        return tuple(Turn(role=role, content=content) for role, content, _ in rows)

    def forget(self, session: str) -> int:
        with self._using() as db:
            with db:
                count = db.execute("DELETE FROM turns WHERE session = ?", (session,)).rowcount
                db.execute("DELETE FROM results WHERE session = ?", (session,))
            # secure_delete overwrites the pages; the log must not keep a copy of them either.
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return count

    def prune(self) -> None:
        """Delete what is older than its time, then the oldest results while the file is too large."""
        now = self._clock()
        self._pruned_at = now
        with self._using() as db:
            with db:
                db.execute("DELETE FROM results WHERE at < ?", (now - 3600 * self._limits.keep_hours,))
                db.execute(
                    "DELETE FROM turns WHERE session IN"
                    " (SELECT session FROM turns GROUP BY session HAVING MAX(at) < ?)",
                    (now - 3600 * self._limits.session_hours,),
                )
            while self._used_bytes(db) > self._limits.max_mb << 20 and self._drop_oldest(db):
                pass
            db.execute("PRAGMA incremental_vacuum").fetchall()

    @staticmethod
    def _insert(db: sqlite3.Connection, entry: Entry) -> None:
        inserted = db.execute(
            "INSERT OR IGNORE INTO results (request_id, fingerprint, packet_id, payload, session, at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (entry.request_id, entry.fingerprint, entry.packet_id, entry.payload, entry.session, entry.at),
        ).rowcount
        if inserted and entry.session is not None:
            db.executemany(
                "INSERT INTO turns (session, role, content, at) VALUES (?, ?, ?, ?)",
                [(entry.session, turn.role, turn.content, entry.at) for turn in entry.turns],
            )

    def _find(self, where: str, values: tuple[object, ...]) -> Recorded | None:
        oldest = self._clock() - 3600 * self._limits.keep_hours
        query = f"SELECT request_id, payload FROM results WHERE {where} AND at >= ? ORDER BY at DESC LIMIT 1"  # noqa: S608 - `where` is ours
        with self._using() as db:
            row = db.execute(query, (*values, oldest)).fetchone()
        return None if row is None else Recorded(request_id=row[0], payload=row[1])

    @staticmethod
    def _used_bytes(db: sqlite3.Connection) -> int:
        pages, free, size = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    @staticmethod
    def _drop_oldest(db: sqlite3.Connection) -> bool:
        """Delete some of the oldest results, else of the oldest turns; False when there is nothing left."""
        with db:
            for table, key in (("results", "rowid"), ("turns", "number")):
                oldest = f"SELECT {key} FROM {table} ORDER BY at LIMIT {_PRUNE_ROWS}"  # noqa: S608 - ours
                if db.execute(f"DELETE FROM {table} WHERE {key} IN ({oldest})").rowcount:  # noqa: S608 - ours
                    return True
        return False

    def _prune_if_due(self) -> None:
        if self._clock() - self._pruned_at >= _PRUNE_S:
            self.prune()

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """The open database; what goes wrong with it is a JournalFault."""
        try:
            yield self._opened()
        except sqlite3.DatabaseError as error:
            self._let_go(error)
            raise JournalFault(self._fault) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        now = self._clock()
        if abs(now - self._tried_at) < _RETRY_S:  # the wall clock may be set back
            raise JournalFault(self._fault)
        self._tried_at = now
        try:
            self._connection = self._open()
        except OSError as error:
            self._fault = f"{self._path}: {error.strerror}"
            raise JournalFault(self._fault) from error
        self._tried_at = float("-inf")
        return self._connection

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The file is made before SQLite can make it with wider rights; its companions take after it.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self._path, timeout=5.0, isolation_level="IMMEDIATE", check_same_thread=False)
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute("PRAGMA synchronous = FULL")  # an answer that was acked survives a power cut
            connection.execute("PRAGMA secure_delete = ON").fetchall()
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, db: sqlite3.Connection) -> None:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise JournalFault(
                f"{self._path} is of a newer edged (schema {version}, this one knows {len(_MIGRATIONS)}): "
                "move it away or upgrade"
            )
        for number, step in enumerate(_MIGRATIONS[version:], start=version + 1):
            db.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")

    def _let_go(self, error: sqlite3.DatabaseError) -> None:
        """Close after a fault, so that the next use opens anew; move a corrupt file out of the way."""
        self._fault = f"{self._path}: {error}"
        self.close()
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code not in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            self._tried_at = self._clock()
            return
        aside = self._path.with_name(f"{self._path.name}.corrupt-{int(self._clock())}")
        log.error("journal_corrupt", moved_to=str(aside), reason=str(error))
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                self._path.with_name(self._path.name + suffix).rename(aside.with_name(aside.name + suffix))
        self._tried_at = float("-inf")
