import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.prefix_cache import Conversation, PrefixCache, shared_length


def cache_of(*entries: tuple[list[int], str], capacity: int = 1000) -> PrefixCache[str]:
    cache: PrefixCache[str] = PrefixCache(capacity_bytes=capacity)
    for tokens, value in entries:
        cache.put(tokens, value, len(tokens))
    return cache


def test_the_longest_shared_beginning_wins() -> None:
    cache = cache_of((list(range(40)), "long"), ([*range(20), *range(100, 140)], "fork"))
    assert cache.match([*range(30), 999]) == (30, "long")
    assert cache.match([*range(20), *range(100, 120)]) == (40, "fork")


def test_a_beginning_shorter_than_a_block_is_found() -> None:
    assert cache_of(([1, 2, 3, 4], "v")).match([1, 2, 9]) == (2, "v")


def test_nothing_shared_is_a_miss() -> None:
    cache = cache_of(([1, 2, 3], "v"))
    assert cache.match([7, 8]) == (0, None)
    assert (cache.hits, cache.misses) == (0, 1)


def test_the_least_recently_used_goes_first() -> None:
    cache = cache_of(([1] * 40, "a"), ([2] * 40, "b"), capacity=100)
    cache.match([1] * 40)
    cache.put([3] * 40, "c", 40)
    assert cache.match([2] * 40)[1] is None
    assert cache.match([1] * 40)[1] == "a"


def test_pinned_entries_stay() -> None:
    cache: PrefixCache[str] = PrefixCache(capacity_bytes=50)
    cache.put([1] * 40, "pinned", 40, pinned=True)
    cache.put([2] * 40, "other", 40)
    assert cache.match([1] * 40) == (40, "pinned")
    assert cache.match([2] * 40) == (0, None)


def test_a_longer_conversation_replaces_its_beginning() -> None:
    cache = cache_of((list(range(32)), "turn 1"), (list(range(64)), "turn 2"))
    assert cache.nbytes == 64
    assert cache.match(list(range(32))) == (32, "turn 2")


def test_a_conversation_that_is_forgotten_is_dropped_with_all_its_branches() -> None:
    cache: PrefixCache[str] = PrefixCache(capacity_bytes=1000)
    cache.put([1] * 20, "pinned", 20, pinned=True)
    for tokens, name in (([1] * 20 + [2] * 20, "a"), ([1] * 20 + [3] * 20, "b"), ([1] * 20 + [4] * 20, "a")):
        cache.put(tokens, name, 40, of=Conversation(name=name, at=0.0))
    assert [of.name for _, _, of in cache.conversations()] == ["a", "b", "a"]
    cache.forget("a")
    assert cache.match([1] * 20 + [2] * 20) == (20, "pinned")
    assert cache.match([1] * 20 + [3] * 20) == (40, "b")
    assert [of.name for _, _, of in cache.conversations()] == ["b"]
    assert cache.nbytes == 60


def test_clear_leaves_what_is_pinned() -> None:
    cache = cache_of(([1] * 20, "a"))
    cache.put([2] * 20, "b", 20, pinned=True)
    cache.clear()
    assert cache.nbytes == 20
    assert cache.match([2] * 20) == (20, "b")


@pytest.mark.parametrize(("a", "b", "length"), [([], [1], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 9], 1)])
def test_shared_length(a: list[int], b: list[int], length: int) -> None:
    assert shared_length(a, b) == length


tokens = st.lists(st.integers(0, 2), max_size=50)


@given(st.lists(st.tuples(tokens, st.booleans()), max_size=30), tokens)
def test_never_over_its_bytes_and_never_a_false_match(puts: list[tuple[list[int], bool]], asked: list[int]) -> None:
    cache: PrefixCache[tuple[int, ...]] = PrefixCache(capacity_bytes=120)
    pinned_bytes = 0
    for key, pinned in puts:
        pin = pinned and pinned_bytes + len(key) <= 60
        pinned_bytes += len(key) * pin
        cache.put(key, tuple(key), len(key), pinned=pin)
        assert cache.nbytes <= 120
    length, value = cache.match(asked)
    if value is not None:
        assert list(value[:length]) == asked[:length]
        assert length > 0
