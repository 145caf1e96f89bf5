"""Results and conversations on disk (SQLite): what was answered is known after a crash. Used by one thread.

A database that cannot be used now raises `JournalFault` and is tried again later; one that is corrupt is moved
aside, so that the daemon goes on with a fresh one. With `keep_text` off nothing is kept: a repeated request runs
again (its seed is made of the request, so it gets the same text), and sessions have no history.
"""

import contextlib
import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import structlog

from edged.errors import JournalFault
from edged.ports.journal import OBSERVED, Entry, JournalLimits, Recorded
from edged.tasks.calibration import Observation
from edged.tasks.conversation import MAX_TURNS, Role, Turn

log = structlog.get_logger(__name__)

_RETRY_S = 5.0  # between two attempts to open a database that cannot be opened
_BUSY_S = 1.0  # that another program may hold the database
_CACHE_KIB = 1024  # of pages in memory
_PRUNE_S = 60.0
_ERASE_WITHIN_S = 600.0  # that `tidy` waits for a quiet moment
_ERASE_RETRY_S = 30.0  # after a moment that was not quiet for long enough
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_STILL_READABLE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY}
_PERHAPS_READABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}

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


class SqliteJournal:
    """See `edged.ports.Journal`. Opens itself when it is first used, and again after `close`."""

    def __init__(self, path: Path, limits: JournalLimits, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._limits = limits
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._fault = ""  # why it could not be opened
        self._tried_at = float("-inf")
        self._pruned_at = float("-inf")
        self._is_read_only = False
        self._process = uuid.uuid4().hex
        self._erase_since: float | None = None  # when something was forgotten that the file still has traces of
        self._erase_tried_at = float("-inf")
        self._lock = threading.Lock()  # guards the next one
        self._may_be_cut_short = False

    def open(self) -> None:
        with self._using() as db, db:
            # Writes one page, and so tells whether the disk takes any.
            version = db.execute("PRAGMA user_version").fetchone()[0]
            db.execute("BEGIN IMMEDIATE")
            db.execute(f"PRAGMA user_version = {version}")

    def close(self) -> None:
        """Write all to the file and let go of it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def record(self, entries: Sequence[Entry], settled: Iterable[tuple[str, str]] = ()) -> list[Recorded]:
        with self._using() as db:
            with db:
                kept = [self._keep(db, entry) for entry in entries]
                begun = [(entry.fingerprint,) for entry in entries]
                db.executemany("DELETE FROM starts WHERE fingerprint = ?", begun)
                self._settle(db, settled)
            is_due = abs(self._clock() - self._pruned_at) >= _PRUNE_S
            if is_due or self._is_too_large(db):
                self._prune(db)
        return [
            Recorded(request_id=entry.request_id, payload=payload) for entry, payload in zip(entries, kept, strict=True)
        ]

    def find(self, request_id: str, fingerprint: str) -> Recorded | None:
        return self._find("request_id = ? AND fingerprint = ?", (request_id, fingerprint))

    def find_unsettled(self, packet_id: int, fingerprint: str) -> Recorded | None:
        return self._find("packet_id = ? AND fingerprint = ?", (packet_id, fingerprint))

    def settled(self, requests: Iterable[tuple[str, str]]) -> None:
        with self._using() as db, db:
            self._settle(db, requests)

    def starts(self, fingerprint: str) -> int:
        with self._using() as db:
            query = "SELECT processes FROM starts WHERE fingerprint = ? AND process <> ?"
            row = db.execute(query, (fingerprint, self._process)).fetchone()
        return 0 if row is None else int(row[0])

    def begin(self, fingerprint: str) -> None:
        with self._using() as db, db:
            db.execute(
                "INSERT INTO starts VALUES (?, ?, 1, ?) ON CONFLICT (fingerprint) DO UPDATE SET"
                " processes = processes + (process <> excluded.process), process = excluded.process, at = excluded.at",
                (fingerprint, self._process, self._clock()),
            )

    def hand_back(self) -> None:
        with self._using() as db, db:
            db.execute("UPDATE starts SET processes = processes - 1 WHERE process = ?", (self._process,))

    def turns(self, session: str) -> tuple[Turn, ...]:
        with self._using() as db:
            if self._is_over(db, session):
                return ()
            rows: list[tuple[Role, str]] = db.execute(
                "SELECT role, content FROM"
                " (SELECT * FROM turns WHERE session = ? ORDER BY number DESC LIMIT ?) ORDER BY number",
                (session, MAX_TURNS),
            ).fetchall()
        return tuple(Turn(role=role, content=content) for role, content in rows)

    def observations(self) -> tuple[Observation, ...]:
        with self._using() as db:
            rows = db.execute("SELECT judge, scores FROM observations ORDER BY number").fetchall()
        return tuple(Observation(judge=judge, scores=tuple(json.loads(scores))) for judge, scores in rows)

    def forget(self, session: str) -> int:
        with self._using() as db:
            with db:
                db.execute("DELETE FROM results WHERE session = ?", (session,))
                turns = db.execute("DELETE FROM turns WHERE session = ?", (session,)).rowcount
                # Even when nothing was deleted now: a corrupt database that was moved aside may have some of it.
                db.execute("INSERT OR IGNORE INTO chores VALUES ('erase', ?)", (self._clock(),))
            self._erase_since = self._erase_since or self._clock()
            self._erase_tried_at = float("-inf")
        return turns

    def tidy(self, *, is_quiet: bool) -> None:
        if self._connection is None or self._erase_since is None:
            return
        is_late = abs(self._clock() - self._erase_since) >= _ERASE_WITHIN_S
        is_early = abs(self._clock() - self._erase_tried_at) < _ERASE_RETRY_S
        if is_early or not (is_quiet or is_late):
            return
        self._erase_tried_at = self._clock()
        with self._using() as db:
            self._may_be_cut_short = not is_late
            try:
                self._erase_deleted(db)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                    return  # the next quiet moment will do
                raise
            finally:
                with self._lock:
                    self._may_be_cut_short = False
            with db:
                db.execute("DELETE FROM chores WHERE name = 'erase'")
            self._erase_since = None

    def hurry(self) -> None:
        with self._lock:
            if self._may_be_cut_short and self._connection is not None:
                self._connection.interrupt()

    # ------------------------------------------------------------------------------------------------- contents

    def _keep(self, db: sqlite3.Connection, entry: Entry) -> bytes:
        """Keep what may be kept of an answer; gives the one that stands."""
        if self._limits.keep_text:
            return self._insert(db, entry)
        self._observe(db, entry)
        return entry.payload

    @staticmethod
    def _observe(db: sqlite3.Connection, entry: Entry) -> None:
        db.executemany(
            "INSERT INTO observations (judge, scores) VALUES (?, ?)",
            [(each.judge, json.dumps(each.scores)) for each in entry.observations],
        )

    def _insert(self, db: sqlite3.Connection, entry: Entry) -> bytes:
        """Keep an answer, unless there is one; gives the one that stands."""
        inserted = db.execute(
            "INSERT OR IGNORE INTO results (request_id, fingerprint, packet_id, payload, session, at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (entry.request_id, entry.fingerprint, entry.packet_id, entry.payload, entry.session, entry.at),
        ).rowcount
        if not inserted:
            query = "SELECT payload FROM results WHERE request_id = ? AND fingerprint = ?"
            payload: bytes = db.execute(query, (entry.request_id, entry.fingerprint)).fetchone()[0]
            return payload
        self._observe(db, entry)
        if entry.session is None:
            return entry.payload
        if self._is_over(db, entry.session):  # or its old turns would come back with the new ones
            db.execute("DELETE FROM turns WHERE session = ?", (entry.session,))
        db.executemany(
            "INSERT INTO turns (session, role, content, at) VALUES (?, ?, ?, ?)",
            [(entry.session, turn.role, turn.content, entry.at) for turn in entry.turns],
        )
        return entry.payload

    @staticmethod
    def _settle(db: sqlite3.Connection, requests: Iterable[tuple[str, str]]) -> None:
        db.executemany("UPDATE results SET packet_id = NULL WHERE request_id = ? AND fingerprint = ?", list(requests))

    def _find(self, where: str, values: tuple[object, ...]) -> Recorded | None:
        query = f"SELECT request_id, payload FROM results WHERE {where} AND at >= ? ORDER BY rowid DESC LIMIT 1"  # noqa: S608 - `where` is ours
        with self._using() as db:
            row = db.execute(query, (*values, self._oldest_result())).fetchone()
        return None if row is None else Recorded(request_id=row[0], payload=row[1])

    def _is_over(self, db: sqlite3.Connection, session: str) -> bool:
        """Whether the conversation has expired: as a whole, by its last turn."""
        last = db.execute("SELECT at FROM turns WHERE session = ? ORDER BY number DESC LIMIT 1", (session,)).fetchone()
        return last is not None and last[0] < self._oldest_session()

    def _oldest_result(self) -> float:
        return self._clock() - 3600 * self._limits.keep_hours

    def _oldest_session(self) -> float:
        return self._clock() - 3600 * self._limits.session_hours

    # ---------------------------------------------------------------------------------------------------- space

    def _prune(self, db: sqlite3.Connection) -> None:
        """Delete what is older than its time, then the oldest results (at last turns) while there is too much."""
        self._pruned_at = self._clock()
        with db:
            db.execute("DELETE FROM results WHERE at < ?", (self._oldest_result(),))
            db.execute("DELETE FROM starts WHERE at < ?", (self._oldest_result(),))
            db.execute(
                "DELETE FROM observations WHERE number <= (SELECT MAX(number) FROM observations) - ?", (OBSERVED,)
            )
            db.execute(
                "DELETE FROM turns WHERE session IN (SELECT session FROM turns GROUP BY session HAVING MAX(at) < ?)",
                (self._oldest_session(),),
            )
        while self._is_too_large(db) and self._drop_oldest(db):
            pass
        db.executescript("PRAGMA incremental_vacuum")  # `execute` would take one step of it: one page

    def _is_too_large(self, db: sqlite3.Connection) -> bool:
        pages, free, size = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size) > self._limits.max_mb << 20

    @staticmethod
    def _drop_oldest(db: sqlite3.Connection) -> bool:
        """Delete a sixteenth of the results, or, where there is none, of the turns; False when all is gone."""
        with db:
            for table, key in (("results", "rowid"), ("turns", "number")):
                oldest = f"SELECT {key} FROM {table} ORDER BY at LIMIT (SELECT 1 + COUNT(*) / 16 FROM {table})"  # noqa: S608 - ours
                if db.execute(f"DELETE FROM {table} WHERE {key} IN ({oldest})").rowcount:  # noqa: S608 - ours
                    return True
        return False

    def _erase_deleted(self, db: sqlite3.Connection) -> None:
        """Leave nothing of deleted rows in the files.

        `secure_delete` alone does not: pages that were rebuilt earlier keep copies of rows that moved away.
        """
        db.execute("VACUUM")
        is_held = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_held:
            raise JournalFault(f"{self._path}: another program reads it, so deleted text is still in its log")
        self._delete_corrupt()

    # ------------------------------------------------------------------------------------------------- the file

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """The open database; what goes wrong with it is a JournalFault."""
        try:
            yield self._opened()
        except sqlite3.DatabaseError as error:
            raise self._fault_of(error) from error
        except OSError as error:
            raise JournalFault(f"{self._path}: {error.strerror}") from error

    def _opened(self) -> sqlite3.Connection:
        is_early = abs(self._clock() - self._tried_at) < _RETRY_S  # the wall clock may be set back
        if self._connection is not None and (is_early or not self._is_read_only):
            return self._connection
        if is_early:
            raise JournalFault(self._fault)
        self.close()
        self._is_read_only = False
        try:
            self._connection = self._open()
        except OSError as error:
            fault = self._hold_off(f"{self._path}: {error.strerror}")
            self._connection = self._open_to_read(fault)
        except sqlite3.OperationalError as error:
            fault = self._hold_off(f"{self._path}: {error}")
            if error.sqlite_errorcode & 0xFF not in _PERHAPS_READABLE:
                raise fault from error
            self._connection = self._open_to_read(fault)
        except JournalFault as fault:
            raise self._hold_off(str(fault)) from fault
        return self._connection

    def _open_to_read(self, fault: JournalFault) -> sqlite3.Connection:
        """What cannot be written may still be read: on a disk that is read-only, or full.

        Raises:
            JournalFault: `fault`, where not even that can be.
        """
        # `immutable` needs no companions of the file, which a clean end deletes and a read-only disk cannot have.
        for way in ("mode=ro", "mode=ro&immutable=1"):
            with contextlib.suppress(sqlite3.OperationalError):
                uri = f"{self._path.absolute().as_uri()}?{way}"
                db = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, check_same_thread=False)
                try:
                    version = db.execute("PRAGMA user_version").fetchone()[0]
                    if 1 <= version <= len(_MIGRATIONS):
                        self._is_read_only = True
                        return db
                finally:
                    if not self._is_read_only:
                        db.close()
        raise fault

    def _hold_off(self, fault: str) -> JournalFault:
        """Give the fault, now and to all who ask before the next attempt."""
        self._fault = fault
        self._tried_at = self._clock()
        return JournalFault(fault)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The file is made before SQLite can make it with wider rights; its companions take after it.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level="IMMEDIATE", check_same_thread=False)
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            db.execute("PRAGMA synchronous = FULL")  # an answer that was acked survives a power cut
            db.execute("PRAGMA secure_delete = ON").fetchall()
            db.execute(f"PRAGMA cache_size = {-_CACHE_KIB}")
            self._migrate(db)
            chore = db.execute("SELECT since FROM chores WHERE name = 'erase'").fetchone()
            self._erase_since = None if chore is None else chore[0]
            if not self._limits.keep_text:
                self._empty(db)
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self, db: sqlite3.Connection) -> None:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        known = len(_MIGRATIONS)
        if version > known:
            raise JournalFault(
                f"{self._path} is of a newer edged (schema {version}; {known} is known): move it away, or upgrade"
            )
        for number, step in enumerate(_MIGRATIONS[version:], start=version + 1):
            db.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")

    def _empty(self, db: sqlite3.Connection) -> None:
        """Erase what was kept while text was allowed."""
        with db:
            rows = sum(db.execute(f"DELETE FROM {table}").rowcount for table in ("results", "turns"))  # noqa: S608 - ours
        if rows or any(self._corrupt()):
            self._erase_deleted(db)

    def _fault_of(self, error: sqlite3.DatabaseError) -> JournalFault:
        """Do what can be done about a fault, and give it in words."""
        if self._is_read_only and self._connection is not None:
            return JournalFault(self._fault)  # why it could only be opened to read
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code
        if code in _CORRUPT:
            self.close()
            return self._begin_anew(error)
        is_whole = self._connection is not None and not self._connection.in_transaction
        if code not in _STILL_READABLE or not is_whole:
            self.close()
        return JournalFault(f"{self._path}: {error}")

    def _begin_anew(self, error: sqlite3.DatabaseError) -> JournalFault:
        """Move the corrupt database aside; the last one is kept, for whoever wants to save something of it."""
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

    def _corrupt(self) -> Iterator[Path]:
        """What is left of corrupt databases."""
        return self._path.parent.glob(f"{self._path.name}.corrupt-*")

    def _delete_corrupt(self) -> None:
        for path in self._corrupt():
            path.unlink(missing_ok=True)
