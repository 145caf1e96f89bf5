"""Where sentences end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.tasks.sentences import last_end


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("I am sorry. That is ha", "I am sorry."),
        ("One. Two! Three? Fo", "One. Two! Three?"),
        ('He said "Stop!" He wa', 'He said "Stop!"'),
        ("(It works.) And th", "(It works.)"),
        ("**Rest well.** Then dri", "**Rest well.**"),
        ("It costs 3.50 euros. The ot", "It costs 3.50 euros."),
        ("Fine. It costs 3.", "Fine."),  # of 3.50, perhaps
        ("Ask Dr. Brown. He kno", "Ask Dr. Brown."),
        ("Hear J. S. Bach. Hi", "Hear J. S. Bach."),
        ("So am I. We co", "So am I."),
        ("Well... maybe. I th", "Well... maybe."),
        ("Take fruit, e.g. apples. Or p", "Take fruit, e.g. apples."),
        ("Do this:\n1. Rest.\n2. Drink wa", "Do this:\n1. Rest."),
        ("Buy:\n- milk\n- brea", "Buy:\n- milk"),
        ("Really?! I do", "Really?!"),
        ("Great! 😊 I am so ha", "Great!"),
        ("今天很好。我想出", "今天很好。"),
        ("太好了！“真的吗？”她问", "太好了！“真的吗？”"),
        ("你好.今天很", "你好."),
        ("价格是3.5元。很便", "价格是3.5元。"),
        ("首先，休息；然后", None),
        ("I am very happy for yo", None),
        ("Tips:\n1. Dri", None),
        ("Dear Ada,\nI a", None),
        ("", None),
    ],
)
def test_the_last_whole_sentence(text: str, kept: str | None) -> None:
    end = last_end(text, is_over=True)
    assert (None if end is None else text[:end]) == kept


@pytest.mark.parametrize("text", ["I am sorry.", "今天很好。", '"Stop!"', "It was 1999. It was fun."])
def test_a_mark_at_the_very_end_counts_once_it_is_over(text: str) -> None:
    assert last_end(text, is_over=True) == len(text)


@given(st.text(alphabet='ab A1.!?…。！”")\n- :是', max_size=30), st.data())
def test_an_end_that_was_sure_stays_one(text: str, data: st.DataObject) -> None:
    known = data.draw(st.integers(0, len(text)))
    sure = last_end(text[:known], is_over=False)
    if sure is not None:
        whole = last_end(text, is_over=True)
        assert whole is not None
        assert whole >= sure
        assert last_end(text, is_over=True, start=sure) in {whole, None if whole == sure else whole}
