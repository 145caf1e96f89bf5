"""Memory for the keys and values of running sequences, one contiguous block a sequence.

A sequence's longest length is known when it is admitted, so its block is taken once, never grows and is read by
attention without a gather. Knows no tokens; `prefix_cache` decides what is kept.
"""

from dataclasses import dataclass

import torch


@dataclass(slots=True)
class SequenceKV:
    """Keys and values of one sequence: `keys` and `values` are (layers, kv_heads, capacity, head_dim)."""

    keys: torch.Tensor
    values: torch.Tensor
    length: int = 0

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


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

    def fork(self, source: SequenceKV, length: int, capacity: int) -> SequenceKV:
        """Take a block for `capacity` tokens that begins with the first `length` of `source`."""
        kv = self.allocate(capacity)
        kv.keys[:, :, :length].copy_(source.keys[:, :, :length])
        kv.values[:, :, :length].copy_(source.values[:, :, :length])
        kv.length = length
        return kv
