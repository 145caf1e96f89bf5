"""The file that keeps prepared weights: every tensor in the order of bytes in which it is used, mapped at a start.

The file is made of the checkpoint alone and may be deleted at any time. Knows nothing of what the tensors mean.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors import SafetensorError, safe_open

log = structlog.get_logger(__name__)

Entry = tuple[torch.dtype, tuple[int, ...]]  # a tensor's type and shape

_LAYOUT = "1"  # of the bytes; another one makes old prepared files void
_ALIGNMENT = 64  # a cache line
_DTYPES = {"U8": torch.uint8, "F32": torch.float32}


def file_name(model: Path, kind: str) -> str:
    """Name the prepared file of a checkpoint: its own name, where it is, and how it was prepared."""
    place = hashlib.sha256(os.fsencode(model.resolve())).hexdigest()[:12]
    return f"{model.stem or 'model'}-{place}-{kind}.safetensors"


def fingerprint(model: Path) -> str:
    """Give a mark of the present state of a checkpoint's files."""
    files = [model] if model.is_file() else sorted([*model.glob("*.safetensors"), model / "config.json"])
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([_LAYOUT, state]).encode()).hexdigest()


def read(file: Path, made: str) -> dict[str, torch.Tensor] | None:
    """Map a prepared file; None when there is none, or the checkpoint has changed since it was made."""
    try:
        with safe_open(file, framework="pt") as mapped:
            if (mapped.metadata() or {}).get("made_of") != made:
                return None
            return {name: mapped.get_tensor(name) for name in mapped.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.warning("prepared_weights_unreadable", file=str(file), reason=" ".join(str(error).split()))
        return None


def write(
    file: Path,
    entries: Mapping[str, Entry],
    tensors: Iterator[tuple[str, torch.Tensor]],
    made: str,
) -> None:
    """Write a safetensors file tensor by tensor, beside its place, and rename it into place at the end.

    The library's own `save_file` wants all tensors in memory at once, and does not align them to cache lines.
    """
    names = {dtype: name for name, dtype in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"made_of": made}}
    offset = 0
    for name, entry in entries.items():
        dtype, shape = entry
        header[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": (offset, offset + nbytes(entry))}
        offset += nbytes(entry)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(f".{os.getpid()}.part")
    try:
        with half.open("wb") as opened:
            opened.write(len(text).to_bytes(8, "little") + text)
            for _, each in tensors:
                opened.write(each.contiguous().numpy().data)
            opened.flush()
            os.fsync(opened.fileno())
        half.replace(file)
    finally:
        half.unlink(missing_ok=True)


def nbytes(entry: Entry) -> int:
    """Give the bytes of a tensor."""
    dtype, shape = entry
    return prod(shape) * dtype.itemsize
