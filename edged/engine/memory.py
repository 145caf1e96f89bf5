"""Where a sequence gets its keys and values: new memory, or a copy of a beginning that the prefix cache holds."""

from collections.abc import Callable, Sequence
from typing import Generic

from edged.engine.decoders.interface import CausalModel, K, Span
from edged.engine.loaded import Limits
from edged.engine.prefix_cache import PrefixCache
from edged.engine.sequence import Running


class SequenceMemory(Generic[K]):
    """The keys and values of one model, with its prefix cache."""

    def __init__(self, model: CausalModel[K], limits: Limits) -> None:
        """Nothing is allocated yet."""
        self._model = model
        self._chunk = limits.prefill_chunk_tokens
        self.cache: PrefixCache[K] = PrefixCache(capacity_bytes=limits.prefix_cache_bytes)

    def give(self, sequence: Running[K]) -> None:
        """Give a sequence its keys and values, with as much of the prompt as is cached."""
        model = self._model
        length, source = self.cache.match(sequence.prompt) if model.shares_prefixes else (0, None)
        length = min(length, len(sequence.prompt) - 1)  # the last token is run for its logits
        if source is None:
            sequence.memory = model.allocate(sequence.capacity)
        else:
            sequence.memory = model.fork(source, length, sequence.capacity, borrow=sequence.borrows_prefix)
        sequence.cached = sequence.kv.length

    def keep(self, sequence: Running[K]) -> None:
        """Keep what was computed, where a later prompt may begin with it: the conversation's next turn."""
        tokens = sequence.reusable_tokens
        if tokens and self._model.shares_prefixes:
            self.cache.put(tokens, sequence.kv, sequence.kv.nbytes)

    def pin(self, tokens: Sequence[int], between: Callable[[], None]) -> None:
        """Compute the keys and values of a beginning that many prompts share, and keep them until `pin_only`.

        `between` is called between two runs of the model.
        """
        model = self._model
        if not tokens or not model.shares_prefixes:
            return
        length, source = self.cache.match(tokens)
        if source is not None and length == len(tokens):
            return
        kv = model.allocate(len(tokens)) if source is None else model.fork(source, length, len(tokens))
        for start in range(kv.length, len(tokens), self._chunk):
            model.forward([Span(kv=kv, tokens=tokens[start : start + self._chunk])])
            between()
        self.cache.put(tokens, kv, kv.nbytes, pinned=True)
