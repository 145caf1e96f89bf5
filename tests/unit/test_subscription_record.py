"""What a box was subscribed to is found again, whatever became of the file."""

from pathlib import Path

import pytest

from edged.mqtt.subscription_record import SubscriptionRecord

OLD = ("$share/team/edged/team/in/#", "edged/box/in/#")
NEW = ("edged/box/in/#",)


def test_what_the_settings_say_no_more_is_left(tmp_path: Path) -> None:
    file = tmp_path / "subscribed"
    assert SubscriptionRecord(file).begin(OLD) == ()
    assert SubscriptionRecord(file).begin(NEW) == OLD[:1]
    assert SubscriptionRecord(file).begin(NEW) == OLD[:1]  # until the broker has heard it
    SubscriptionRecord(file).note(NEW)
    assert SubscriptionRecord(file).begin(OLD) == ()


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b"[[1]]", b"null"])
def test_a_file_of_anything_says_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "subscribed"
    file.write_bytes(content)
    assert SubscriptionRecord(file).begin(NEW) == ()
    assert SubscriptionRecord(file).begin(()) == NEW


def test_a_folder_that_is_not_there_is_no_fault(tmp_path: Path) -> None:
    assert SubscriptionRecord(tmp_path / "no" / "subscribed").begin(NEW) == ()
