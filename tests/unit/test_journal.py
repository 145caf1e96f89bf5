"""The journal's contract, kept by the one in memory and the one on disk alike; then what only a disk can do to us."""

import random
import sqlite3
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edged.errors import JournalFault
from edged.journal import sqlite as journal_module
from edged.journal import sqlite_file as file_module
from edged.journal.sqlite import SqliteJournal
from edged.ports.journal import Entry, Journal, JournalLimits, Recorded
from edged.tasks.calibration import Observation
from edged.tasks.conversation import Turn
from edged.testing import MemoryJournal
from tests.support.journal_contract import JournalContract, entry, said

HOUR = 3600.0
NOON = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@dataclass
class Disk:
    """A folder with a journal in it, opened as often as a test likes."""

    folder: Path
    clock: Clock
    opened: list[SqliteJournal]

    @property
    def file(self) -> Path:
        return self.folder / "state" / "journal.db"

    def open(self, **limits: Any) -> SqliteJournal:
        known: dict[str, Any] = {"keep_hours": 24.0, "session_hours": 168.0, "max_mb": 8, "keep_text": True}
        journal = SqliteJournal(self.file, JournalLimits(**(known | limits)), clock=self.clock)
        self.opened.append(journal)
        return journal

    def contains(self, text: str) -> bool:
        """Whether any file of the folder has `text` in it."""
        return any(text.encode() in path.read_bytes() for path in self.file.parent.iterdir())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path, Clock(), [])
    yield disk
    for journal in disk.opened:
        journal.close()


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, disk: Disk) -> Journal:
    return MemoryJournal() if request.param == "memory" else disk.open()


class TestContract(JournalContract):
    """Kept in memory and on disk; a shared one is in tests/integration."""


_IDS = st.sampled_from("abc")
_SESSIONS = st.sampled_from((None, "s", "t"))


class SameAsInMemory(RuleBasedStateMachine):
    """Whatever is done, and however often the process ends, the disk knows what the memory knows."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.disk = Disk(Path(self.folder.name), Clock(), [])
        self.memory = MemoryJournal()
        self.on_disk = self.disk.open()
        self.count = 0

    @rule(request_id=_IDS, fingerprint=_IDS, packet_id=st.sampled_from((None, 1, 2)), session=_SESSIONS)
    def record(self, request_id: str, fingerprint: str, packet_id: int | None, session: str | None) -> None:
        self.count += 1
        turns = said(f"{self.count}", f"re {self.count}")
        new = entry(
            request_id,
            fingerprint=fingerprint,
            packet_id=packet_id,
            payload=b"%d" % self.count,
            session=session,
            turns=turns,
        )
        for each in (self.memory, self.on_disk):
            each.record([new])

    @rule(request_id=_IDS, fingerprint=_IDS)
    def settle(self, request_id: str, fingerprint: str) -> None:
        for each in (self.memory, self.on_disk):
            each.settled([(request_id, fingerprint)])

    @rule(session=st.sampled_from("st"))
    def forget(self, session: str) -> None:
        assert self.memory.forget(session) == self.on_disk.forget(session)

    @rule()
    def restart(self) -> None:
        self.on_disk.close()
        self.on_disk = self.disk.open()

    @invariant()
    def same(self) -> None:
        for fingerprint in "abc":
            for request_id in "abc":
                assert self.memory.find(request_id, fingerprint) == self.on_disk.find(request_id, fingerprint)
            for packet_id in (1, 2):
                mine, theirs = (each.find_unsettled(packet_id, fingerprint) for each in (self.memory, self.on_disk))
                assert mine == theirs
        for session in "st":
            assert self.memory.turns(session) == self.on_disk.turns(session)

    def teardown(self) -> None:
        self.on_disk.close()
        self.folder.cleanup()


TestSameAsInMemory = SameAsInMemory.TestCase
TestSameAsInMemory.settings = settings(deadline=None, max_examples=10, stateful_step_count=12)


# ------------------------------------------------------------------------------------------------------ the process


def test_the_next_process_knows_what_this_one_did(disk: Disk) -> None:
    first = disk.open()
    first.record([entry("1", packet_id=7, session="s", turns=said("a", "b")), entry("2", packet_id=8)])
    first.settled([("2", "f")])
    # No close: the process is killed, and what was committed is in the log.
    second = disk.open()
    assert second.find_unsettled(7, "f") == Recorded(request_id="1", payload=b"1")
    assert second.find_unsettled(8, "f") is None
    assert second.turns("s") == said("a", "b")


def test_what_was_never_settled_is_found_by_what_it_asked(disk: Disk) -> None:
    memory = MemoryJournal()
    for journal in (disk.open(), memory):
        journal.record([entry("1", packet_id=7), entry("2", packet_id=8), entry("3"), entry("4", packet_id=9)])
        journal.settled([("2", "f")])
        assert [each.request_id for each in journal.unsettled("f")] == ["1", "4"]
        assert journal.unsettled("g") == ()


def test_what_is_recorded_survives_a_power_cut(disk: Disk) -> None:
    journal = disk.open()
    journal.record([entry("1")])
    assert journal._file.connection is not None
    # Nothing short of pulling the plug shows it; FULL syncs the log with every commit.
    assert journal._file.connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_disk_may_be_spared_the_syncs(tmp_path: Path) -> None:
    journal = SqliteJournal(
        tmp_path / "journal.db", JournalLimits(keep_hours=1, session_hours=1, max_mb=8, keep_text=True), sync="normal"
    )
    journal.record([entry("1")])
    assert journal._file.connection is not None
    assert journal._file.connection.execute("PRAGMA synchronous").fetchone() == (1,)
    journal.close()


def test_processes_that_ended_over_a_request_are_counted(disk: Disk) -> None:
    def process() -> SqliteJournal:
        disk.opened[-1].close() if disk.opened else None
        return disk.open()

    first = process()
    assert first.starts("f") == 0
    first.begin("f")
    first.begin("f")
    assert first.starts("f") == 0  # this one lives
    second = process()
    assert (second.starts("f"), second.starts("g")) == (1, 0)
    second.begin("f")
    assert second.starts("f") == 0
    second.hand_back()
    third = process()
    assert third.starts("f") == 1  # the second one ended in order
    third.begin("f")
    fourth = process()
    assert fourth.starts("f") == 2
    fourth.record([entry("1")])
    assert fourth.starts("f") == 0  # it has an answer
    fourth.begin("g")
    disk.clock.now += 48 * HOUR
    fourth.record([entry("2")])
    assert process().starts("g") == 0


def test_closing_twice_is_well_and_use_opens_again(disk: Disk) -> None:
    journal = disk.open()
    journal.close()
    journal.record([entry("1")])
    journal.close()
    journal.close()
    assert journal.find("1", "f") is not None


def test_nobody_else_may_read_the_files(disk: Disk) -> None:
    disk.open().record([entry("1")])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in disk.file.parent.iterdir()}
    assert modes == {"journal.db": 0o600, "journal.db-wal": 0o600, "journal.db-shm": 0o600}
    assert stat.S_IMODE(disk.file.parent.stat().st_mode) == 0o700


# ------------------------------------------------------------------------------------------------------- retention


def test_an_answer_is_kept_for_its_hours(disk: Disk) -> None:
    journal = disk.open(keep_hours=1.0)
    journal.record([entry("1", packet_id=1, at=disk.clock.now)])
    disk.clock.now += HOUR - 1
    assert journal.find("1", "f") is not None
    disk.clock.now += 2
    assert journal.find("1", "f") is None
    assert journal.find_unsettled(1, "f") is None
    journal.record([entry("2", at=disk.clock.now)])
    with sqlite3.connect(disk.file) as other:
        assert other.execute("SELECT request_id FROM results").fetchall() == [("2",)]
    other.close()


def test_a_conversation_lives_as_long_as_somebody_speaks_and_ends_as_a_whole(disk: Disk) -> None:
    journal = disk.open(session_hours=10.0)
    for i in range(4):
        journal.record([entry(f"{i}", session="s", turns=said(f"q{i}"), at=disk.clock.now)])
        disk.clock.now += 9 * HOUR
    assert [turn.content for turn in journal.turns("s")] == ["q0", "q1", "q2", "q3"]
    disk.clock.now += 2 * HOUR
    assert journal.turns("s") == ()
    journal.record([entry("new", session="s", turns=said("hello"), at=disk.clock.now)])
    assert journal.turns("s") == said("hello")


def test_a_silent_conversation_leaves_the_disk_when_others_speak(disk: Disk) -> None:
    journal = disk.open(session_hours=1.0)
    journal.record([entry("1", session="s", turns=said("long ago"), at=disk.clock.now)])
    disk.clock.now += 2 * HOUR
    journal.record([entry("2", session="t", turns=said("now"), at=disk.clock.now)])
    with sqlite3.connect(disk.file) as other:
        assert other.execute("SELECT content FROM turns").fetchall() == [("now",)]
    other.close()


def test_an_endless_conversation_is_read_from_its_newest_turns(disk: Disk) -> None:
    journal = disk.open()
    journal.record([entry("1", session="s", turns=tuple(Turn(role="user", content=str(i)) for i in range(3000)))])
    read = [int(turn.content) for turn in journal.turns("s")]
    assert read == list(range(3000 - len(read), 3000))
    assert 256 <= len(read) < 3000


def test_the_file_stays_within_its_size_and_the_newest_answers_stay(disk: Disk) -> None:
    journal = disk.open(max_mb=8)
    for i in range(60):
        journal.record([entry(f"{i}-{j}", payload=bytes(20_000), at=NOON + i) for j in range(10)])
    assert disk.file.stat().st_size <= 9 << 20
    assert journal.find("59-9", "f") is not None
    assert journal.find("0-0", "f") is None
    found = [journal.find(f"{i}-{j}", "f") is not None for i in range(60) for j in range(10)]
    assert found == sorted(found)  # the oldest went
    assert sum(found) * 20_000 > 6 << 20  # and no more of them than had to


def test_a_smaller_limit_gives_the_space_back_to_the_disk(disk: Disk) -> None:
    journal = disk.open(max_mb=64)
    journal.record([entry(f"{i}", payload=bytes(20_000)) for i in range(1000)])
    journal.close()
    assert disk.file.stat().st_size > 19 << 20
    journal = disk.open(max_mb=8)
    journal.record([entry("new")])
    journal.close()
    assert disk.file.stat().st_size < 9 << 20


def test_turns_go_when_there_are_no_more_answers_to_drop(disk: Disk) -> None:
    journal = disk.open(max_mb=8)
    for i in range(30):
        journal.record([entry(f"{i}", session=f"s{i}", turns=said("x" * 500_000), at=NOON + i)])
    assert disk.file.stat().st_size <= 9 << 20
    assert journal.turns("s0") == ()
    assert journal.turns("s29") != ()


def test_a_clock_that_is_set_back_stops_nothing(disk: Disk) -> None:
    journal = disk.open()
    journal.record([entry("1", session="s", turns=said("a"), at=disk.clock.now)])
    disk.clock.now = 0.0
    journal.record([entry("2", session="s", turns=said("b"), at=disk.clock.now)])
    assert [turn.content for turn in journal.turns("s")] == ["a", "b"]
    assert journal.find("1", "f") is not None


# ---------------------------------------------------------------------------------------------------- to forget


def chatter(rng: random.Random) -> Iterator[list[Entry]]:
    """A house in which somebody tells a secret now and then."""
    for i in range(rng.randint(5, 150)):
        batch = []
        for j in range(rng.randint(1, 5)):
            is_secret = rng.random() < 0.3
            text = (f"XSECRETX{i}" if is_secret else f"harmless{i}") * rng.choice([1, 3, 10, 60, 300])
            session = "secret" if is_secret else rng.choice("abc")
            turns = said(text, text[: rng.randint(8, 200)])
            batch.append(entry(f"{rng.random()}", payload=text.encode() * (j % 2 + 1), session=session, turns=turns))
        yield batch


@pytest.mark.parametrize("seed", [273, 275, 280, 285])  # secure_delete alone left words in the file with each of these
def test_what_is_forgotten_cannot_be_read_in_the_files(disk: Disk, seed: int) -> None:
    journal = disk.open()
    rng = random.Random(seed)
    for batch in chatter(rng):
        journal.record(batch)
        if rng.random() < 0.05:
            journal.forget(rng.choice("abc"))
    assert disk.contains("XSECRETX")
    assert journal.forget("secret") > 0
    journal.tidy(is_quiet=True)
    assert not disk.contains("XSECRETX")


def test_what_has_expired_is_overwritten(disk: Disk) -> None:
    journal = disk.open(keep_hours=2.0, session_hours=2.0)
    for i, word in enumerate(("XSECRETX", "harmless", "harmless")):
        at = disk.clock.now = NOON + 1.5 * i * HOUR
        journal.record([entry(f"{i}", payload=word.encode() * 20, session=word, turns=said(word * 20), at=at)])
    assert journal.find("1", "f") is not None
    journal.close()
    assert not disk.contains("XSECRETX" * 2)


def test_a_reader_that_holds_the_log_makes_forgetting_fail_until_it_is_gone(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "_BUSY_S", 0.01)
    journal = disk.open()
    journal.record([entry("1", session="s", turns=said("XSECRETX"))])
    reader = sqlite3.connect(disk.file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM turns").fetchall()
    journal.forget("s")
    with pytest.raises(JournalFault, match="another program"):
        journal.tidy(is_quiet=True)
    reader.close()
    disk.clock.now += 60
    journal.tidy(is_quiet=True)
    assert not disk.contains("XSECRETX")


def test_traces_wait_for_a_quiet_moment_but_not_for_ever(disk: Disk) -> None:
    journal = disk.open()
    journal.record([entry("1", session="s", turns=said("x" * 20))])
    journal.forget("s")
    vacuums = statements(journal)
    journal.tidy(is_quiet=False)
    assert vacuums() == 0
    disk.clock.now += 3600
    journal.tidy(is_quiet=False)
    assert vacuums() == 1
    journal.tidy(is_quiet=True)
    assert vacuums() == 1  # it is done


def test_the_next_process_clears_what_this_one_left(disk: Disk) -> None:
    first = disk.open()
    first.record([entry(f"{i}", session="secret", turns=said("XSECRETX" * 100)) for i in range(50)])
    first.forget("secret")
    first.close()
    second = disk.open()
    second.open()
    vacuums = statements(second)
    second.tidy(is_quiet=True)
    assert vacuums() == 1
    assert not disk.contains("XSECRETX")


def test_work_cuts_tidying_short(disk: Disk) -> None:
    journal = disk.open()
    journal.record([entry("1", session="s", turns=said("XSECRETX" * 100))])
    journal.forget("s")
    assert journal._file.connection is not None
    journal._file.connection.set_progress_handler(journal.hurry, 1)  # as the network thread would
    journal.tidy(is_quiet=True)
    journal._file.connection.set_progress_handler(None, 0)
    vacuums = statements(journal)
    journal.tidy(is_quiet=True)
    assert vacuums() == 0  # not again and again
    disk.clock.now += 60
    journal.tidy(is_quiet=True)
    assert vacuums() == 1
    journal.record([entry("2")])
    assert journal.find("2", "f") is not None


def statements(journal: SqliteJournal) -> Callable[[], int]:
    """How often the file was rewritten from now on."""
    seen: list[str] = []
    assert journal._file.connection is not None
    journal._file.connection.set_trace_callback(seen.append)
    return lambda: seen.count("VACUUM")


def test_without_text_nothing_is_kept_and_what_was_is_erased(disk: Disk) -> None:
    before = disk.open()
    before.record([entry("1", packet_id=1, payload=b"XSECRETX", session="s", turns=said("XSECRETX"))])
    before.close()
    journal = disk.open(keep_text=False)
    journal.open()
    assert not disk.contains("XSECRETX")  # before the first request
    journal.record([entry("2", packet_id=2, payload=b"XSECRETX", session="s", turns=said("XSECRETX"))])
    journal.settled([("2", "f")])
    assert journal.turns("s") == ()
    assert journal.find("1", "f") is journal.find("2", "f") is journal.find_unsettled(2, "f") is None
    assert journal.forget("s") == 0
    assert not disk.contains("XSECRETX")


def test_observations_are_kept_without_text_and_are_bounded(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "OBSERVED", 3)
    journal = disk.open(keep_text=False)
    seen = [Observation(judge="j", scores=(float(n), -float(n))) for n in range(6)]
    for n, each in enumerate(seen):
        disk.clock.now += 120  # what is too much goes once a minute
        journal.record([entry(str(n), observations=(each,))])
    assert journal.observations() == tuple(seen[-3:])
    journal.close()
    assert disk.open(keep_text=False).observations() == tuple(seen[-3:])


# -------------------------------------------------------------------------------------------------------- faults


def refuse_to_grow(db: sqlite3.Connection) -> Callable[[], object]:
    """Make the disk full."""
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    return lambda: db.execute("PRAGMA max_page_count = 4294967294")


def refuse_to_write(db: sqlite3.Connection) -> Callable[[], object]:
    """Make the disk read-only."""
    db.execute("PRAGMA query_only = ON")
    return lambda: db.execute("PRAGMA query_only = OFF")


@pytest.mark.parametrize(("spoil", "words"), [(refuse_to_grow, "disk is full"), (refuse_to_write, "readonly")])
def test_a_disk_that_takes_nothing_is_told_in_words_and_still_read(
    disk: Disk, spoil: Callable[[sqlite3.Connection], Callable[[], object]], words: str
) -> None:
    journal = disk.open()
    journal.record([entry("1", session="s", turns=said("a"))])
    assert journal._file.connection is not None
    heal = spoil(journal._file.connection)
    large = [entry("2", session="s", turns=said("b")), entry("3", payload=bytes(1 << 20))]
    for _ in range(2):
        with pytest.raises(JournalFault, match=words) as fault:
            journal.record(large)
        assert str(disk.file) in str(fault.value)
        assert journal.find("1", "f") is not None
        assert journal.turns("s") == said("a")
        assert journal.find("2", "f") is None  # all of them or none
    heal()
    journal.record(large)
    assert journal.turns("s") == said("a") + said("b")


def test_a_database_that_another_program_holds_is_waited_for(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "_BUSY_S", 0.01)
    journal = disk.open()
    journal.record([entry("1")])
    other = sqlite3.connect(disk.file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalFault, match="locked"):
        journal.record([entry("2")])
    assert journal.find("1", "f") is not None
    other.close()
    journal.record([entry("2")])
    assert journal.find("2", "f") is not None


def test_a_connection_that_broke_is_made_anew(disk: Disk) -> None:
    class Broken:
        in_transaction = False

        def execute(self, *_: object) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

        def close(self) -> None: ...

    journal = disk.open()
    journal.record([entry("1")])
    journal.close()
    journal._file.connection = Broken()  # type: ignore[assignment]
    with pytest.raises(JournalFault, match="disk I/O error"):
        journal.find("1", "f")
    assert journal.find("1", "f") is not None


def test_a_folder_that_cannot_be_had_is_tried_again_after_a_while(disk: Disk) -> None:
    disk.file.parent.write_text("a file where the folder should be")
    journal = disk.open()
    with pytest.raises(JournalFault, match="exists"):
        journal.record([entry("1")])
    disk.file.parent.unlink()
    with pytest.raises(JournalFault, match="exists"):  # not at every request
        journal.turns("s")
    disk.clock.now += 60
    journal.record([entry("1")])
    assert journal.find("1", "f") is not None


@pytest.mark.parametrize("garbage", [b"no database at all" * 500, b"SQLite format 3\0" + bytes(4080)])
def test_a_corrupt_database_is_moved_aside_and_a_new_one_begun(disk: Disk, garbage: bytes) -> None:
    disk.file.parent.mkdir()
    disk.file.write_bytes(garbage)
    disk.file.with_name("journal.db-wal").write_bytes(b"an old log")
    journal = disk.open()
    with pytest.raises(JournalFault, match=rf"kept as journal\.db\.corrupt-{int(NOON)}"):
        journal.record([entry("1")])
    journal.record([entry("1")])
    assert journal.find("1", "f") is not None
    aside = disk.file.with_name(f"journal.db.corrupt-{int(NOON)}")
    assert aside.read_bytes()[:100] == garbage[:100]


def test_damage_found_while_reading_is_mended_the_same_way(disk: Disk) -> None:
    first = disk.open()
    first.record([entry(f"{i}", session="s", turns=said("x" * 2000)) for i in range(50)])
    first.close()
    with disk.file.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * (40 * 4096))
    journal = disk.open()
    with pytest.raises(JournalFault, match="a new one is begun"):
        journal.turns("s")
    journal.record([entry("new", session="s", turns=said("hello"))])
    assert journal.turns("s") == said("hello")


def test_one_corrupt_database_is_kept_at_most_and_none_after_something_is_to_be_forgotten(disk: Disk) -> None:
    disk.file.parent.mkdir()
    journal = disk.open()
    for _ in range(2):
        journal.close()
        disk.file.write_bytes(b"XSECRETX" * 1000)
        disk.clock.now += 1
        with pytest.raises(JournalFault):
            journal.record([entry("1")])
        assert len(list(disk.file.parent.glob("*.corrupt-*"))) == 1
    journal.forget("s")
    journal.tidy(is_quiet=True)
    assert not disk.contains("XSECRETX")


def test_a_corrupt_database_that_cannot_be_moved_is_a_fault_in_words(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(1, "Operation not permitted")

    disk.file.parent.mkdir()
    disk.file.write_bytes(b"rubbish" * 1000)
    monkeypatch.setattr(Path, "rename", refuse)
    journal = disk.open()
    for _ in range(2):
        with pytest.raises(JournalFault, match="cannot be moved aside: Operation not permitted"):
            journal.record([entry("1")])


# ------------------------------------------------------------------------------------------------------- versions


def test_a_database_of_a_newer_version_is_left_alone(disk: Disk) -> None:
    disk.open().record([entry("1")])
    disk.opened[0].close()
    with sqlite3.connect(disk.file) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    journal = disk.open()
    for _ in range(2):
        with pytest.raises(JournalFault, match="newer edged"):
            journal.record([entry("2")])
    with sqlite3.connect(disk.file) as newer:
        assert newer.execute("SELECT request_id FROM results").fetchall() == [("1",)]
    newer.close()


def test_an_older_database_is_brought_forward_with_all_that_is_in_it(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.open().record([entry("1", session="s", turns=said("a"))])
    disk.opened[0].close()
    steps = (*file_module._MIGRATIONS, "CREATE TABLE more (x);", "ALTER TABLE more ADD COLUMN y;")
    monkeypatch.setattr(file_module, "_MIGRATIONS", steps)
    journal = disk.open()
    assert journal.turns("s") == said("a")
    with sqlite3.connect(disk.file) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (len(steps),)
        other.execute("SELECT x, y FROM more")
    other.close()
    journal.close()
    assert disk.open().find("1", "f") is not None


def test_a_migration_that_fails_leaves_the_database_as_it_was(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.open().record([entry("1")])
    disk.opened[0].close()
    with monkeypatch.context() as broken:
        steps = (*file_module._MIGRATIONS, "CREATE TABLE more (x); CREATE TABLE results (x);")
        broken.setattr(file_module, "_MIGRATIONS", steps)
        with pytest.raises(JournalFault, match="already exists"):
            disk.open().find("1", "f")
    journal = disk.open()
    assert journal.find("1", "f") is not None
    with sqlite3.connect(disk.file) as other:
        assert other.execute("SELECT name FROM sqlite_master WHERE name = 'more'").fetchall() == []
    other.close()
