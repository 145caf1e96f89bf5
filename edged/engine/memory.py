"""Where a sequence gets its keys and values: new memory, or a copy of a beginning that the prefix cache holds."""

from collections.abc import Callable, Sequence
from typing import Generic

from edged.engine.conversation_file import Cached
from edged.engine.decoders.interface import K, Span
from edged.engine.loaded import Loaded
from edged.engine.prefix_cache import Conversation, PrefixCache
from edged.engine.sequence import Running


class SequenceMemory(Generic[K]):
    """The keys and values of one model, with its prefix cache."""

    def __init__(self, loaded: Loaded[K]) -> None:
        """Nothing is allocated yet."""
        self._model = loaded.model
        self._kept = loaded.warm_up_file
        self._conversations = loaded.conversation_file
        self._chunk = loaded.limits.prefill_chunk_tokens
        self.cache: PrefixCache[K] = PrefixCache(capacity_bytes=loaded.limits.prefix_cache_bytes)

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

    def keep(self, sequence: Running[K], now: float) -> None:
        """Keep what was computed, where a later prompt may begin with it: the conversation's next turn."""
        tokens, name = sequence.reusable_tokens, sequence.work.conversation
        if tokens and self._model.shares_prefixes:
            of = None if name is None else Conversation(name=name, at=now)
            self.cache.put(tokens, sequence.kv, sequence.kv.nbytes, of=of)

    def pin(self, tokens: Sequence[int], between: Callable[[], None]) -> bool:
        """Take the keys and values of a beginning that many prompts share from the file, or compute them.

        They are kept until `pin_only`. `between` is called between two runs of the model. Gives whether the file had
        them.
        """
        model = self._model
        if not tokens or not model.shares_prefixes:
            return False
        length, source = self.cache.match(tokens)
        if source is not None and length == len(tokens):
            return False
        kv = None if self._kept is None else self._kept.prefix(tokens)
        is_kept = kv is not None
        if kv is None:
            kv = model.allocate(len(tokens)) if source is None else model.fork(source, length, len(tokens))
            for start in range(kv.length, len(tokens), self._chunk):
                model.forward([Span(kv=kv, tokens=tokens[start : start + self._chunk])])
                between()
        self.cache.put(tokens, kv, kv.nbytes, pinned=True)
        return is_kept

    def keep_warm_up(self) -> None:
        """Keep what the warm-up computed for the next start, unless the file had it all."""
        kept = self._kept
        if kept is None:
            return
        if not kept.is_complete and kept.write(self.cache.pinned()):
            for tokens in self.cache.pinned():
                if (kv := kept.prefix(tokens)) is not None:
                    self.cache.replace(tokens, kv)
        kept.put_away()

    def recall_conversations(self, now: float) -> None:
        """Take the conversations that an earlier process left in its file."""
        if self._conversations is not None:
            for each in self._conversations.recall(now):
                self.cache.put(each.tokens, each.kv, each.kv.nbytes, of=each.of)

    def keep_conversations(self, now: float) -> None:
        """Leave the conversations in a file for the next process, where that is wanted."""
        if self._conversations is not None:
            cached = [Cached(tokens=tokens, kv=kv, of=of) for tokens, kv, of in self.cache.conversations()]
            self._conversations.write(cached, now)
