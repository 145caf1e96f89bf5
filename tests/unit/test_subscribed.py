"""What a box was subscribed to is found again, whatever became of the file."""

from pathlib import Path

import pytest

from edged.mqtt.past_subscriptions import Subscribed

OLD = ("$share/team/edged/team/in/#", "edged/box/in/#")
NEW = ("edged/box/in/#",)


def test_what_the_settings_say_no_more_is_left(tmp_path: Path) -> None:
    file = tmp_path / "subscribed"
    assert Subscribed(file).begin(OLD) == ()
    assert Subscribed(file).begin(NEW) == OLD[:1]
    assert Subscribed(file).begin(NEW) == OLD[:1]  # until the broker has heard it
    Subscribed(file).note(NEW)
    assert Subscribed(file).begin(OLD) == ()


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b"[[1]]", b"null"])
def test_a_file_of_anything_says_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "subscribed"
    file.write_bytes(content)
    assert Subscribed(file).begin(NEW) == ()
    assert Subscribed(file).begin(()) == NEW


def test_a_folder_that_is_not_there_is_no_fault(tmp_path: Path) -> None:
    assert Subscribed(tmp_path / "no" / "subscribed").begin(NEW) == ()
