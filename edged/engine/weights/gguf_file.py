"""The GGUF container: metadata, and tensors one at a time under the names the file gives them.

Reads little-endian files of versions 2 and 3 (the format: ggml's docs/gguf.md). Knows nothing of what the
metadata means for a model; see `gguf_model.py` for that.
"""

import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from edged.engine.weights.gguf_parts import parts_of
from edged.errors import ModelUnavailable

Value = int | float | bool | str | list[Any]

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT = 32
_PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
# Blocks become fp32 this many weights at a time: the copies that are made on the way stay small.
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """Where a tensor is and how it is held; `shape` in torch's order, `offset` from the start of its part."""

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    nbytes: int
    part: int = 0


class GgufFile:
    """An opened file, or all parts of one that was split; it stays mapped as long as this object lives."""

    def __init__(
        self, path: Path, data: Sequence[mmap.mmap], metadata: Mapping[str, Value], tensors: Mapping[str, TensorInfo]
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self.data = data

    def read(self, name: str) -> torch.Tensor:
        """Give a tensor's values: plain types as they are held, quantised blocks as fp32.

        Raises:
            ModelUnavailable: the tensor's blocks are of a kind that is not read.
        """
        info = self.tensors[name]
        data = self.data[info.part]
        if info.kind in _PLAIN:
            held = np.frombuffer(data, np.uint8, info.nbytes, info.offset).copy()
            return torch.from_numpy(held).view(_PLAIN[info.kind]).reshape(info.shape)
        columns = info.shape[-1]
        rows = prod(info.shape[:-1])
        blocks = np.frombuffer(data, np.uint8, info.nbytes, info.offset).reshape(rows, -1)
        values = torch.empty((rows, columns), dtype=torch.float32)
        step = max(_CHUNK // columns, 1)
        try:
            for first in range(0, rows, step):
                values.numpy()[first : first + step] = gguf.dequantize(blocks[first : first + step], info.kind)
        except NotImplementedError as error:
            raise ModelUnavailable(
                f"{self.path} holds {name} as {info.kind.name}, which is not read; take the model in another "
                "quantisation, for example Q8_0 or Q4_1"
            ) from error
        return values.reshape(info.shape)

    def with_parts(self, others: Sequence["GgufFile"]) -> "GgufFile":
        """Give the whole file of which this one is the first part."""
        tensors = dict(self.tensors)
        for number, other in enumerate(others, start=1):
            tensors |= {name: replace(info, part=number) for name, info in other.tensors.items()}
        return GgufFile(self.path, [each.data[0] for each in (self, *others)], self.metadata, tensors)

    def place(self) -> tuple[int, int]:
        """Tell which part this is, counted from 0, and of how many."""
        number, count = (self.metadata.get(f"split.{key}", 0) for key in ("no", "count"))
        return (number, count) if isinstance(number, int) and isinstance(count, int) and count > 1 else (0, 1)


def open_gguf(path: Path) -> GgufFile:
    """Open a file, or all parts of one of which `path` is a part, and read all but its tensors.

    Raises:
        ModelUnavailable: it is no GGUF file, is cut short, is of a version that is not read, or lacks a part.
    """
    first = _open_one(path)
    number, count = first.place()
    if count == 1:
        return first
    paths = parts_of(path)

    def refused(why: str) -> ModelUnavailable:
        return ModelUnavailable(
            f"{path} is part {number + 1} of {count} of a GGUF file that was split: join them (llama-gguf-split "
            f"--merge FIRST_PART JOINED.gguf), and name the joined file in EDGED_MODEL__ID, for {why}"
        )

    if len(paths) != count:
        raise refused("its name does not tell those of the others (NAME-00001-of-00002.gguf)")
    parts = []
    for index, each in enumerate(paths):
        if not each.is_file():
            raise refused(f"{each.name} is missing")
        parts.append(_open_one(each))
        if parts[-1].place() != (index, count):
            raise refused(f"{each.name} is not part {index + 1} of it")
    return parts[0].with_parts(parts[1:])


def _open_one(path: Path) -> GgufFile:
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelUnavailable(f"{path} is not a GGUF file")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelUnavailable(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _parse(path, data)
    except _CutShort as error:
        raise ModelUnavailable(f"{path} is cut short: it has {len(data)} bytes and {error}; fetch it again") from error
    except (ValueError, struct.error) as error:
        raise ModelUnavailable(f"{path} is damaged ({error}); fetch it again") from error


class _CutShort(Exception):
    """The file ends before what it promises."""


@dataclass(slots=True)
class _Reader:
    """Reads values one after the other."""

    data: mmap.mmap
    at: int

    def scalar(self, form: str) -> Any:
        size = struct.calcsize(form)
        self._need(size)
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return value

    def string(self) -> str:
        length = self.scalar("<Q")
        self._need(length)
        text = self.data[self.at : self.at + length].decode()
        self.at += length
        return text

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise ValueError(f"a value of the unknown type {kind}")
        scalar: Value = self.scalar(_SCALARS[kind])
        return scalar

    def _array(self) -> list[Any]:
        kind, count = self.scalar("<I"), self.scalar("<Q")
        if kind == _STRING:
            return [self.string() for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"an array of type {kind}")
        form = _SCALARS[kind]
        self._need(count * struct.calcsize(form))
        values = struct.unpack_from(f"<{count}{form[1]}", self.data, self.at)
        self.at += count * struct.calcsize(form)
        return list(values)

    def _need(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise _CutShort("its header goes on beyond them")


def _parse(path: Path, data: mmap.mmap) -> GgufFile:
    reader = _Reader(data, at=4)
    version = reader.scalar("<I")
    if version not in {2, 3}:
        raise ValueError(f"version {version}; 2 and 3 are read, little-endian")
    tensor_count, metadata_count = reader.scalar("<Q"), reader.scalar("<Q")
    metadata = dict(_metadata(reader) for _ in range(metadata_count))
    infos = dict(_tensor_info(reader) for _ in range(tensor_count))
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"an alignment of {alignment}")
    start = -(-reader.at // alignment) * alignment
    tensors = {name: _placed(info, start) for name, info in infos.items()}
    end = max((info.offset + info.nbytes for info in tensors.values()), default=start)
    if end > len(data):
        raise _CutShort(f"should have {end}")
    return GgufFile(path, [data], metadata, tensors)


def _metadata(reader: _Reader) -> tuple[str, Value]:
    return reader.string(), reader.value(reader.scalar("<I"))


def _tensor_info(reader: _Reader) -> tuple[str, TensorInfo]:
    """A tensor's entry; its offset still counts from where the tensors begin."""
    name = reader.string()
    dimensions = reader.scalar("<I")
    if not 1 <= dimensions <= 4:
        raise ValueError(f"tensor {name} of {dimensions} dimensions")
    shape = tuple(reversed([reader.scalar("<Q") for _ in range(dimensions)]))  # the file has the fastest one first
    kind = GGMLQuantizationType(reader.scalar("<I"))
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise ValueError(f"tensor {name} has rows of {shape[-1]}, no multiple of {kind.name}'s block of {block}")
    nbytes = prod(shape) // block * block_bytes
    return name, TensorInfo(shape=shape, kind=kind, offset=reader.scalar("<Q"), nbytes=nbytes)


def _placed(info: TensorInfo, start: int) -> TensorInfo:
    return TensorInfo(shape=info.shape, kind=info.kind, offset=start + info.offset, nbytes=info.nbytes)
