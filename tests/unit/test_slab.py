"""The places of a slab: nobody's are another's, and those that are let go are taken again."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.decoders.kv_cache import KVShape, SequenceKV
from edged.engine.decoders.slab import SPARE_PLACE, Slab

SHAPE = KVShape(layers=2, kv_heads=1, head_dim=4, dtype=torch.float32, device=torch.device("cpu"))


@given(st.lists(st.one_of(st.integers(1, 12), st.tuples(st.integers(0, 20))), max_size=60))
def test_places_are_never_shared_and_all_come_back(wishes: list[int | tuple[int]]) -> None:
    slab = Slab(SHAPE, 32)
    held: list[SequenceKV] = []
    for wish in wishes:
        if isinstance(wish, tuple):
            del held[wish[0] : wish[0] + 1]
        elif (kv := slab.allocate(wish)) is not None:
            assert kv.capacity == wish
            held.append(kv)
        taken = [place for kv in held for place in range(kv.start or 0, (kv.start or 0) + kv.capacity)]
        assert len(taken) == len(set(taken))
        assert all(SPARE_PLACE < place <= 32 for place in taken)
    held.clear()
    kv = None
    assert slab.allocate(32) is not None


def test_a_sequence_is_a_view_of_its_places() -> None:
    slab = Slab(SHAPE, 8)
    first, second = slab.allocate(3), slab.allocate(5)
    assert first is not None
    assert second is not None
    assert slab.allocate(1) is None
    first.keys[:] = 1.0
    second.keys[:] = 2.0
    assert slab.keys[0, 0, :, 0].tolist() == [0.0, *[1.0] * 3, *[2.0] * 5]
    assert second.nbytes == 5 * SHAPE.bytes_per_token
