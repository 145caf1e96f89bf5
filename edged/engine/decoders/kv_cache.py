"""Memory for the keys and values of running sequences, one contiguous block a sequence.

A sequence's longest length is known when it is admitted, so its block is taken once, never grows and is read by
attention without a gather. Knows no tokens; `prefix_cache` decides what is kept.
"""

from dataclasses import dataclass

import torch


@dataclass(slots=True, weakref_slot=True, eq=False)
class SequenceKV:
    """Keys and values of one sequence: `keys` and `values` are (layers, kv_heads, capacity, head_dim).

    Attributes:
        start: the first of its places in a `Slab`; None where it has a block of its own.
    """

    keys: torch.Tensor
    values: torch.Tensor
    length: int = 0
    start: int | None = None

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def begin_with(self, source: "SequenceKV", length: int) -> None:
        """Take over the first `length` tokens of another sequence."""
        self.keys[:, :, :length].copy_(source.keys[:, :, :length])
        self.values[:, :, :length].copy_(source.values[:, :, :length])
        self.length = length


@dataclass(frozen=True, kw_only=True, slots=True)
class KVShape:
    """The shape of one token's keys and values, and where they live."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize

    def allocate(self, capacity: int) -> SequenceKV:
        """Take a block for `capacity` tokens."""
        shape = (self.layers, self.kv_heads, capacity, self.head_dim)
        return SequenceKV(
            keys=torch.empty(shape, dtype=self.dtype, device=self.device),
            values=torch.empty(shape, dtype=self.dtype, device=self.device),
        )
