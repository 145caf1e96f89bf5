"""The weight formats, and what a matrix in 8 or 4 bits looks like in memory. Rounds nothing; knows no torch.

`packing.py` makes such matrices, `decoders/native` reads them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

DenseFormat = Literal["fp32", "bf16", "fp16"]
QuantisedFormat = Literal["int8", "int4"]
Format = DenseFormat | QuantisedFormat
QUANTISED: tuple[QuantisedFormat, ...] = ("int8", "int4")
GROUP = 32  # inputs that share a scale
BLOCK = 32  # outputs that stand side by side; a matrix is filled up to a multiple of this

_GROUP_BYTES: dict[QuantisedFormat, int] = {
    "int8": BLOCK * (GROUP + 2),  # scales in bf16
    "int4": BLOCK * (GROUP // 2 + 2),  # scales and minima in a byte each
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A matrix of (outputs, inputs) in 8 or 4 bits.

    Attributes:
        blocks: (outputs / 32, inputs / 32, bytes of a group), outputs rounded up to 32.
        outputs: how many there are without the filling.
        factors: of int4, fp32, (2, outputs rounded up): of each output the factor of its scales, and its base.
    """

    blocks: npt.NDArray[np.uint8]
    outputs: int
    factors: npt.NDArray[np.float32] | None = None

    @property
    def inputs(self) -> int:
        return int(self.blocks.shape[1]) * GROUP

    @property
    def weight_format(self) -> QuantisedFormat:
        return "int8" if self.blocks.shape[2] == _GROUP_BYTES["int8"] else "int4"


def packed_shape(outputs: int, inputs: int, weight_format: QuantisedFormat) -> tuple[int, int, int]:
    """The shape of `Packed.blocks`."""
    return -(-outputs // BLOCK), inputs // GROUP, _GROUP_BYTES[weight_format]
