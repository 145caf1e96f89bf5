"""Log probabilities of written tokens."""

from collections.abc import Sequence

import numpy as np
import pytest

from edged.engine.logprobs import LogprobTeller

WORDS = ("a", " b", "\ufffd", " c")


def decode(tokens: Sequence[int]) -> str:
    """As a tokenizer that writes no space at the beginning of a text."""
    return "".join(WORDS[token] for token in tokens).lstrip(" ")


def test_they_are_those_of_the_model_and_its_most_probable_tokens_come_first() -> None:
    logits = np.array([0.5, 3.0, -2.0, 1.0], dtype=np.float32)
    teller = LogprobTeller(count=2, decode=decode)
    teller.take(logits, 3, before=0)
    (told,) = teller.told
    expected = np.log(np.exp(logits) / np.exp(logits).sum())
    assert (told.token, [text for text, _ in told.top]) == (" c", [" b", " c"])
    assert [told.logprob, *(value for _, value in told.top)] == pytest.approx(
        [expected[3], expected[1], expected[3]], abs=1e-4
    )


def test_each_is_shown_once() -> None:
    teller = LogprobTeller(count=0, decode=decode)
    logits = np.zeros(4, dtype=np.float32)
    teller.take(logits, 1, before=0)
    assert [each.token for each in teller.since_shown()] == [" b"]
    teller.take(logits, 3, before=1)
    assert [(each.token, each.top) for each in teller.since_shown()] == [(" c", ())]
    assert teller.since_shown() == ()
    assert len(teller.told) == 2
