"""Copies of the SQLite journal, for backups: made while the daemon writes to it, and checked before they are used."""

import contextlib
import os
import sqlite3
from pathlib import Path

from edged.errors import JournalFault
from edged.journal.sqlite_file import known_version

_BUSY_S = 5.0  # that the daemon may hold the database
_PAGES = 1000  # copied at a time, between which the daemon can write


def copy_journal(journal: Path, target: Path) -> None:
    """Copy the journal as it is at one moment (SQLite's backup API: sqlite.org/backup.html).

    Args:
        journal: the database; a daemon may have it open.
        target: a file that is not there yet.

    Raises:
        JournalFault: it cannot be read, or the disk is full.
    """
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        uri = f"{journal.absolute().as_uri()}?mode=ro"
        with (
            contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy, pages=_PAGES, sleep=0.01)
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()  # so that the copy is one file
    except sqlite3.Error as error:
        raise JournalFault(f"{journal}: {error}") from error
    except OSError as error:
        raise JournalFault(f"{target}: {error.strerror}") from error


def check_journal(copy: Path) -> None:
    """Check a copy.

    Raises:
        JournalFault: it is damaged, no journal, or of a newer edged.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            found = [row[0] for row in db.execute("PRAGMA integrity_check(1)")]
            db.execute("SELECT COUNT(*) FROM results, turns LIMIT 1")
    except sqlite3.Error as error:
        raise JournalFault(f"the journal in it is damaged: {error}") from error
    if found != ["ok"]:
        raise JournalFault(f"the journal in it is damaged: {found[0]}")
    if not 1 <= version <= known_version():
        raise JournalFault(f"the journal in it is of another edged (schema {version}; {known_version()} is known)")


def close_journal(journal: Path) -> None:
    """Make a journal that no daemon has open one file, so that another may take its place.

    What an unclean end left in SQLite's log beside it is written to it, or moved aside where that is not possible: it
    would be read into the file that comes in its place.

    Raises:
        OSError: it cannot be moved aside.
    """
    with contextlib.suppress(sqlite3.Error):
        if journal.exists():
            with contextlib.closing(sqlite3.connect(journal)) as db:
                db.execute("PRAGMA journal_mode = DELETE").fetchall()
    for suffix in ("-wal", "-shm"):
        beside = journal.with_name(journal.name + suffix)
        if beside.exists():
            beside.replace(beside.with_name(f"{beside.name}.aside"))
