"""The file that keeps prepared weights: every tensor in the order of bytes in which it is used, mapped at a start.

It is a safetensors file. It is made of the checkpoint alone and may be deleted at any time. Knows nothing of what the
tensors mean.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from edged.engine.weights.formats import QuantisedFormat
from edged.engine.weights.gguf_parts import parts_of

log = structlog.get_logger(__name__)

Array = npt.NDArray[Any]
Entry = tuple[str, tuple[int, ...]]  # a tensor's type, as safetensors names it, and its shape

LAYOUT = "2"  # of the bytes; another one makes old prepared files void
_ALIGNMENT = 64  # a cache line
_MOST_HEADER = 100_000_000  # bytes; safetensors' own limit
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "U8": np.dtype(np.uint8),
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(np.uint16),  # numpy has no bf16
}


class Damaged(Exception):
    """A file is not a whole safetensors file of the types that are used here; the message says what is wrong."""


def prepared_folder(below: Path, model: Path, weight_format: QuantisedFormat, *, smooth: bool) -> Path:
    """Name the folder of a checkpoint's prepared form by the checkpoint's name, its place and the format.

    Args:
        below: where prepared forms are kept.
        model: the checkpoint.
        weight_format: into which it is rounded.
        smooth: whether it is prepared for kernels that round the activations too.
    """
    return below / f"{file_name_of(model)}-{weight_format}{'' if smooth else '-plain'}"


def file_name_of(model: Path) -> str:
    """Make a name for files that belong to a model: of its own name, and a hash of its place."""
    place = hashlib.sha256(os.fsencode(model.resolve())).hexdigest()[:12]
    return f"{model.stem or 'model'}-{place}"


def fingerprint(model: Path) -> str:
    """Give a mark of the present state of a checkpoint's files."""
    files = parts_of(model) if model.is_file() else sorted([*model.glob("*.safetensors"), model / "config.json"])
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([LAYOUT, state]).encode()).hexdigest()


def read(file: Path, made: str) -> dict[str, Array] | None:
    """Map a prepared file; None when there is none, or the checkpoint has changed since it was made."""
    try:
        metadata, tensors = map_file(file)
    except FileNotFoundError:
        return None
    except (OSError, Damaged) as error:
        log.warning("prepared_weights_unreadable", file=str(file), reason=" ".join(str(error).split()))
        return None
    return tensors if metadata.get("made_of") == made else None


def map_file(file: Path) -> tuple[Mapping[str, str], dict[str, Array]]:
    """Map a safetensors file: its metadata, and its tensors, which take memory only as far as they are read.

    Raises:
        OSError: it cannot be opened.
        Damaged: it is cut short, or is no such file.
    """
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if size < 8:
            raise Damaged("it is cut short")
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(mapped[:8], "little")
    if length > min(size - 8, _MOST_HEADER):
        raise Damaged("it is cut short, or no safetensors file")
    try:
        header: dict[str, Any] = json.loads(mapped[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        tensors = {name: _tensor(mapped, 8 + length, each) for name, each in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"it is cut short, or no safetensors file ({error})") from error
    return metadata, tensors


def _tensor(mapped: mmap.mmap, start: int, described: Mapping[str, Any]) -> Array:
    dtype, shape = _DTYPES[described["dtype"]], tuple(described["shape"])
    begin, end = described["data_offsets"]
    if begin < 0 or end - begin != prod(shape) * dtype.itemsize:
        raise ValueError("a tensor's place does not fit its shape")
    return np.frombuffer(mapped, dtype, prod(shape), start + begin).reshape(shape)  # raises beyond the end


def put_away(tensor: Array) -> None:
    """Have the file of a tensor of `map_file` take no memory of this process until it is read again."""
    mapped: Any = tensor
    while isinstance(mapped, np.ndarray | memoryview):
        mapped = mapped.base if isinstance(mapped, np.ndarray) else mapped.obj
    if isinstance(mapped, mmap.mmap):
        mapped.madvise(mmap.MADV_DONTNEED)


def write(
    file: Path,
    entries: Mapping[str, Entry],
    tensors: Iterator[tuple[str, Array]],
    metadata: Mapping[str, str],
    *,
    is_private: bool = False,
) -> None:
    """Write a safetensors file tensor by tensor, beside its place, and rename it into place at the end.

    The library's own `save_file` wants all tensors in memory at once, and does not align them to cache lines. A private
    file can be read by its owner alone.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, entry in entries.items():
        dtype, shape = entry
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (offset, offset + nbytes(entry))}
        offset += nbytes(entry)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(f".{os.getpid()}.part")
    try:
        if is_private:
            half.unlink(missing_ok=True)
            half.touch(mode=0o600)
        with half.open("wb") as opened:
            opened.write(len(text).to_bytes(8, "little") + text)
            for _, each in tensors:
                opened.write(np.ascontiguousarray(each).data)
            opened.flush()
            os.fsync(opened.fileno())
        half.replace(file)
    finally:
        half.unlink(missing_ok=True)


def nbytes(entry: Entry) -> int:
    """Give the bytes of a tensor."""
    dtype, shape = entry
    return prod(shape) * _DTYPES[dtype].itemsize
