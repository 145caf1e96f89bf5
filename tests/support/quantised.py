"""Tiny random models in int8 and int4, on torch's kernels and on those that this box can compile."""

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from edged.engine.decoders import lean as decoder
from edged.engine.decoders import native
from edged.engine.weights.packing import QuantisedFormat
from edged.engine.weights.quantised import QuantisedWeights, open_quantised
from edged.engine.weights.shape import DecoderShape, rope_angles
from tests.support import tiny

POSITIONS = 1024
_SAMPLE = tiny.random_tokens(90, 512)


def weights_of(
    model: PreTrainedModel, weight_format: QuantisedFormat, *, smooth: bool, folder: Path | None = None
) -> QuantisedWeights:
    tensors = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]

    def get(name: str, _: tuple[int, ...]) -> torch.Tensor:
        tensor: torch.Tensor = tensors[name]
        return tensor

    return open_quantised(
        Path(__file__),  # stands for the checkpoint's file
        DecoderShape.of(model.config, has_head="lm_head.weight" in tensors),
        weight_format,
        tensor=get,
        has=tensors.__contains__,
        folder=folder,
        sizes=partial(
            decoder.input_sizes, model.config, tensor=get, has=tensors.__contains__, tokens=tiny.random_tokens(90, 512)
        ),
        smooth=smooth,
    )


def native_model(
    model: PreTrainedModel, weights: QuantisedWeights, kernels: str, libraries: Path, *, threads: int = 2
) -> native.NativeDecoder:
    """A decoder of packed weights on the kernels of that name, compiled into `libraries` once."""
    target = next(each for each in native.instructions() if each.name == kernels)
    try:
        library = native.compile_for(target, libraries)
    except native.NotBuilt as error:
        pytest.skip(str(error))
    shape = DecoderShape.of(model.config, has_head=weights.head is not weights.embedding)
    angles, scale = rope_angles(model.config, shape, POSITIONS)
    rope = torch.stack((angles.cos(), angles.sin())) * scale
    return native.NativeDecoder(library, shape, weights, rope, threads=threads)
