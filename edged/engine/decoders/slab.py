"""One block of memory in which many sequences have their keys and values, so that one kernel reaches all of them.

For devices where starting a kernel costs more than the kernel. What does not fit gets a block of its own.
"""

import weakref
from collections import deque

import torch

from edged.engine.decoders.kv_cache import KVShape, SequenceKV

SPARE_PLACE = 0  # where rows without a sequence write and read
_FIRST = 1  # place of sequences


class Slab:
    """Places for tokens.

    Attributes:
        keys, values: (layers, kv_heads, places, head_dim).
    """

    def __init__(self, shape: KVShape, places: int) -> None:
        """Take memory for `places` tokens."""
        whole = shape.allocate(_FIRST + places)
        self.keys, self.values = whole.keys, whole.values
        self.keys[:, :, SPARE_PLACE] = 0.0  # numbers, whatever the memory held
        self.values[:, :, SPARE_PLACE] = 0.0
        self._free = [(_FIRST, places)]  # (start, count), by start, never side by side
        self._returned: deque[tuple[int, int]] = deque()  # by whatever thread let go of a sequence last

    def allocate(self, capacity: int) -> SequenceKV | None:
        """Take a row of places, until nobody holds the sequence any more; None: there is none so long."""
        while self._returned:
            self._put_back(*self._returned.popleft())
        for index, (start, count) in enumerate(self._free):
            if count >= capacity:
                self._free[index : index + 1] = [(start + capacity, count - capacity)] if count > capacity else []
                here = slice(start, start + capacity)
                kv = SequenceKV(keys=self.keys[:, :, here], values=self.values[:, :, here], start=start)
                weakref.finalize(kv, self._returned.append, (start, capacity)).atexit = False
                return kv
        return None

    def _put_back(self, start: int, count: int) -> None:
        rows = sorted([*self._free, (start, count)])
        self._free = rows[:1]
        for at, more in rows[1:]:
            last, length = self._free[-1]
            if last + length == at:
                self._free[-1] = (last, length + more)
            else:
                self._free.append((at, more))


def gathered(held: torch.Tensor, seen: torch.Tensor, rows: int) -> torch.Tensor:
    """What `rows` sequences see of one layer: (kv_heads, places, head_dim) -> (rows, kv_heads, seen, head_dim)."""
    kv_heads, _, head_dim = held.shape
    return held.index_select(1, seen).view(kv_heads, rows, -1, head_dim).transpose(0, 1)
