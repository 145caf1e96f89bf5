"""Where a sequence gets its keys and values: new memory, or a copy of a beginning that the prefix cache holds."""

from collections.abc import Callable, Sequence
from typing import Generic

from edged.engine.decoders.interface import CausalModel, K, Span
from edged.engine.loaded import Limits
from edged.engine.prefix_cache import PrefixCache
from edged.engine.sequence import Running
from edged.engine.warm_up_file import WarmUpFile


class SequenceMemory(Generic[K]):
    """The keys and values of one model, with its prefix cache."""

    def __init__(self, model: CausalModel[K], limits: Limits, kept: WarmUpFile[K] | None = None) -> None:
        """Nothing is allocated yet; `kept` has beginnings of prompts that an earlier start computed."""
        self._model = model
        self._kept = kept
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
        """Take the keys and values of a beginning that many prompts share from the file, or compute them.

        They are kept until `pin_only`. `between` is called between two runs of the model.
        """
        model = self._model
        if not tokens or not model.shares_prefixes:
            return
        length, source = self.cache.match(tokens)
        if source is not None and length == len(tokens):
            return
        kv = None if self._kept is None else self._kept.prefix(tokens)
        if kv is None:
            kv = model.allocate(len(tokens)) if source is None else model.fork(source, length, len(tokens))
            for start in range(kv.length, len(tokens), self._chunk):
                model.forward([Span(kv=kv, tokens=tokens[start : start + self._chunk])])
                between()
        self.cache.put(tokens, kv, kv.nbytes, pinned=True)

    def keep_warm_up(self) -> None:
        """Keep what the warm-up computed for the next start, unless the file had it all."""
        kept = self._kept
        if kept is None or kept.is_complete or not kept.write(self.cache.pinned()):
            return
        for tokens in self.cache.pinned():  # what is mapped takes memory only while it is used
            if (kv := kept.prefix(tokens)) is not None:
                self.cache.replace(tokens, kv)
