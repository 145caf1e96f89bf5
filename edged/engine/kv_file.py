"""Keys and values in a file, for a later start of the same model by the same kernels. It is a safetensors file.

The header of the file says of what it was made, what the keys and values are, and a checksum of all that. A file that
was made of something else, or is damaged, counts as none. Knows no prompt and no conversation.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edged import __version__
from edged.engine.decoders.interface import K
from edged.engine.weights import prepared_file
from edged.engine.weights.prepared_file import Array, Damaged, Entry, map_file
from edged.models.bundle import MANIFEST, WEIGHTS

_FORM = 1  # of the file, and of how the decoder lays out keys and values
_READ_AT_ONCE = 1 << 20
_KEPT_FREE = 2  # a file is written only where the disk has room for so many of its size
_ITEM = 2  # bytes of a number of keys or values


class KVModel(Protocol[K]):
    """A decoder whose keys and values can be kept in a file."""

    def kv_arrays(self, kv: K) -> tuple[Array, Array]:
        """Keys and values of a sequence that borrows nothing, with zeros where it holds no position."""
        ...

    def kv_shapes(self, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the keys and values of a sequence of this length."""
        ...

    def kv_of(self, keys: Array, values: Array, length: int) -> K:
        """A sequence of keys and values that are only read; others may be forked from it."""
        ...


def mark_of(bundle: Path, library: Path, *, half_width: bool) -> str:
    """Name a bundle in its present state, a library of kernels, and what else the priors depend on.

    Args:
        bundle: its folder.
        library: of the kernels.
        half_width: see `Prompter`.

    Raises:
        OSError: a file of the bundle is missing.
    """
    weights = (bundle / WEIGHTS).stat()
    manifest = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    said = [_FORM, __version__, manifest, weights.st_size, weights.st_mtime_ns, library.name, half_width]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What a file has: its content in words (JSON), and the keys and values of sequences."""

    content: str
    sequences: list[tuple[Array, Array]]


def read(file: Path, made_of: str) -> Stored | None:
    """Map a file and read every byte of it once; None if it was made of something else.

    Raises:
        OSError: it cannot be read.
        Damaged: it is not whole.
    """
    metadata, tensors = map_file(file)
    if metadata.get("made_of") != made_of:
        return None
    content = metadata.get("content", "")
    if metadata.get("checksum") != _checksum(content, _blocks(file)):
        raise Damaged("its checksum is wrong")
    count, odd = divmod(len(tensors), 2)
    if odd or tensors.keys() != {str(n) for n in range(2 * count)}:
        raise Damaged("it does not have the tensors that it names")
    return Stored(content=content, sequences=[(tensors[str(2 * n)], tensors[str(2 * n + 1)]) for n in range(count)])


def write(
    file: Path,
    sequences: Callable[[], Iterator[tuple[Array, Array]]],
    *,
    made_of: str,
    content: str,
    more: Mapping[str, str] | None = None,
    is_private: bool = False,
) -> None:
    """Replace the file.

    Args:
        file: in a folder that exists.
        sequences: gives the keys and values; called twice, so that not all of them need be in memory at once.
        made_of: see `mark_of`.
        content: what the keys and values are.
        more: further metadata.
        is_private: whether only its owner may read the file.

    Raises:
        OSError: it cannot be written, or the disk is nearly full.
    """
    digest = hashlib.blake2b(content.encode(), digest_size=32)
    entries: dict[str, Entry] = {}
    size = 0
    for array in _arrays(sequences()):
        digest.update(array.data)
        entries[str(len(entries))] = ("BF16", array.shape)
        size += array.nbytes
    if shutil.disk_usage(file.parent).free < _KEPT_FREE * size:
        raise OSError(errno.ENOSPC, "the disk is nearly full")
    metadata = {"made_of": made_of, "content": content, "checksum": digest.hexdigest(), **(more or {})}
    named = ((str(n), array) for n, array in enumerate(_arrays(sequences())))
    prepared_file.write(file, entries, named, metadata, is_private=is_private)


def nbytes(model: KVModel[Any], length: int) -> int:
    """Give the bytes in a file of the keys and values of a sequence of this length."""
    return sum(_ITEM * int(np.prod(shape)) for shape in model.kv_shapes(length))


def taken(model: KVModel[K], arrays: tuple[Array, Array], length: int) -> K | None:
    """Make a sequence of arrays of a file; None if they are not those of a sequence of this length."""
    keys, values = arrays
    if (keys.shape, values.shape) != model.kv_shapes(length):
        return None
    return model.kv_of(keys, values, length)


def in_words(error: Exception) -> str:
    """Give the reason of an error, in one line."""
    return " ".join(str(error).split())[:200]


def _arrays(sequences: Iterable[tuple[Array, Array]]) -> Iterator[Array]:
    for pair in sequences:
        yield from map(np.ascontiguousarray, pair)


def _checksum(content: str, data: Iterable[Any]) -> str:
    digest = hashlib.blake2b(content.encode(), digest_size=32)
    for block in data:
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    """The bytes behind the header. They are read, not mapped: what is only added up here need not stay in memory."""
    with file.open("rb") as opened:
        opened.seek(8 + int.from_bytes(opened.read(8), "little"))
        while block := opened.read(_READ_AT_ONCE):
            yield block
