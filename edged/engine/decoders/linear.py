"""Weight formats: how a matrix is held and multiplied, by device. Nothing else knows what a format means."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F  # noqa: N812 - the name that everybody knows it by

from edged.engine.weights.formats import GROUP, QUANTISED, DenseFormat, Format, Packed
from edged.engine.weights.packing import unpack, values4
from edged.errors import ModelUnavailable

_DTYPES: dict[DenseFormat, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


Linear = Callable[[torch.Tensor], torch.Tensor]  # (rows, in) -> (rows, out)


def compute_dtype(weight_format: Format) -> torch.dtype:
    """The type of activations, keys and values beside weights of this format."""
    if weight_format == "int8" or weight_format == "int4":  # noqa: PLR1714 - mypy follows this form alone
        return torch.bfloat16 if _cpu_multiplies_bf16() else torch.float32
    return _DTYPES[weight_format]


@dataclass(slots=True)
class Dense:
    """A matrix held as it is multiplied: `weight` (out, in), `bias` (out,)."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(slots=True)
class _Int8:
    """int8 weights times float activations: `weight` (out, in), `scales` (out,)."""

    weight: torch.Tensor
    scales: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._weight_int8pack_mm(x, self.weight, self.scales)  # type: ignore[no-any-return]  # noqa: SLF001


@dataclass(slots=True)
class _Int4:
    """int4 weights times float activations: `packed` in torch's order, `scales` (in / 32, out, 2)."""

    packed: torch.Tensor
    scales: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scales)  # type: ignore[no-any-return]  # noqa: SLF001


def quantised_linear(packed: Packed, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
    """Multiply by a packed matrix with torch's own kernels, which want it in orders of their own (a copy)."""
    product: Linear
    if packed.weight_format == "int8":  # for which the kernel has one scale an output: rounded once more
        weight = unpack(packed)
        scales = weight.abs().amax(dim=1).clamp_min(1e-30) / 127
        product = _Int8(weight=(weight / scales[:, None]).round_().to(torch.int8), scales=scales.to(dtype))
    else:
        values, scale, minimum = values4(packed)
        # The kernel's weight is (value - 8) * scale + zero.
        scales = torch.stack((scale.float(), minimum.float() + 8 * scale.float()), dim=-1).transpose(0, 1)
        order = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.to(torch.int32), 1)  # noqa: SLF001
        product = _Int4(packed=order, scales=scales.to(dtype).contiguous())
    added = None if bias is None else bias.to(dtype)
    if added is None:
        return lambda x: product(x.contiguous())[:, : packed.outputs]
    return lambda x: (product(x.contiguous()) + added)[:, : packed.outputs]


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


def choose_format(wanted: str, device: torch.device, *, can_quantise: bool, has_kernels: bool) -> Format:
    """Give the format for `auto` or the one that was asked for.

    Args:
        wanted: the setting.
        device: where the model will run.
        can_quantise: whether the model is one that int8 and int4 are built for.
        has_kernels: whether they run by our own kernels here; torch's are slower than bf16 for more than one row.

    Raises:
        ModelUnavailable: the format is not for this device or this model.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise ModelUnavailable("model.format fp16 is for a GPU; on a CPU set EDGED_MODEL__FORMAT=auto, int8 or bf16")
    if wanted in {"int8", "int4"} and device.type != "cpu":
        raise ModelUnavailable(f"model.format {wanted} is for a CPU; on a GPU set EDGED_MODEL__FORMAT=auto")
    if wanted in {"int8", "int4"} and not can_quantise:
        raise ModelUnavailable(
            f"model.format {wanted} is not built for this architecture or its sizes; set EDGED_MODEL__FORMAT=auto"
        )
    for name in (*_DTYPES, *QUANTISED):
        if name == wanted:
            return name
    if wanted != "auto":
        raise ModelUnavailable(f"model.format {wanted} is not known; there are: auto, {', '.join(_DTYPES)}, int8, int4")
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if can_quantise and has_kernels:
        return "int8"
    return "bf16" if _cpu_multiplies_bf16() else "fp32"


def _cpu_multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has bf16 instructions; without them bf16 is slower than fp32."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return False
    flags = {"avx512_bf16", "amx_bf16"} if platform.machine() in {"x86_64", "AMD64"} else {"bf16"}
    return not flags.isdisjoint(text.split())
