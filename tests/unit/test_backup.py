"""Backups: made while the journal is written, checked before anything is replaced, without secrets."""

import io
import json
import sqlite3
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edged.commands.cli import main
from edged.errors import BackupFault, SettingsError
from edged.journal.sqlite import SqliteJournal
from edged.ports.journal import Entry, JournalLimits
from edged.serving.backup import Backup, Sources, make_backup, read_backup, restore
from edged.settings.options import options_file
from edged.tasks.conversation import Turn

SETTINGS = """
[mqtt]
host = "broker.lan"
password = "hush"
[mqtt.tls]
key_password = "hush"
[tasks.urgency]
kind = "classify"
labels = ["urgent", "routine"]
role = "You judge."
examples = [{ text = "Fire!", label = "urgent" }, { text = "Hello", label = "routine" }]
[routes.remark]
subscribe = "zigbee2mqtt/bridge/logging"
text = "/message"
task = "urgency"
publish = "mood"
"""


class Box:
    """A box with a journal that is open, a settings file and options."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.file = folder / "edged.toml"
        self.file.write_text(SETTINGS)
        self.state = folder / "state"
        self.state.mkdir()
        options_file(self.state).write_text("[limits]\ntext_chars = 7\n")
        limits = JournalLimits(keep_hours=24.0, session_hours=24.0, max_mb=8, keep_text=True)
        self.journal = SqliteJournal(self.state / "journal.db", limits)
        self.say("first")

    def say(self, text: str) -> None:
        turns = (Turn(role="user", content=text),)
        entry = Entry(request_id=text, fingerprint="f", packet_id=None, payload=b"{}", session="s", turns=turns, at=2e9)
        self.journal.record([entry])

    def said(self) -> list[str]:
        return [turn.content for turn in self.journal.turns("s")]

    def make(self, *, with_journal: bool = True) -> bytes:
        sources = Sources(node="box", settings=tomllib.loads(self.file.read_text()), state_dir=self.state)
        return make_backup(sources, with_journal=with_journal, wall_time=1_700_000_000.0)

    def backup(self) -> Backup:
        path = self.folder / "backup.zip"
        path.write_bytes(self.make())
        return read_backup(path)

    def contents(self) -> dict[str, bytes]:
        return {str(each.relative_to(self.folder)): each.read_bytes() for each in (self.file, options_file(self.state))}


def accept(_settings: Mapping[str, Any] | None, _options: Mapping[str, Any]) -> None:
    """Find nothing wrong."""


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "box")


def test_a_backup_is_made_while_the_journal_is_open_and_has_no_secret(box: Box) -> None:
    backup = box.backup()
    assert {*backup.files} == {"edged.toml", "options.toml", "journal.db"}
    assert b"hush" not in b"".join(backup.files.values())
    settings = tomllib.loads(backup.files["edged.toml"].decode())
    assert settings == {
        name: value if name != "mqtt" else {"host": "broker.lan"} for name, value in tomllib.loads(SETTINGS).items()
    }
    assert not list(box.state.glob(".backup*"))
    box.say("second")  # the journal is still in use
    with zipfile.ZipFile(io.BytesIO(box.make(with_journal=False))) as archive:
        assert {*archive.namelist()} == {"manifest.json", "edged.toml", "options.toml"}


def test_what_was_backed_up_comes_back_and_what_was_there_is_kept(box: Box) -> None:
    backup = box.backup()
    box.say("second")
    options_file(box.state).write_text("language = 'zh'\n")
    box.file.write_text("[mqtt]\nhost = 'elsewhere'\npassword = 'of this box'\n")
    box.journal.close()
    written = restore(backup, state_dir=box.state, settings_file=box.file, check=accept)
    assert written == [box.state / "journal.db", options_file(box.state), box.file]
    assert box.said() == ["first"]
    assert options_file(box.state).read_text() == "[limits]\ntext_chars = 7\n"
    settings = tomllib.loads(box.file.read_text())
    assert settings["mqtt"] == {"host": "broker.lan", "password": "of this box"}
    kept = sqlite3.connect(box.state / "journal.db.before-restore")
    assert [row[0] for row in kept.execute("SELECT content FROM turns")] == ["first", "second"]
    kept.close()
    assert "of this box" in (box.folder / "edged.toml.before-restore").read_text()


def test_without_the_settings_they_stay(box: Box) -> None:
    before = box.file.read_bytes()
    restore(box.backup(), state_dir=box.state, settings_file=None, check=accept)
    assert box.file.read_bytes() == before


def spoil_byte(files: dict[str, bytes]) -> None:
    files["journal.db"] = files["journal.db"][:-1] + b"x"


def spoil_journal(files: dict[str, bytes]) -> None:
    files["journal.db"] = b"SQLite format 3\x00" + b"x" * 5000


def newer_journal(files: dict[str, bytes]) -> None:
    db = sqlite3.connect(":memory:")
    db.deserialize(files["journal.db"])
    db.execute("PRAGMA user_version = 99")
    files["journal.db"] = db.serialize()
    db.close()


def spoil_options(files: dict[str, bytes]) -> None:
    files["options.toml"] = b"[limits"


@pytest.mark.parametrize("spoil", [spoil_journal, newer_journal, spoil_options])
def test_a_backup_with_something_wrong_replaces_nothing(box: Box, spoil: Callable[[dict[str, bytes]], None]) -> None:
    backup, before = box.backup(), box.contents()
    files = dict(backup.files)
    spoil(files)
    wrong = Backup(node="box", time="", files=files)
    with pytest.raises(BackupFault, match="nothing was changed"):
        restore(wrong, state_dir=box.state, settings_file=box.file, check=accept)
    assert box.contents() == before
    assert box.said() == ["first"]


def test_settings_that_are_wrong_replace_nothing(box: Box) -> None:
    def refuse(settings: Mapping[str, Any] | None, options: Mapping[str, Any]) -> None:
        assert settings is not None
        assert options == {"limits": {"text_chars": 7}}
        raise SettingsError("limits.text_chars is wrong")

    before = box.contents()
    with pytest.raises(BackupFault, match="text_chars is wrong"):
        restore(box.backup(), state_dir=box.state, settings_file=box.file, check=refuse)
    assert box.contents() == before


@pytest.mark.parametrize("size", [0, 10, 500, -1])
def test_a_damaged_file_is_no_backup(box: Box, size: int) -> None:
    path = box.folder / "backup.zip"
    path.write_bytes(box.make()[:size])
    with pytest.raises(BackupFault, match="no backup of edged, or damaged"):
        read_backup(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "other"}, "of another edged"),
        ({"version": 2}, "of another edged"),
        ({"files": {"../evil": "00"}}, "files that no backup has"),
        ({"files": {"edged.toml": "00"}}, "edged.toml in it is damaged"),
        ({"files": {"journal.db": None}}, "no backup of edged"),
    ],
)
def test_a_manifest_is_checked(box: Box, change: dict[str, Any], words: str) -> None:
    path = box.folder / "backup.zip"
    with zipfile.ZipFile(io.BytesIO(box.make())) as made, zipfile.ZipFile(path, "w") as changed:
        for name in made.namelist():
            content = made.read(name)
            if name == "manifest.json":
                content = json.dumps(json.loads(content) | change).encode()
            changed.writestr(name, content)
    with pytest.raises(BackupFault, match=words):
        read_backup(path)


def test_the_commands(box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EDGED_NODE", "box")
    monkeypatch.setenv("EDGED_STATE_DIR", str(box.state))
    path, config = str(box.folder / "b.zip"), ("--config", str(box.file))
    assert main(["backup", path, *config]) == 0
    assert (box.folder / "b.zip").stat().st_mode & 0o777 == 0o600
    assert main(["backup", path, *config]) != 0
    assert "File exists" in capsys.readouterr().err
    box.say("second")
    box.journal.close()
    assert main(["restore", path, "--settings", *config]) == 0
    assert box.said() == ["first"]
    assert tomllib.loads(box.file.read_text())["mqtt"]["password"] == "hush"
    options_file(box.state).write_text("[routes.x]\nsubscribe = 'a'\ntask = 'urgency'\npublish = 'b'\n")
    box.file.write_text(box.file.read_text())
    assert main(["backup", str(box.folder / "c.zip"), *config]) == 0
    box.file.write_text("")
    assert main(["restore", str(box.folder / "c.zip"), *config]) != 0
    assert "there is no task urgency" in capsys.readouterr().err
