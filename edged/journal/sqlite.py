"""Results and conversations on disk (SQLite), so that answers are known after a crash. Used by one thread.

With `keep_text` off nothing is kept: a repeated request runs again (its seed is made of the request, so it gets the
same text), and sessions have no history. How the file is opened, and what happens to one that is broken, is in
`sqlite_file`.
"""

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edged.journal.sqlite_file import DatabaseFile, Sync
from edged.ports.journal import OBSERVED, Entry, JournalLimits, Recorded
from edged.tasks.calibration import Observation
from edged.tasks.conversation import MAX_TURNS, Role, Turn

_PRUNE_S = 60.0
_ERASE_WITHIN_S = 600.0  # that `tidy` waits for a quiet moment
_ERASE_RETRY_S = 30.0  # after a moment that was not quiet for long enough


class SqliteJournal:
    """See `edged.ports.Journal`. Opens itself when it is first used, and again after `close`."""

    def __init__(
        self, path: Path, limits: JournalLimits, *, sync: Sync = "full", clock: Callable[[], float] = time.time
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._file = DatabaseFile(path, sync=sync, on_opened=self._on_opened, clock=clock)
        self._pruned_at = float("-inf")
        self._process = uuid.uuid4().hex
        self._erase_since: float | None = None  # when a session was deleted of which the file still has traces
        self._erase_tried_at = float("-inf")
        self._lock = threading.Lock()  # guards the next one
        self._may_be_cut_short = False

    def open(self) -> None:
        with self._file.using() as db, db:
            # Writes one page, to see whether the disk takes any.
            version = db.execute("PRAGMA user_version").fetchone()[0]
            db.execute("BEGIN IMMEDIATE")
            db.execute(f"PRAGMA user_version = {version}")

    def close(self) -> None:
        """Write all to the file and let go of it."""
        self._file.close()

    def record(self, entries: Sequence[Entry], settled: Iterable[tuple[str, str]] = ()) -> list[Recorded]:
        with self._file.using() as db:
            with db:
                kept = [self._keep(db, entry) for entry in entries]
                begun = [(entry.fingerprint,) for entry in entries]
                db.executemany("DELETE FROM starts WHERE fingerprint = ?", begun)
                self._settle(db, settled)
            is_due = abs(self._clock() - self._pruned_at) >= _PRUNE_S
            if is_due or self._file.megabytes(db) > self._limits.max_mb:
                self._prune(db)
        return [
            Recorded(request_id=entry.request_id, payload=payload) for entry, payload in zip(entries, kept, strict=True)
        ]

    def find(self, request_id: str, fingerprint: str) -> Recorded | None:
        return self._find("request_id = ? AND fingerprint = ?", (request_id, fingerprint))

    def find_unsettled(self, packet_id: int, fingerprint: str) -> Recorded | None:
        return self._find("packet_id = ? AND fingerprint = ?", (packet_id, fingerprint))

    def unsettled(self, fingerprint: str) -> tuple[Recorded, ...]:
        with self._file.using() as db:
            rows = db.execute(
                "SELECT request_id, payload FROM results"
                " WHERE packet_id IS NOT NULL AND fingerprint = ? AND at >= ? ORDER BY rowid",
                (fingerprint, self._oldest_result()),
            ).fetchall()
        return tuple(Recorded(request_id=request_id, payload=payload) for request_id, payload in rows)

    def settled(self, requests: Iterable[tuple[str, str]]) -> None:
        with self._file.using() as db, db:
            self._settle(db, requests)

    def starts(self, fingerprint: str) -> int:
        with self._file.using() as db:
            query = "SELECT processes FROM starts WHERE fingerprint = ? AND process <> ?"
            row = db.execute(query, (fingerprint, self._process)).fetchone()
        return 0 if row is None else int(row[0])

    def begin(self, fingerprint: str) -> None:
        with self._file.using() as db, db:
            db.execute(
                "INSERT INTO starts VALUES (?, ?, 1, ?) ON CONFLICT (fingerprint) DO UPDATE SET"
                " processes = processes + (process <> excluded.process), process = excluded.process, at = excluded.at",
                (fingerprint, self._process, self._clock()),
            )

    def hand_back(self) -> None:
        with self._file.using() as db, db:
            db.execute("UPDATE starts SET processes = processes - 1 WHERE process = ?", (self._process,))

    def turns(self, session: str) -> tuple[Turn, ...]:
        with self._file.using() as db:
            if self._is_over(db, session):
                return ()
            rows: list[tuple[Role, str]] = db.execute(
                "SELECT role, content FROM"
                " (SELECT * FROM turns WHERE session = ? ORDER BY number DESC LIMIT ?) ORDER BY number",
                (session, MAX_TURNS),
            ).fetchall()
        return tuple(Turn(role=role, content=content) for role, content in rows)

    def observations(self) -> tuple[Observation, ...]:
        with self._file.using() as db:
            rows = db.execute("SELECT judge, scores FROM observations ORDER BY number").fetchall()
        return tuple(Observation(judge=judge, scores=tuple(json.loads(scores))) for judge, scores in rows)

    def forget(self, session: str) -> int:
        with self._file.using() as db:
            with db:
                db.execute("DELETE FROM results WHERE session = ?", (session,))
                turns = db.execute("DELETE FROM turns WHERE session = ?", (session,)).rowcount
                # Even when nothing was deleted now: a corrupt database that was moved aside may have some of it.
                db.execute("INSERT OR IGNORE INTO chores VALUES ('erase', ?)", (self._clock(),))
            self._erase_since = self._erase_since or self._clock()
            self._erase_tried_at = float("-inf")
        return turns

    def tidy(self, *, is_quiet: bool) -> None:
        if self._file.connection is None or self._erase_since is None:
            return
        is_late = abs(self._clock() - self._erase_since) >= _ERASE_WITHIN_S
        is_early = abs(self._clock() - self._erase_tried_at) < _ERASE_RETRY_S
        if is_early or not (is_quiet or is_late):
            return
        self._erase_tried_at = self._clock()
        with self._file.using() as db:
            self._may_be_cut_short = not is_late
            try:
                self._file.erase_deleted(db)
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
            if self._may_be_cut_short and self._file.connection is not None:
                self._file.connection.interrupt()

    # ------------------------------------------------------------------------------------------------- contents

    def _keep(self, db: sqlite3.Connection, entry: Entry) -> bytes:
        """Record the parts of an answer that `keep_text` allows; gives the payload that counts."""
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
        """Keep an answer unless the request has one already; gives the payload that counts."""
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
        with self._file.using() as db:
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
        while self._file.megabytes(db) > self._limits.max_mb and self._drop_oldest(db):
            pass
        db.executescript("PRAGMA incremental_vacuum")  # `execute` would take one step of it: one page

    @staticmethod
    def _drop_oldest(db: sqlite3.Connection) -> bool:
        """Delete a sixteenth of the results, or, where there is none, of the turns; False when all is gone."""
        with db:
            for table, key in (("results", "rowid"), ("turns", "number")):
                oldest = f"SELECT {key} FROM {table} ORDER BY at LIMIT (SELECT 1 + COUNT(*) / 16 FROM {table})"  # noqa: S608 - ours
                if db.execute(f"DELETE FROM {table} WHERE {key} IN ({oldest})").rowcount:  # noqa: S608 - ours
                    return True
        return False

    # ---------------------------------------------------------------------------------------------- at the start

    def _on_opened(self, db: sqlite3.Connection) -> None:
        chore = db.execute("SELECT since FROM chores WHERE name = 'erase'").fetchone()
        self._erase_since = None if chore is None else chore[0]
        if not self._limits.keep_text:
            self._empty(db)

    def _empty(self, db: sqlite3.Connection) -> None:
        """Erase what was kept while text was allowed."""
        with db:
            rows = sum(db.execute(f"DELETE FROM {table}").rowcount for table in ("results", "turns"))  # noqa: S608 - ours
        if rows or any(self._file.corrupt()):
            self._file.erase_deleted(db)
