"""What marks in a text say about whether it has a feeling."""

import pytest

from edged.tasks.marks import evidence


@pytest.mark.parametrize(
    ("more_often_plain", "less_often"),
    [
        ("Doors open at eight.", "Doors open at eight!"),
        ("Doors open at eight.", "Doors open at eight"),
        ("Do the doors open at eight?", "The doors open at eight"),
        ("Do the doors open at eight?", "Do the doors open at eight?!"),
        ("Doors: open at eight", "Doors open at eight"),
        ("Doors open - The Times", "Doors open, the Times"),
        ("New Bridge Opens Near Leeds", "New bridge opens near Leeds"),
        ("the doors open at eight, and...", "the doors open at eight, and"),
        ("gate 3, row 14, seat 8", "gate, row 14, seat 8"),
        ("Doors open at eight", "Doors open at eight :)"),
    ],
)
def test_which_of_two_texts_is_more_often_plain(more_often_plain: str, less_often: str) -> None:
    assert evidence(more_often_plain) > evidence(less_often)


@pytest.mark.parametrize("text", ["", "!" * 50 + " :) <3", "Is it? " * 20 + "A - b: 1 2 3 ...", "a" * 10_000])
def test_marks_never_weigh_much(text: str) -> None:
    assert abs(evidence(text)) <= 0.75
