"""What the native decoder hands to its compiled library: the structures of `native/interface.h`, and its functions.

The library is called through ctypes, so that no build needs headers of Python or torch. A structure points into
arrays; whoever makes one keeps the arrays.
"""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.engine.weights.architectures.architecture import Activation
from edged.engine.weights.formats import BLOCK
from edged.engine.weights.quantised import LayerWeights, Matrix

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int32
ACTIVATIONS: tuple[Activation, ...] = ("silu", "gelu_tanh")  # as `Activation` of the header numbers them


class MatrixStruct(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("blocks", "factors", "bias")),
        *((name, _INT) for name in ("outputs", "inputs", "bits")),
    ]


class LayerStruct(ctypes.Structure):
    _fields_ = [
        ("attention_norm", _POINTER),
        ("q_norm", _POINTER),
        ("k_norm", _POINTER),
        ("mlp_norm", _POINTER),
        ("attention_out_norm", _POINTER),
        ("mlp_out_norm", _POINTER),
        ("cos", _POINTER),
        ("sin", _POINTER),
        ("window", _INT),
        ("qkv", MatrixStruct),
        ("out", MatrixStruct),
        ("gate_up", MatrixStruct),
        ("down", MatrixStruct),
    ]


class ShapeStruct(ctypes.Structure):
    _fields_ = [
        *((name, _INT) for name in ("layers", "hidden", "mlp", "heads", "kv_heads", "head_dim", "vocab")),
        ("threads", _INT),
        ("activation", _INT),
        ("attention_scale", ctypes.c_float),
        ("eps", ctypes.c_float),
        ("layer", ctypes.POINTER(LayerStruct)),
        ("embedding_scale", _POINTER),
        ("norm", _POINTER),
        ("embedding", MatrixStruct),
        ("head", MatrixStruct),
    ]


class BlockStruct(ctypes.Structure):
    _fields_ = [("keys", _POINTER), ("values", _POINTER), ("capacity", _INT)]


class SpanStruct(ctypes.Structure):
    _fields_ = [
        ("lent", BlockStruct),
        ("own", BlockStruct),
        *((name, _INT) for name in ("shared", "past", "first", "tokens", "rows")),
    ]


def pointer(array: npt.NDArray[Any] | None) -> int | None:
    return None if array is None else int(array.ctypes.data)


def matrix_struct(matrix: Matrix) -> MatrixStruct:
    packed = matrix.packed
    return MatrixStruct(
        blocks=pointer(packed.blocks),
        factors=pointer(packed.factors),
        bias=pointer(matrix.bias),
        outputs=packed.blocks.shape[0] * BLOCK,
        inputs=packed.inputs,
        bits=8 if packed.weight_format == "int8" else 4,
    )


def layer_struct(layer: LayerWeights, table: npt.NDArray[np.float32], window: int) -> LayerStruct:
    """Describe a layer.

    Args:
        layer: its weights.
        table: cosines and sines by which it rotates.
        window: how many positions a row sees; 0 for all.
    """
    cos, sin = table
    return LayerStruct(
        attention_norm=pointer(layer.attention_norm),
        q_norm=pointer(layer.q_norm),
        k_norm=pointer(layer.k_norm),
        mlp_norm=pointer(layer.mlp_norm),
        attention_out_norm=pointer(layer.attention_out_norm),
        mlp_out_norm=pointer(layer.mlp_out_norm),
        cos=pointer(cos),
        sin=pointer(sin),
        window=window,
        qkv=matrix_struct(layer.qkv),
        out=matrix_struct(layer.out),
        gate_up=matrix_struct(layer.gate_up),
        down=matrix_struct(layer.down),
    )


def open_library(library: Path) -> ctypes.CDLL:
    """Load the library and declare its functions, as `native/native.cpp` has them."""
    loaded = ctypes.CDLL(str(library))
    loaded.edged_instructions.restype = ctypes.c_char_p
    loaded.edged_instructions.argtypes = []
    loaded.edged_open.restype = _POINTER
    loaded.edged_open.argtypes = [_POINTER]
    loaded.edged_close.argtypes = [_POINTER]
    loaded.edged_close.restype = None
    loaded.edged_step.argtypes = [
        _POINTER, _INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER, _INT, _POINTER, _INT, _POINTER, _POINTER,
    ]  # fmt: skip
    return loaded
