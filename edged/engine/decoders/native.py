"""The decoder whose step runs in C++: int8 and int4 weights on a CPU. The sources are in `native/`.

Where the library cannot be compiled, `lean.py` runs the same weights by torch's kernels.
"""

import ctypes
import mmap
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.engine.decoders.interface import Logits, Span
from edged.engine.decoders.native_structures import (
    ACTIVATIONS,
    BlockStruct,
    LayerStruct,
    ShapeStruct,
    SpanStruct,
    layer_struct,
    matrix_struct,
    open_library,
    pointer,
)
from edged.engine.weights.architectures.architecture import DecoderShape
from edged.engine.weights.formats import BLOCK
from edged.engine.weights.quantised import Matrix, QuantisedWeights
from edged.engine.weights.rope import Rope

_TILE = 16  # positions whose keys stand together
_BF16 = 2  # bytes
_CACHE_LINE = 64  # bytes
_MAPPED_BYTES = 256 << 10


def _aligned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Memory that begins at a cache line; what it holds is not defined.

    Large memory is mapped, and so goes back to the system as soon as nobody refers to it. On the heap, keys and values
    of many lengths would leave holes between them that the process keeps.

    Raises:
        MemoryError: there is none.
    """
    wanted = np.dtype(dtype)
    nbytes = prod(shape) * wanted.itemsize
    if nbytes >= _MAPPED_BYTES:
        try:
            mapped = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no memory for {nbytes} bytes") from error
        return np.frombuffer(mapped, wanted).reshape(shape)
    room = np.empty(nbytes + _CACHE_LINE, np.uint8)
    first = -room.ctypes.data % _CACHE_LINE
    return room[first : first + nbytes].view(wanted).reshape(shape)


def kv_bytes_per_token(shape: DecoderShape) -> int:
    """Give the memory of the keys and values of one token."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * _BF16


@dataclass(slots=True)
class NativeKV:
    """Keys and values of one sequence, bf16, which numpy holds as 16 bits that it does not read.

    Attributes:
        keys: (layers, kv_heads, own capacity / 16, head_dim, 16), so that sixteen scores are made at a time.
        values: (layers, kv_heads, own capacity, head_dim).
        lent: another sequence, of which this one reads its first `shared` positions (whole sixteens).
        length: positions held, the shared ones included.
        block: where keys and values are, for the library.
    """

    keys: npt.NDArray[np.uint16]
    values: npt.NDArray[np.uint16]
    block: BlockStruct
    lent: "NativeKV | None" = None
    shared: int = 0
    length: int = 0

    @property
    def capacity(self) -> int:
        return self.shared + int(self.values.shape[2])

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


class NativeDecoder:
    """A loaded model; see `CausalModel`. For one thread at a time."""

    shares_prefixes = True

    def __init__(
        self,
        library: Path,
        shape: DecoderShape,
        weights: QuantisedWeights,
        ropes: Sequence[Rope],
        *,
        positions: int,
        threads: int,
    ) -> None:
        """Hand the weights to the library; sequences may have so many `positions`.

        Raises:
            MemoryError: no room for the threads.
        """
        self.vocab_size = shape.vocab
        self.bytes_per_token = kv_bytes_per_token(shape)
        self._shape = shape
        self._library = open_library(library)
        self.instructions: str = self._library.edged_instructions().decode()  # that the library was compiled for
        tables = tuple(each.table(positions) for each in ropes)
        self._kept = (weights, tables)  # the library has pointers into them
        self._logits: Logits = _aligned((0, shape.vocab), np.float32)
        layers = (LayerStruct * shape.layers)(
            *(
                layer_struct(layer, tables[kind.rope], kind.window)
                for layer, kind in zip(weights.layers, shape.layer_kinds, strict=True)
            )
        )
        described = ShapeStruct(
            layers=shape.layers,
            hidden=shape.hidden,
            mlp=shape.mlp,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            vocab=shape.vocab,
            threads=threads,
            activation=ACTIVATIONS.index(shape.activation),
            attention_scale=shape.attention_scale,
            eps=shape.eps,
            layer=layers,
            embedding_scale=pointer(weights.embedding_scale),
            norm=pointer(weights.norm),
            embedding=matrix_struct(Matrix(packed=weights.embedding, bias=None)),
            head=matrix_struct(Matrix(packed=weights.head, bias=None)),
        )
        self._handle: int | None = self._library.edged_open(ctypes.byref(described))
        if self._handle is None:
            raise MemoryError("no memory for the decoder's threads")

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._library.edged_close(self._handle)

    def allocate(self, capacity: int) -> NativeKV:
        keys, values = (_aligned(shape, np.uint16) for shape in self.kv_shapes(capacity))
        block = BlockStruct(keys=pointer(keys), values=pointer(values), capacity=values.shape[2])
        return NativeKV(keys=keys, values=values, block=block)

    def fork(self, source: NativeKV, length: int, capacity: int, *, borrow: bool = False) -> NativeKV:
        if source.lent is not None:
            raise ValueError("a sequence that borrows its beginning cannot be forked")
        lent = length // _TILE if borrow else 0  # tiles
        kv = self.allocate(capacity - lent * _TILE)
        if lent:
            kv.lent, kv.shared = source, lent * _TILE
        tiles = -(-length // _TILE)
        kv.keys[:, :, : tiles - lent] = source.keys[:, :, lent:tiles]
        kv.values[:, :, : length - kv.shared] = source.values[:, :, kv.shared : length]
        kv.length = length
        return kv

    def kv_arrays(self, kv: NativeKV) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Give keys and values to be kept in a file, with zeros behind the last position; see `PrefixModel`."""
        if kv.lent is not None:
            raise ValueError("a sequence that borrows its beginning cannot be kept")
        whole, begun = divmod(kv.length, _TILE)
        tiles = whole + (begun > 0)
        keys, values = kv.keys[:, :, :tiles].copy(), kv.values[:, :, : tiles * _TILE].copy()
        values[:, :, kv.length :] = 0
        if begun:
            keys[:, :, whole, :, begun:] = 0
        return keys, values

    def kv_shapes(self, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Give the shapes of `kv_arrays` for a sequence of this length."""
        s = self._shape
        tiles = -(-length // _TILE)
        return (s.layers, s.kv_heads, tiles, s.head_dim, _TILE), (s.layers, s.kv_heads, tiles * _TILE, s.head_dim)

    def kv_of(self, keys: npt.NDArray[Any], values: npt.NDArray[Any], length: int) -> NativeKV:
        """Make a sequence of arrays that `kv_arrays` gave; it is only read."""
        block = BlockStruct(keys=pointer(keys), values=pointer(values), capacity=values.shape[2])
        return NativeKV(keys=keys, values=values, block=block, length=length)

    def forward(self, spans: Sequence[Span[NativeKV]]) -> Logits:
        """Run one step; see `CausalModel.forward`. The next step overwrites the logits."""
        rows = _Rows()
        described = [rows.add(span) for span in spans]
        asked = (*rows.tokens, *(rows.words or ()))
        if asked and not (min(asked) >= 0 and max(asked) < self.vocab_size):
            raise ValueError("a token is outside the vocabulary")
        blocks = array("i", sorted({word // BLOCK for word in rows.words or ()}))
        count = len(rows.wanted)
        if count > len(self._logits):
            self._logits = _aligned((count, self.vocab_size), np.float32)
        failed = self._library.edged_step(
            self._handle,
            len(rows.tokens),
            rows.tokens.buffer_info()[0],
            rows.positions.buffer_info()[0],
            rows.parents.buffer_info()[0],
            len(described),
            ctypes.byref((SpanStruct * len(described))(*described)),
            count,
            rows.wanted.buffer_info()[0],
            len(blocks),
            blocks.buffer_info()[0],
            pointer(self._logits),
        )
        if failed:
            raise MemoryError("no memory for the step")
        for span in spans:
            span.kv.length += len(span.tokens)
        return self._logits[:count]


@dataclass(slots=True)
class _Rows:
    """The rows of a step, span after span.

    Attributes:
        parents: the row before each, within its span; -1 for a span's first.
        wanted: the rows whose logits are asked for.
        words: the tokens of the vocabulary that are asked for; None: all.
    """

    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    positions: "array[int]" = field(default_factory=lambda: array("i"))
    parents: "array[int]" = field(default_factory=lambda: array("i"))
    wanted: "array[int]" = field(default_factory=lambda: array("i"))
    words: set[int] | None = field(default_factory=set)

    def add(self, span: Span[NativeKV]) -> SpanStruct:
        """Append a span's rows; gives its description for the library.

        Raises:
            ValueError: the rows do not fit into the span's block.
        """
        kv, first, count = span.kv, len(self.tokens), len(span.tokens)
        past, rows = kv.length, count + len(span.branches)
        if past + rows > kv.capacity:
            raise ValueError(f"{past} + {rows} tokens do not fit into a block of {kv.capacity}")
        self.tokens.extend(span.tokens)
        self.positions.extend(range(past, past + count))
        self.parents.extend(range(-1, count - 1))
        for parent, token in span.branches:
            self.tokens.append(token)
            self.positions.append(self.positions[first + parent] + 1)
            self.parents.append(parent)
        self.wanted.extend(first + row for row in span.wanted)
        if span.wanted:
            self.words = self.words | set(span.words) if self.words is not None and span.words else None
        return SpanStruct(
            lent=BlockStruct() if kv.lent is None else kv.lent.block,
            own=kv.block,
            shared=kv.shared,
            past=past,
            first=first,
            tokens=count,
            rows=rows,
        )
