"""Conversations outlive a process in a file that is whole, bounded, private and gone once it was read."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edged.build import conversations_of, discard_conversations
from edged.engine.conversation_file import Cached, ConversationFile, take
from edged.engine.conversation_place import NAME, Place, discard
from edged.engine.prefix_cache import Conversation
from edged.settings.schema import Settings
from tests.support.kv import KV, Model, kv

FIRST, SECOND = tuple(range(20)), tuple(range(5, 35))
ROOM = 1 << 20
HOUR = 3600.0


def cached(tokens: tuple[int, ...], name: str, at: float = 0.0) -> Cached[KV]:
    return Cached(tokens=tokens, kv=kv(tokens), of=Conversation(name=name, at=at))


def file(place: Place, made_of: str = "this", *, wall_time: float = 0.0) -> ConversationFile[KV]:
    found = take(place, made_of, wall_time=wall_time)
    return ConversationFile(place=place, made_of=made_of, model=Model(), wall_clock=lambda: wall_time, found=found)


def names(recalled: list[Cached[KV]]) -> list[str]:
    return [each.of.name for each in recalled]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(path=tmp_path / NAME, most_bytes=ROOM, most_age_s=HOUR)


@pytest.fixture
def written(place: Place) -> Place:
    """A place where an earlier process left two conversations."""
    file(place).write([cached(FIRST, "first"), cached(SECOND, "second", at=40.0)], now=100.0)
    return place


def test_the_next_process_finds_them_in_their_order_and_the_file_is_gone(written: Place) -> None:
    recalled = file(written, wall_time=10.0).recall(now=1000.0)
    assert [(each.of.name, each.tokens) for each in recalled] == [("first", FIRST), ("second", SECOND)]
    assert [each.kv.keys.tolist() for each in recalled] == [list(FIRST), list(SECOND)]
    assert [each.of.at for each in recalled] == [890.0, 930.0]
    assert not list(written.path.parent.iterdir())
    assert file(written).recall(0.0) == []


def test_it_is_for_its_owner_alone(place: Place) -> None:
    before = os.umask(0)
    try:
        file(place).write([cached(FIRST, "first")], now=0.0)
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o600


def test_without_conversations_there_is_no_file(place: Place) -> None:
    file(place).write([], now=0.0)
    assert not place.path.exists()


def test_every_damage_is_noticed_and_told(written: Place) -> None:
    whole = written.path.read_bytes()
    for at in range(0, len(whole), 11):
        for damaged in (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], whole[:at]):
            written.path.write_bytes(damaged)
            with capture_logs() as logs:
                recalled = file(written).recall(0.0)
            # A flipped bit of the filling in the header changes nothing.
            assert not recalled or [each.kv.keys.tolist() for each in recalled] == [list(FIRST), list(SECOND)], at
            assert recalled or [each["event"] for each in logs] == ["conversations_not_recalled"], at
            assert "first" not in str(logs)
            assert not written.path.exists()


def test_a_file_of_another_model_or_other_kernels_is_left_out_and_told(written: Place) -> None:
    with capture_logs() as logs:
        assert file(written, made_of="that").recall(0.0) == []
    assert "of another model" in logs[0]["reason"]
    assert not written.path.exists()


def test_a_file_that_is_too_large_is_left_out_and_told(written: Place) -> None:
    smaller = Place(path=written.path, most_bytes=written.path.stat().st_size - 1, most_age_s=HOUR)
    with capture_logs() as logs:
        assert file(smaller).recall(0.0) == []
    assert "engine.keep_cache_mb allows" in logs[0]["reason"]
    assert not smaller.path.exists()


@pytest.mark.parametrize("room", [4000, 6000, 8000])
def test_it_keeps_within_its_bound_what_was_used_last(tmp_path: Path, room: int) -> None:
    place = Place(path=tmp_path / NAME, most_bytes=room, most_age_s=HOUR)
    sessions = [f"session {n}" for n in range(20)]
    file(place).write([cached((*FIRST, n), name) for n, name in enumerate(sessions)], now=0.0)
    assert place.path.stat().st_size <= room
    recalled = names(file(place).recall(0.0))
    assert recalled
    assert recalled == sessions[-len(recalled) :]


def test_conversations_that_are_over_are_neither_written_nor_recalled(place: Place) -> None:
    file(place).write([cached(FIRST, "over", at=0.0), cached(SECOND, "young", at=HOUR)], now=HOUR + 1)
    assert names(file(place, wall_time=HOUR - 2).recall(0.0)) == ["young"]
    file(place).write([cached(FIRST, "one"), cached(SECOND, "other", at=5.0)], now=10.0)
    assert names(file(place, wall_time=HOUR - 6).recall(0.0)) == ["other"]


def test_a_clock_that_is_behind_makes_no_conversation_younger(place: Place) -> None:
    file(place, wall_time=5000.0).write([cached(FIRST, "first")], now=HOUR - 10)
    (recalled,) = file(place, wall_time=0.0).recall(now=0.0)
    assert recalled.of.at == -(HOUR - 10)


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    place = Place(path=tmp_path / "missing" / NAME, most_bytes=ROOM, most_age_s=HOUR)
    with capture_logs() as logs:
        file(place).write([cached(FIRST, "first")], now=0.0)
    assert [each["event"] for each in logs] == ["conversations_not_kept"]


def test_what_a_killed_process_left_is_deleted_too(written: Place) -> None:
    half = written.path.with_suffix(".123.part")
    half.write_bytes(b"x")
    assert discard(written.path)
    assert not list(written.path.parent.iterdir())
    assert discard(written.path)


def test_what_cannot_be_deleted_is_not_used(written: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuses)
    with capture_logs() as logs:
        assert file(written).recall(0.0) == []
    assert [each["event"] for each in logs] == ["conversations_not_deleted"]


KEEPING = {"engine": {"keep_cache_mb": 2}, "journal": {"session_hours": 3}}


def test_the_settings_bound_size_and_age(tmp_path: Path) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path} | KEEPING)
    assert conversations_of(settings) == Place(path=tmp_path / NAME, most_bytes=2 << 20, most_age_s=3 * HOUR)


@pytest.mark.parametrize(
    "settings",
    [
        {"engine": {}},
        {"journal": {"keep_text": False}},
        {"model": {"backend": "remote", "url": "http://localhost:1/v1"}},
        {"mqtt": {"share_group": "g"}, "journal": {"url": "redis://localhost"}},
    ],
    ids=["off", "no text", "remote", "shared journal"],
)
def test_what_was_kept_is_deleted_where_nothing_is_kept(written: Place, settings: dict[str, Any]) -> None:
    state_dir = {"state_dir": written.path.parent}
    discard_conversations(Settings.model_validate(state_dir | KEEPING))
    assert written.path.exists()
    discard_conversations(Settings.model_validate(state_dir | KEEPING | settings))
    assert not written.path.exists()
