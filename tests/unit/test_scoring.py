import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.scoring import (
    LabelTrie,
    add_opinion,
    label_log_probabilities,
    mean_prior,
    plain_evidence,
    pooled,
    read_words,
)


def chain(logits: dict[tuple[int, ...], list[float]], label: list[int]) -> float:
    """The log-probability of a label by the chain rule, straight from the definition."""
    total = 0.0
    for depth, token in enumerate(label):
        row = logits[tuple(label[:depth])]
        total += row[token] - math.log(sum(map(math.exp, row)))
    return total


labels_of_digits = st.lists(
    st.lists(st.integers(0, 4), min_size=1, max_size=4).map(lambda label: [*label, 5]),  # 5 ends each
    min_size=2,
    max_size=5,
    unique_by=tuple,
)


@given(labels_of_digits)
def test_each_label_is_scored_by_all_its_tokens(labels: list[list[int]]) -> None:
    trie = LabelTrie.of(labels)
    heads: dict[tuple[int, ...], int] = {(): 0}
    for label in labels:
        for depth in range(1, len(label)):
            heads.setdefault(tuple(label[:depth]), len(heads))
    generator = torch.Generator().manual_seed(len(heads))
    table = {head: torch.randn(6, generator=generator).tolist() for head in heads}
    # The rows in the order of the trie's branches: follow each from its parent.
    lines: list[tuple[int, ...]] = []
    for parent, token in trie.branches:
        lines.append((*(lines[parent] if parent >= 0 else ()), token))
    rows = np.array([table[()], *(table[line] for line in lines)], dtype=np.float32)
    wanted = torch.log_softmax(torch.tensor([chain(table, label) for label in labels], dtype=torch.float64), 0)
    assert label_log_probabilities(read_words(rows, trie), labels=len(labels)) == pytest.approx(
        wanted.tolist(), abs=1e-5
    )
    assert len(trie.branches) == len(heads) - 1


def test_single_token_labels_need_no_branches() -> None:
    trie = LabelTrie.of([[3], [4]])
    assert trie.branches == ()
    assert trie.words == (3, 4)
    unknown = np.full((1, 6), np.nan, dtype=np.float32)
    unknown[0, 3], unknown[0, 4] = 1.0, 2.0
    assert label_log_probabilities(read_words(unknown, trie), labels=2) == pytest.approx(
        torch.log_softmax(torch.tensor([1.0, 2.0], dtype=torch.float64), 0).tolist()
    )


def test_labels_of_several_tokens_need_the_whole_vocabulary() -> None:
    assert LabelTrie.of([[3, 1], [4]]).words == ()


@pytest.mark.parametrize("labels", [[[1], [1, 2]], [[1], [1]], [[], [1]]])
def test_labels_that_cannot_be_told_apart_are_refused(labels: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="label"):
        LabelTrie.of(labels)


def test_readings_are_multiplied() -> None:
    trie = LabelTrie.of([[0], [1], [2], [3]])  # two labels, each by two words
    logits = np.log(np.array([[0.4, 0.1, 0.3, 0.2]], dtype=np.float32))
    both = label_log_probabilities(read_words(logits, trie), labels=2)
    odds = (0.4 / 0.1) * (0.3 / 0.2)
    assert math.exp(both[0] - both[1]) == pytest.approx(odds)
    assert sum(map(math.exp, both)) == pytest.approx(1.0)


def test_calibration_takes_the_prior_out() -> None:
    biased, fair = [math.log(0.9), math.log(0.1)], mean_prior([[math.log(0.5)] * 2] * 3)
    assert pooled(add_opinion([0.0, 0.0], biased, biased), 1) == pytest.approx([0.5, 0.5])
    assert pooled(add_opinion([0.0, 0.0], biased, fair), 1) == pytest.approx([0.9, 0.1])


def test_two_prompts_are_pooled_by_the_mean_of_their_evidence() -> None:
    fair = [0.0, 0.0]
    first = add_opinion(fair, [math.log(0.6), math.log(0.4)], fair)
    both = add_opinion(first, [math.log(0.2), math.log(0.8)], fair)
    assert pooled(both, 2) == pytest.approx([0.12**0.5 / (0.12**0.5 + 0.32**0.5), 0.32**0.5 / (0.12**0.5 + 0.32**0.5)])
    assert pooled(add_opinion(first, [math.log(0.6), math.log(0.4)], fair), 2) == pytest.approx([0.6, 0.4])


def test_other_words_are_read_where_they_cost_nothing() -> None:
    trie, places = LabelTrie.of([[3], [4]]).with_words([[7], [4], [8, 9], [5]])
    assert (trie.words, places) == ((3, 4, 7, 5), [2, 1, None, 3])
    assert trie.branches == ()


def test_other_words_are_not_read_where_labels_are_several_tokens() -> None:
    labels = LabelTrie.of([[3, 1], [3, 2]])
    assert labels.with_words([[7]]) == (labels, [None])


def test_plain_evidence_is_the_odds_of_the_plain_words() -> None:
    words = [math.log(each) for each in (0.1, 0.2, 0.3, 0.3, 0.1)]
    assert plain_evidence(words, plain=[2, 3], named=[0, 1]) == pytest.approx(math.log(2))
    assert plain_evidence(words, plain=[], named=[0, 1]) == 0.0
