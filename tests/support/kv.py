"""Keys and values that stand for a model's: one number for each position, by which tests know the tokens."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class KV:
    keys: Any
    values: Any
    length: int

    @property
    def nbytes(self) -> int:
        return int(self.keys.nbytes + self.values.nbytes)


class Model:
    """Keeps one number for each position of keys, and one of values."""

    def kv_arrays(self, kv: KV) -> tuple[Any, Any]:
        return kv.keys, kv.values

    def kv_shapes(self, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (length,), (length, 1)

    def kv_of(self, keys: Any, values: Any, length: int) -> KV:
        return KV(keys, values, length)


def kv(tokens: tuple[int, ...]) -> KV:
    keys = np.array(tokens, np.uint16)
    return KV(keys, keys.reshape(-1, 1) + 100, len(tokens))
