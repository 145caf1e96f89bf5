"""Weights in 8 or 4 bits are rounded by torch, once, into the file that later starts only map.

Rounding takes much longer than reading. Knows no kernel.
"""

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import structlog

from edged.engine.weights.architectures.architecture import DecoderShape, GetTensor, tensors_of
from edged.engine.weights.formats import QuantisedFormat
from edged.engine.weights.layout import entries_of, pieces_of
from edged.engine.weights.pieces import InputSizes, make, smoothing_of
from edged.engine.weights.prepared_file import fingerprint, prepared_folder, read, write
from edged.engine.weights.quantised import QuantisedWeights, assemble
from edged.models.bundle import MANIFEST, WEIGHTS

log = structlog.get_logger(__name__)


def open_quantised(
    path: Path,
    shape: DecoderShape,
    weight_format: QuantisedFormat,
    *,
    tensor: GetTensor,
    folder: Path | None,
    sizes: Callable[[], Mapping[str, InputSizes]],
    smooth: bool,
) -> QuantisedWeights:
    """Map the prepared file, and make it first if it is not there. Without a folder for it, hold the weights in memory.

    Args:
        path: the checkpoint.
        shape: its sizes, which `fits` accepts.
        weight_format: into which they are rounded.
        tensor: reads a tensor of the checkpoint by name and checks its shape; raises ModelUnavailable.
        folder: where prepared files are kept.
        sizes: see `lean_loading.input_sizes`; called only when the weights are rounded.
        smooth: whether the activations will be rounded too, so that outliers among them must be made smaller.

    Raises:
        ModelUnavailable: a tensor of the checkpoint is missing or broken.
    """
    pieces = pieces_of(shape, weight_format)
    made = fingerprint(path)
    file = None if folder is None else prepared_folder(folder, path, weight_format, smooth=smooth) / WEIGHTS
    entries = entries_of(pieces)
    tensors = None if file is None else read(file, made)
    if tensors is None or tensors.keys() != entries.keys():
        log.info("preparing_weights", format=weight_format, once=file is not None)
        tensors = None
        seen = sizes()
        smoothing = smoothing_of(pieces, seen) if smooth else {}
        if file is not None:
            try:
                (file.parent / MANIFEST).unlink(missing_ok=True)  # of the bundle that was made of the old weights
                write(file, entries, make(tensor, pieces, seen, smoothing), {"made_of": made})
                tensors = read(file, made)
            except OSError as error:
                log.warning("weights_not_kept", file=str(file), reason=error.strerror or str(error))
        if tensors is None:
            tensors = dict(make(tensor, pieces, seen, smoothing))
    parameters = sum(prod(each) for each in tensors_of(shape).values())
    return assemble(tensors, shape, weight_format, parameters)
