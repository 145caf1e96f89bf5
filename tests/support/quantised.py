"""Tiny random models in int8 and int4, on torch's kernels and on those that this box can compile."""

import os
import platform
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from edged.engine.decoders import lean_loading, native, native_library
from edged.engine.decoders.native_sets import InstructionSet, file_name
from edged.engine.weights.architectures.table import decoder_shape
from edged.engine.weights.formats import QuantisedFormat
from edged.engine.weights.preparing import open_quantised
from edged.engine.weights.quantised import QuantisedWeights
from edged.engine.weights.rope import ropes_of
from tests.support import assets, tiny

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
        decoder_shape(model.config),
        weight_format,
        tensor=get,
        folder=folder,
        sizes=partial(lean_loading.input_sizes, model.config, tensor=get, tokens=tiny.random_tokens(90, 512)),
        smooth=smooth,
    )


def native_model(
    model: PreTrainedModel, weights: QuantisedWeights, kernels: str, libraries: Path, *, threads: int = 2
) -> native.NativeDecoder:
    """A decoder of packed weights on the kernels of that name, compiled into `libraries` once or taken from a wheel."""
    target = next(each for each in native_library.instructions() if each.name == kernels)
    try:
        library = _from_wheel(target) or native_library.compile_for(target, libraries)
    except native_library.NotBuilt as error:
        pytest.skip(str(error))
    shape = decoder_shape(model.config)
    ropes = ropes_of(model.config, shape)
    return native.NativeDecoder(library, shape, weights, ropes, positions=POSITIONS, threads=threads)


def _from_wheel(target: InstructionSet) -> Path | None:
    """What `deploy/build.sh` compiled, if it did: that is quicker. The best set is compiled here all the same."""
    if "EDGED_TEST_BUILD" not in os.environ or target is native_library.instructions()[0]:
        return None
    library = assets.build() / "wheels/kernels" / platform.machine() / file_name(target)
    return library if library.exists() else None
