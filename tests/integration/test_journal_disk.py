"""The journal on a disk that is mounted read-only, which needs the right to mount."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edged.errors import JournalFault
from edged.journal.sqlite import SqliteJournal
from edged.ports.journal import JournalLimits
from tests.support.journal_contract import entry, said

LIMITS = JournalLimits(keep_hours=24.0, session_hours=168.0, max_mb=8, keep_text=True)
NOON = 1_800_000_000.0


@contextmanager
def mounted_read_only(folder: Path) -> Iterator[None]:
    """Mount the folder over itself, read-only, until the block ends."""
    commands: list[list[str | Path]] = [["mount", "--bind", folder, folder], ["mount", "-o", "remount,ro,bind", folder]]
    for command in commands:
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("only root may mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("ended", ["in order", "by a power cut"])
def test_what_was_written_is_read_at_a_start_on_a_read_only_disk(tmp_path: Path, ended: str) -> None:
    now = NOON
    file = tmp_path / "state" / "journal.db"
    before = SqliteJournal(file, LIMITS, clock=lambda: now)
    before.record([entry("1", session="s", turns=said("a"))])
    if ended == "in order":
        before.close()
    journal = SqliteJournal(file, LIMITS, clock=lambda: now)
    with mounted_read_only(file.parent):
        with pytest.raises(JournalFault, match="Read-only file system"):
            journal.open()
        assert journal.find("1", "f") is not None
        assert journal.turns("s") == said("a")
        with pytest.raises(JournalFault, match="Read-only file system"):
            journal.record([entry("2")])
    now += 60
    journal.record([entry("2")])
    assert journal.find("2", "f") is not None
    for each in (journal, before):
        each.close()
