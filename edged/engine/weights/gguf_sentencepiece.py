"""The backend of a tokenizer of SentencePiece's kind, whose vocabulary has scores in place of merges.

Such a file says how good each token is. Two neighbours are joined where that gives a token, those with the best token
first (`llm_tokenizer_spm` of llama.cpp); so the merges of a BPE tokenizer follow from the scores. Characters that are
in no token become bytes.
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers

_SPACE = "▁"


def backend_of(
    vocab: Mapping[str, int], scores: Mapping[str, float], *, unknown: str | None, adds_space: bool
) -> Tokenizer:
    """Build the backend.

    Args:
        vocab: token -> id.
        scores: of the tokens that text may become; not of those that steer the model.
        unknown: the token for what is none; None where there is none.
        adds_space: whether a text is read as if a space stood before it.
    """
    model = models.BPE(
        vocab=dict(vocab),
        merges=merges_of(scores),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Tokenizer(model)
    before = [normalizers.Prepend(_SPACE)] if adds_space else []
    backend.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", _SPACE)])
    after: list[Any] = [decoders.Strip(" ", 1, 0)] if adds_space else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return backend


def merges_of(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Give all pairs of tokens that make a token, those of the best token first."""
    found = []
    for token, score in scores.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in scores and right in scores:
                found.append((-score, left, right))
    found.sort(key=lambda each: each[0])
    return [(left, right) for _, left, right in found]
