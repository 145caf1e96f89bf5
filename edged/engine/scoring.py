"""From logits to the probabilities of labels. The whole token sequence of a label counts, not only its first token.

The labels form a trie. Its inner nodes are run as branches after the prompt in the same step, so any number of labels
of any length costs one forward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edged.engine.decoders.interface import Logits


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTrie:
    """The tokens of all labels, merged where labels begin with the same tokens.

    Attributes:
        branches: the inner nodes as (parent, token). The parent is an index of `branches`, or -1 for the end of the
            prompt.
        steps: for each label its path as (node, token): the log-probability of the token is read at that node.
    """

    branches: tuple[tuple[int, int], ...]
    steps: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def of(cls, labels: Sequence[Sequence[int]]) -> "LabelTrie":
        """Build the trie of labels given as tokens.

        Raises:
            ValueError: a label has no tokens, or is the beginning of another one: their probabilities would overlap.
                End all labels with the same mark then.
        """
        nodes: dict[tuple[int, ...], int] = {(): -1}
        branches: list[tuple[int, int]] = []
        steps: list[tuple[tuple[int, int], ...]] = []
        for index, label in enumerate(map(tuple, labels)):
            if not label:
                raise ValueError("a label has no tokens")
            others = [tuple(other) for i, other in enumerate(labels) if i != index]
            if any(other[: len(label)] == label for other in others):
                raise ValueError("a label is the beginning of another")
            path: list[tuple[int, int]] = []
            for depth, token in enumerate(label):
                head = label[:depth]
                if head not in nodes:
                    branches.append((nodes[head[:-1]], head[-1]))
                    nodes[head] = len(branches) - 1
                path.append((nodes[head], token))
            steps.append(tuple(path))
        return cls(branches=tuple(branches), steps=tuple(steps))

    def with_words(self, words: Sequence[Sequence[int]]) -> tuple["LabelTrie", list[int | None]]:
        """The trie with further words at its end, as far as they cost nothing: they and all labels are one token each.

        Returns:
            The trie, and for each word where it stands among the words of the trie; None where it is not read.
        """
        if self.branches:
            return self, [None] * len(words)
        places = {path[0][1]: place for place, path in enumerate(self.steps)}
        found = [places.setdefault(word[0], len(places)) if len(word) == 1 else None for word in words]
        return LabelTrie(branches=(), steps=tuple(((-1, token),) for token in places)), found

    @property
    def words(self) -> tuple[int, ...]:
        """The tokens whose logits are needed; empty means the whole vocabulary.

        Where every label is one token, all are read at the end of the prompt and have the same denominator, which
        cancels. After a branch the denominator is needed, and so are all logits.
        """
        return () if self.branches else tuple(token for path in self.steps for _, token in path)


def read_words(logits: Logits, trie: LabelTrie) -> list[float]:
    """The log-probability of each word of a trie; where all are one token, but for a constant.

    Args:
        logits: (1 + len(trie.branches), vocab): first at the end of the prompt, where only `trie.words` are read, then
            at each branch.
        trie: of the words.
    """
    # What is to be subtracted at each node; at the end of the prompt it is the same for all words, and cancels.
    totals = (0.0, *map(_log_sum, logits[1:]))
    return [sum(float(logits[node + 1, token]) - totals[node + 1] for node, token in path) for path in trie.steps]


def _log_sum(row: Logits) -> float:
    """The logarithm of the sum of e^logit: the exponentials in fp32, their sum in fp64."""
    top = float(row.max())
    return top + float(np.log(np.exp(row - np.float32(top)).sum(dtype=np.float64)))


def label_log_probabilities(words: Sequence[float], *, labels: int) -> list[float]:
    """The log-probability of each label, given that the answer is one of them.

    A label may have several words. The first words of all labels are one reading, the second words another (each is a
    verbalizer: Schick & Schütze 2021). The probabilities by the readings are multiplied, as a product of experts
    (Hinton 2002).

    Args:
        words: log-probabilities of the words of all labels by the first reading, then of those by the next.
        labels: how many labels there are.

    Returns:
        Natural logarithms of probabilities that sum to 1.
    """
    readings = np.array(words, dtype=np.float64).reshape(-1, labels).sum(axis=0)
    return [float(each) for each in readings - np.logaddexp.reduce(readings)]


def plain_evidence(words: Sequence[float], *, plain: Sequence[int], named: Sequence[int]) -> float:
    """How far plain words are more probable than the names of the labels, as a difference of log-probabilities.

    Args:
        words: log-probabilities of words, but for a constant.
        plain: where among them the plain words are; none gives 0.
        named: where the names of the labels are.
    """
    if not plain:
        return 0.0
    found = np.array(words, dtype=np.float64)
    return float(np.logaddexp.reduce(found[list(plain)]) - np.logaddexp.reduce(found[list(named)]))


def add_opinion(
    evidence: Sequence[float], log_probabilities: Sequence[float], prior: Sequence[float], *, share: float = 1.0
) -> list[float]:
    """Add the evidence of one prompt, without the prompt's own bias.

    That is log p(label | text) - log p(label | text without content) (Zhao et al. 2021).

    Args:
        evidence: the sum over the prompts before; zeros for the first prompt.
        log_probabilities: of the labels, by this prompt.
        prior: the same for texts that favour no label.
        share: of the text that the prompt shows, in a mean over all parts of the text.
    """
    return [e + share * p - share * q for e, p, q in zip(evidence, log_probabilities, prior, strict=True)]


def pooled(evidence: Sequence[float], prompts: int) -> list[float]:
    """Turn the evidence of several prompts into probabilities: a logarithmic opinion pool (Genest & Zidek 1986).

    It takes the mean and not the sum, because all prompts ask the same model and their errors are not independent.
    """
    means = np.array(evidence, dtype=np.float64) / prompts
    shares = np.exp(means - means.max())
    return [float(each) for each in shares / shares.sum()]


def mean_prior(observed: Sequence[Sequence[float]]) -> list[float]:
    """The prior of a prompt: the mean log-probability of each label over texts that favour no label."""
    return [float(each) for each in np.array(observed, dtype=np.float64).mean(axis=0)]


def by_label(names: Sequence[str], probabilities: Sequence[float]) -> Mapping[str, float]:
    """Give each probability the name of its label."""
    return dict(zip(names, probabilities, strict=True))
