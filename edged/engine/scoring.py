"""Logits to label probabilities: each label's whole token sequence counts, not its first token alone.

The labels form a trie. Its inner nodes are run as branches behind the prompt in the same step, so any number of
labels of any length costs one forward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTrie:
    """The tokens of all labels, merged where they begin alike.

    Attributes:
        branches: inner nodes as (parent, token); parent -1 is the end of the prompt, else an index of `branches`.
        steps: for each label its path as (node, token): the token's log-probability is read at that node.
    """

    branches: tuple[tuple[int, int], ...]
    steps: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def of(cls, labels: Sequence[Sequence[int]]) -> "LabelTrie":
        """Build the trie of labels given as tokens.

        Raises:
            ValueError: a label has no tokens, or is the beginning of another (their probabilities would not
                exclude each other; end both with the same mark).
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

    @property
    def words(self) -> tuple[int, ...]:
        """The tokens whose logits are needed; empty: those of the whole vocabulary.

        At the end of the prompt all labels have one denominator, which cancels; behind a first token they have not.
        """
        return () if self.branches else tuple(token for path in self.steps for _, token in path)


def label_log_probabilities(logits: torch.Tensor, trie: LabelTrie, *, labels: int) -> list[float]:
    """Log-probability of each label against the others.

    Where labels have several words, each set of words is a reading of its own (a verbalizer: Schick & Schütze 2021),
    and the readings are multiplied as experts are (Hinton 2002).

    Args:
        logits: (1 + len(trie.branches), vocab): at the end of the prompt, where only `trie.words` are looked at, then
            at each branch.
        trie: of the words: those of all labels in the first reading, then in the next.
        labels: how many there are.

    Returns:
        Natural logarithms that sum to 1 as probabilities.
    """
    first, *branches = logits.double().unbind() if trie.branches else (logits[0],)
    at = [first, *(torch.log_softmax(row, dim=-1) for row in branches)]
    raw = [sum(float(at[node + 1][token]) for node, token in path) for path in trie.steps]
    readings = torch.tensor(raw, dtype=torch.float64).view(-1, labels)
    return torch.log_softmax(readings.sum(dim=0), dim=0).tolist()


def add_opinion(evidence: Sequence[float], log_probabilities: Sequence[float], prior: Sequence[float]) -> list[float]:
    """Add what one prompt says, its own bias taken out: p(label | text) / p(label | no content) (Zhao et al. 2021).

    Args:
        evidence: of the prompts before, as logarithms; zeros before the first.
        log_probabilities: of the labels by this prompt.
        prior: the same for texts that favour no label.
    """
    return [e + p - q for e, p, q in zip(evidence, log_probabilities, prior, strict=True)]


def pooled(evidence: Sequence[float], prompts: int) -> list[float]:
    """The evidence of so many prompts as probabilities that sum to 1: a logarithmic opinion pool (Genest & Zidek 1986).

    The mean and not the sum, for prompts to one model are of one mind: what each says is no evidence of its own.
    """
    return torch.softmax(torch.tensor(evidence, dtype=torch.float64) / prompts, dim=0).tolist()


def mean_prior(observed: Sequence[Sequence[float]]) -> list[float]:
    """The prior of a prompt: mean log-probability of each label over texts that favour none."""
    return torch.tensor(observed, dtype=torch.float64).mean(dim=0).tolist()


def by_label(names: Sequence[str], probabilities: Sequence[float]) -> Mapping[str, float]:
    """Name the probabilities."""
    return dict(zip(names, probabilities, strict=True))
