"""How fast a box was is found again, whatever became of the file."""

from pathlib import Path

import pytest

from edged.fleet.measured_window import MeasuredWindow


def test_what_was_noted_is_recalled_by_the_next(tmp_path: Path) -> None:
    file = tmp_path / "pace"
    assert MeasuredWindow(file, of="one").recall(at_most=64) is None
    MeasuredWindow(file, of="one").note(12)
    MeasuredWindow(file, of="one").note(20)
    assert MeasuredWindow(file, of="one").recall(at_most=64) == 20
    assert MeasuredWindow(file, of="one").recall(at_most=16) == 16


def test_what_another_model_did_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "pace"
    MeasuredWindow(file, of="one").note(12)
    assert MeasuredWindow(file, of="other").recall(at_most=64) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b'{"of": "one"}',
        b'{"of": "one", "requests": "1"}',
        b'{"of": "one", "requests": 0}',
        b'{"of": "one", "requests": 1.5}',
        b'{"of": "one", "requests": NaN}',
    ],
)
def test_a_file_of_anything_says_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "pace"
    file.write_bytes(content)
    assert MeasuredWindow(file, of="one").recall(at_most=64) is None


def test_a_folder_that_is_not_there_is_no_fault(tmp_path: Path) -> None:
    pace = MeasuredWindow(tmp_path / "no" / "pace", of="one")
    pace.note(1)
    assert pace.recall(at_most=64) is None
