"""Logits to the next token, with a random generator of its own for each sequence.

So the same seed gives the same text, whatever else runs in the batch.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812 - the name that everybody knows it by

from edged.tasks.specs import Sampling

_BLOCK = 128
_PENALTY_WINDOW = 256  # tokens looked back at for repetitions


def make_generator(seed: int) -> torch.Generator:
    """Give the random generator of one sequence."""
    return torch.Generator(device="cpu").manual_seed(seed)


def sample(logits: torch.Tensor, *, how: Sampling, said: Sequence[int], generator: torch.Generator) -> int:
    """Draw the next token.

    Args:
        logits: (vocab,), fp32; may hold -inf for tokens that are not allowed. It may be changed in place.
        how: temperature 0 takes the most probable token; top_k 0 and top_p 1 leave all tokens in.
        said: the model's own tokens so far, those of its earlier turns first, which `repetition_penalty` makes less
            likely (Keskar et al. 2019; the user's words are not penalised: a reply may name what they name).
        generator: advanced by one draw unless temperature is 0.
    """
    if how.repetition_penalty != 1.0 and said:
        seen = torch.tensor(sorted(set(said[-_PENALTY_WINDOW:])))
        scores = logits[seen]
        logits[seen] = torch.where(scores > 0, scores / how.repetition_penalty, scores * how.repetition_penalty)
    values, tokens = largest(logits, 1 if how.temperature == 0 else how.top_k or logits.shape[0])
    if how.temperature == 0:
        return int(tokens[0])
    probabilities = torch.softmax(values / how.temperature, dim=0)
    if how.top_p < 1.0:
        before = probabilities.cumsum(0) - probabilities
        probabilities = probabilities.masked_fill(before >= how.top_p, 0.0)  # the first always stays
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return int(tokens[drawn])


def largest(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest of (vocab,), falling, and their places.

    Looks at the largest of each block first: a fifth of the time that `topk` over a whole vocabulary takes.
    """
    blocks = F.pad(logits, (0, -logits.shape[0] % _BLOCK), value=float("-inf")).view(-1, _BLOCK)
    if count > blocks.shape[0]:
        values, places = logits.topk(min(count, logits.shape[0]))
        return values, places
    chosen = blocks.amax(dim=1).topk(count).indices
    values, within = blocks[chosen].flatten().topk(count)
    return values, chosen[within // _BLOCK] * _BLOCK + within % _BLOCK
