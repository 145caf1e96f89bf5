"""A state file reads as the old record, as the new one or as nothing, wherever its writing ended."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from pydantic import BaseModel, ConfigDict
from structlog.testing import capture_logs

from edged.contract.topics import Topics
from edged.engine.priors import PriorStore
from edged.fleet.measured_window import MeasuredWindow
from edged.monitoring.home_assistant import Discovery
from edged.mqtt.subscription_record import SubscriptionRecord
from edged.settings.schema import HomeAssistantSettings
from edged.state_files import StateFile
from edged.testing import FakeLink

FILTERS = ["edged/box/in/#", "$share/team/edged/team/in/#"]
PROMPTS, FIRST, PRIOR = [(1, 2, 3)], [-0.1, -2.3], [-0.5, -0.9]
CONFIG = "homeassistant/device/edged-box/config"


class Record(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    number: int


OLD, NEW = Record(name="old", number=1), Record(name="new", number=22)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "record"


def state_file(path: Path, version: int = 1) -> StateFile[Record]:
    return StateFile(path, Record, kind="test", version=version)


def test_a_record_is_read_as_it_was_written_by_its_owner_alone(path: Path) -> None:
    file = state_file(path)
    assert file.read() is None
    file.write(OLD)
    file.write(NEW)
    assert state_file(path).read() == NEW
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    file.delete()
    file.delete()
    assert file.read() is None


def test_a_file_that_is_cut_anywhere_is_nothing_and_is_told(path: Path) -> None:
    state_file(path).write(NEW)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with capture_logs() as told:
            assert state_file(path).read() is None
        assert [each["event"] for each in told] == ["state_file_unreadable"]
        path.write_bytes(whole[:length] + bytes(len(whole) - length))  # blocks that never came to the disk are zero
        assert state_file(path).read() is None


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"null", b"{}", b"[" * 100_000, b'{"name": "x", "number": 1}']
)
def test_a_file_of_anything_is_nothing_and_is_begun_anew(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert state_file(path).read() is None
    state_file(path).write(NEW)
    assert state_file(path).read() == NEW


def test_a_file_of_another_kind_or_version_is_nothing(path: Path) -> None:
    state_file(path, version=2).write(OLD)
    with capture_logs() as told:
        assert state_file(path).read() is None
        assert StateFile(path, Record, kind="other", version=2).read() is None
    assert [each["reason"] for each in told] == [
        "it is test of version 2, and not test of version 1",
        "it is test of version 2, and not other of version 2",
    ]


def failing(error: OSError) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


class _FullDisk:
    """`os.write` on a disk with room for some bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def open(self, descriptor: int, _: str) -> "_FullDisk":
        self.descriptor = descriptor
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def write(self, content: bytes) -> None:
        os.write(self.descriptor, content[: self.room])
        if self.room < len(content):
            raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        return self.descriptor


def test_a_disk_that_is_full_at_any_byte_keeps_the_old_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state_file(path).write(NEW)
    length = len(path.read_bytes())
    state_file(path).write(OLD)
    for room in range(length):
        with monkeypatch.context() as patch, capture_logs() as told:
            patch.setattr("builtins.open", _FullDisk(room).open)
            state_file(path).write(NEW)
        assert [each["event"] for each in told] == ["state_file_unwritten"]
        assert state_file(path).read() == OLD
        assert list(path.parent.iterdir()) == [path]  # no litter that would fill the disk further


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_fault_of_the_disk_keeps_the_old_record(path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    state_file(path).write(OLD)
    with monkeypatch.context() as patch, capture_logs() as told:
        patch.setattr(os, name, failing(OSError(errno.EIO, "Input/output error")))
        state_file(path).write(NEW)
    assert [each["event"] for each in told] == ["state_file_unwritten"]
    assert state_file(path).read() == OLD
    assert list(path.parent.iterdir()) == [path]


def test_a_power_cut_before_the_rename_leaves_the_old_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state_file(path).write(OLD)
    with monkeypatch.context() as patch:
        # What a power cut leaves: the temporary file beside the record, and no handler runs.
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        patch.setattr(os, "replace", failing(OSError(errno.EIO, "Input/output error")))
        state_file(path).write(NEW)
    assert len(list(path.parent.iterdir())) == 2
    assert state_file(path).read() == OLD


def test_the_content_is_on_the_disk_before_its_name_is_and_the_name_before_it_counts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        at = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append("folder" if at == path.parent else "content")
        assert at.is_dir() or at.read_bytes()
        fsync(descriptor)

    def noted_replace(source: str, target: str) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    state_file(path).write(NEW)
    assert steps == ["content", "rename", "folder"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with capture_logs() as told:
        state_file(tmp_path / "no" / "record").write(NEW)
        (tmp_path / "folder").mkdir()
        assert state_file(tmp_path / "folder").read() is None
        state_file(tmp_path / "folder").delete()
    assert [each["event"] for each in told] == ["state_file_unwritten", "state_file_unreadable", "state_file_unwritten"]
    monkeypatch.setattr(tempfile, "mkstemp", failing(PermissionError(errno.EACCES, "Permission denied")))
    with capture_logs() as told:
        state_file(tmp_path / "record").write(NEW)
    assert told[0]["reason"] == "Permission denied"


# ----------------------------------------------------------- the files that there are, of this form and before


def pace(path: Path) -> object:
    return MeasuredWindow(path, of="this").recall(at_most=64)


def subscribed(path: Path) -> object:
    return SubscriptionRecord(path).begin(())


def prior(path: Path) -> object:
    return PriorStore(path).find(PROMPTS, FIRST)


def taken_back(path: Path) -> object:
    """The topic that discovery clears at its start, being turned off."""
    link = FakeLink()
    discovery = Discovery(
        settings=HomeAssistantSettings(discovery=False),
        topics=Topics(prefix="edged", node="box"),
        link=link,
        record=path,
        describe=dict,
    )
    discovery.start()
    return [each.topic for each in link.published] or None


def write_pace(path: Path) -> None:
    MeasuredWindow(path, of="this").note(12)


def write_subscribed(path: Path) -> None:
    SubscriptionRecord(path).note(FILTERS)


def write_prior(path: Path) -> None:
    PriorStore(path).keep(PROMPTS, FIRST, PRIOR)


def write_topic(path: Path) -> None:
    StateFile(path, str, kind="homeassistant").write(CONFIG)


def earlier_forms(tmp_path: Path) -> Iterator[tuple[bytes, Callable[[Path], object], object]]:
    """What a release before this one wrote, who reads it and as what."""
    write_prior(tmp_path / "key")
    key = (tmp_path / "key").read_text().split('"')[9]
    yield b'{"of": "this", "requests": 12}', pace, 12
    yield b'["edged/box/in/#", "$share/team/edged/team/in/#"]', subscribed, tuple(FILTERS)
    yield f'{{"{key}": [-0.5, -0.9]}}'.encode(), prior, PRIOR
    yield f"{CONFIG}\n".encode(), taken_back, [CONFIG]


def test_an_upgrade_reads_what_the_release_before_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for written, read, expected in earlier_forms(tmp_path):
        path.write_bytes(written)
        assert read(path) == expected
        for length in range(len(written)):
            path.write_bytes(written[:length])
            assert not read(path)


@pytest.mark.parametrize(
    ("write", "read", "expected"),
    [
        (write_pace, pace, 12),
        (write_subscribed, subscribed, tuple(FILTERS)),
        (write_prior, prior, PRIOR),
        (write_topic, taken_back, [CONFIG]),
    ],
)
def test_each_file_cut_anywhere_says_nothing(
    path: Path, write: Callable[[Path], None], read: Callable[[Path], object], expected: object
) -> None:
    write(path)
    whole = path.read_bytes()
    assert read(path) == expected
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert not read(path)
