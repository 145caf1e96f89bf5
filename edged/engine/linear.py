"""Weight formats: how a matrix is held and multiplied, by device. Nothing else knows what a format means."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional as F  # noqa: N812 - the name that everybody knows it by

from edged.errors import ModelUnavailable

Format = Literal["fp32", "bf16", "fp16"]
_DTYPES: dict[Format, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Linear = Callable[[torch.Tensor], torch.Tensor]  # (rows, in) -> (rows, out)


def compute_dtype(weight_format: Format) -> torch.dtype:
    """The type of activations, keys and values beside weights of this format."""
    return _DTYPES[weight_format]


@dataclass(slots=True)
class Dense:
    """A matrix held as it is multiplied: `weight` (out, in), `bias` (out,)."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


def padded_rows(rows: int, weight_format: Format, device: torch.device) -> int:
    """How many rows a step of `rows` should have: a few sizes only, where each new size costs memory.

    oneDNN, which multiplies bf16 on a CPU, compiles and keeps code and scratch memory for every number of rows that
    it meets: some 700 MB after all sizes up to 300 were met, 28 MB with the sizes of this function.
    """
    if weight_format != "bf16" or device.type != "cpu":
        return rows
    power = 1 << max(rows - 1, 0).bit_length()
    return 3 * power // 4 if power >= 4 and 3 * power // 4 >= rows else power  # 1, 2, 3, 4, 6, 8, 12, 16, 24, ...


def choose_device(wanted: str) -> torch.device:
    """Give the device for `auto`, `cpu` or `cuda`.

    Raises:
        ModelUnavailable: cuda was asked for and torch has none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelUnavailable(
            "model.device is cuda, but torch finds no GPU here: install with `deploy/install.sh --cuda` on a box "
            "with an NVIDIA driver, or set EDGED_MODEL__DEVICE=cpu"
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def choose_format(wanted: str, device: torch.device) -> Format:
    """Give the format for `auto` or the one that was asked for.

    Raises:
        ModelUnavailable: fp16 on a CPU, where torch multiplies it slowly and overflows.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise ModelUnavailable("model.format fp16 is for a GPU; on a CPU set EDGED_MODEL__FORMAT=auto, bf16 or fp32")
    if wanted != "auto":
        return _known(wanted)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _cpu_multiplies_bf16() else "fp32"


def _known(wanted: str) -> Format:
    for name in _DTYPES:
        if name == wanted:
            return name
    raise ModelUnavailable(f"model.format {wanted} is not known; there are: auto, {', '.join(_DTYPES)}")


def _cpu_multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has bf16 instructions; without them bf16 is slower than fp32."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return False
    flags = {"avx512_bf16", "amx_bf16"} if platform.machine() in {"x86_64", "AMD64"} else {"bf16"}
    return not flags.isdisjoint(text.split())
