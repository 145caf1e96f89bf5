"""The prefix cache: an LRU over token sequences, bounded by bytes. Pure: it does not look into the values.

An entry is of use to every prompt that begins with the same tokens, for as many tokens as both share. When an entry is
lost, the next prompt takes longer; the answer is the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

V = TypeVar("V")
_BLOCK = 16  # tokens. Entries are found by whole blocks, then compared token by token


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Whose words an entry is of: a conversation by the journal's name, and when its last turn ended."""

    name: str
    at: float


@dataclass(slots=True)
class _Entry(Generic[V]):
    tokens: tuple[int, ...]
    value: V
    nbytes: int
    pinned: bool
    of: Conversation | None


@dataclass(slots=True)
class PrefixCache(Generic[V]):
    """Values by token prefix. Pinned entries count towards the bytes and are never evicted."""

    capacity_bytes: int
    nbytes: int = 0
    hits: int = 0
    misses: int = 0
    # In the order of use: the first entry is the least recently used.
    _entries: dict[tuple[int, ...], _Entry[V]] = field(default_factory=dict)
    # By the hash of a beginning of whole blocks: the entries that begin so.
    _by_blocks: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)

    def match(self, tokens: Sequence[int]) -> tuple[int, V | None]:
        """Find the entry that shares the longest beginning with `tokens`.

        Returns:
            How many tokens are shared, and the value; (0, None) if no entry shares any.
        """
        best_length, best = 0, None
        candidates = self._candidates(tokens)
        for key in candidates:
            shared = shared_length(self._entries[key].tokens, tokens)
            if shared > best_length:
                best_length, best = shared, key
        if best is None:
            self.misses += 1
            return 0, None
        self.hits += 1
        entry = self._entries.pop(best)
        self._entries[best] = entry
        return best_length, entry.value

    def put(
        self,
        tokens: Sequence[int],
        value: V,
        nbytes: int,
        *,
        pinned: bool = False,
        of: Conversation | None = None,
    ) -> None:
        """Keep `value` for `tokens`, and evict the least recently used entries to make room.

        A value that is larger than the room is not kept. An entry whose tokens are the beginning of the new one's is
        dropped: the new entry is of use wherever that one was.
        """
        key = tuple(tokens)
        if not pinned and self._pinned_bytes() + nbytes > self.capacity_bytes:
            return
        for other in [k for k in self._candidates(key) if key[: len(k)] == k and not self._entries[k].pinned]:
            self._remove(other)
        if key in self._entries:
            return  # a pinned entry of the same tokens
        self._entries[key] = _Entry(tokens=key, value=value, nbytes=nbytes, pinned=pinned, of=of)
        self.nbytes += nbytes
        for block_hash in _block_hashes(key):
            self._by_blocks.setdefault(block_hash, []).append(key)
        self._evict()

    def pinned(self) -> dict[tuple[int, ...], V]:
        """The pinned entries: their values by their tokens."""
        return {key: entry.value for key, entry in self._entries.items() if entry.pinned}

    def conversations(self) -> list[tuple[tuple[int, ...], V, Conversation]]:
        """Tokens and values of the entries that are of a conversation, the one used last at the end."""
        return [
            (key, entry.value, entry.of)
            for key, entry in self._entries.items()
            if entry.of is not None and not entry.pinned
        ]

    def forget(self, conversation: str) -> None:
        """Drop every entry of a conversation."""
        for key in [key for key, _, of in self.conversations() if of.name == conversation]:
            self._remove(key)

    def replace(self, tokens: tuple[int, ...], value: V) -> None:
        """Put another value of the same tokens and size in the place of an entry's."""
        self._entries[tokens].value = value

    def pin_only(self, wanted: Iterable[Sequence[int]]) -> None:
        """Pin the entries of these tokens, or of longer ones that begin with them; no other entry stays pinned."""
        keys = {tuple(tokens) for tokens in wanted}
        for entry in self._entries.values():
            serves = entry.pinned and any(entry.tokens[: len(key)] == key for key in keys)
            entry.pinned = serves or entry.tokens in keys
        self._evict()

    def clear(self) -> None:
        """Drop every entry that is not pinned."""
        for key in [key for key, entry in self._entries.items() if not entry.pinned]:
            self._remove(key)

    def _candidates(self, tokens: Sequence[int]) -> list[tuple[int, ...]]:
        """The keys of the entries that share the most whole blocks with `tokens`."""
        found: list[tuple[int, ...]] = []
        for block_hash in _block_hashes(tokens):
            deeper = self._by_blocks.get(block_hash)
            if not deeper:
                break
            found = deeper
        return list(found)

    def _pinned_bytes(self) -> int:
        return sum(entry.nbytes for entry in self._entries.values() if entry.pinned)

    def _evict(self) -> None:
        for key in [key for key, entry in self._entries.items() if not entry.pinned]:
            if self.nbytes <= self.capacity_bytes:
                return
            self._remove(key)

    def _remove(self, key: tuple[int, ...]) -> None:
        self.nbytes -= self._entries.pop(key).nbytes
        for block_hash in _block_hashes(key):
            keys = self._by_blocks[block_hash]
            keys.remove(key)
            if not keys:
                del self._by_blocks[block_hash]


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens `a` and `b` have in common at their beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _block_hashes(tokens: Sequence[int]) -> list[int]:
    """A hash of each beginning of whole blocks, the empty one first."""
    hashes = [0]
    for start in range(0, len(tokens) - _BLOCK + 1, _BLOCK):
        hashes.append(hash((hashes[-1], tuple(tokens[start : start + _BLOCK]))))
    return hashes
