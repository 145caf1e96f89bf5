"""From a checkpoint, a model's folder or GGUF file, to a model ready to run: which decoder, which format.

What int8 and int4 need at the next start goes into a bundle, so that start needs none of this, and no torch.
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, cast

import psutil
import structlog
import torch

from edged.engine import bundle_making, bundled
from edged.engine.checkpoint_tokenizer import CheckpointTokenizer
from edged.engine.decoders import lean_loading
from edged.engine.decoders.lean import Decoder
from edged.engine.decoders.linear import choose_device, choose_format, compute_dtype
from edged.engine.decoders.native import NativeDecoder, kv_bytes_per_token
from edged.engine.loaded import Loaded
from edged.engine.memory_plan import MIB, TORCH_BYTES, MemoryPlan, check_memory, plan_memory
from edged.engine.plan import (
    Built,
    Opened,
    Plan,
    bind,
    context_tokens,
    kernels_of,
    loaded_of,
    prompter_of,
    with_threads,
)
from edged.engine.tokenizer import ModelTokenizer
from edged.engine.weights.architectures.architecture import SPARE_POSITIONS, DecoderShape, tensors_of
from edged.engine.weights.architectures.table import decoder_shape, supports, unknown_tensors
from edged.engine.weights.checkpoint import Checkpoint, open_checkpoint
from edged.engine.weights.formats import QUANTISED, DenseFormat, Format, QuantisedFormat
from edged.engine.weights.pieces import InputSizes
from edged.engine.weights.prepared_file import prepared_folder
from edged.engine.weights.preparing import open_quantised
from edged.engine.weights.quantised import QuantisedWeights, fits, packed_bytes, resident_bytes
from edged.engine.weights.rope import Rope, ropes_of
from edged.models.bundle import WEIGHTS

log = structlog.get_logger(__name__)

_TORCH_THREADS = torch.get_num_threads()  # before this module changes it

# Text of many kinds, to find the large channels of a model; they hardly depend on the text.
_SAMPLE = """The pump in hall 3 runs hot again: 4.2 bar at 18:30, and nobody answers the phone!
I love this little box, it wakes me with music. What should I cook tonight? Maybe soup, with bread and cheese.
Q: Why is the sky blue? A: Because air scatters blue light more than red.
def add(a, b): return a + b  # {"id": 7, "ok": true}
今天天气很好，我们去公园吧。这个手机太差了，屏幕碎了，客服也不理我。
user: Please summarise the minutes of the meeting. assistant: Of course. First, the budget was agreed."""


@torch.inference_mode()
def load(plan: Plan, available_bytes: Callable[[], int]) -> Loaded[Any]:
    """Load a checkpoint for the engine; see `loading.load`."""
    begin = time.perf_counter()
    device = choose_device(plan.model.device)
    checkpoint = open_checkpoint(plan.path)
    opened = opened_of(checkpoint)
    context = context_tokens(opened.max_context, plan.engine)
    prompter = prompter_of(opened, plan, context)
    free = available_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    plan, chosen = with_threads(plan, at_most=_TORCH_THREADS)
    if chosen.stay_on:
        bind(chosen.stay_on)
    built = _build(plan, checkpoint, device, context, free)
    memory = plan_memory(
        plan.engine,
        weights=built.weight_bytes,
        one_context=context * built.model.bytes_per_token,
        process=TORCH_BYTES if device.type == "cpu" else 0,
        free=free,
    )
    if device.type != "cpu" and isinstance(built.model, Decoder):
        built.model.reserve((memory.kv + memory.prefix_cache) // built.model.bytes_per_token)
    return loaded_of(plan, opened, built, prompter, memory=memory, context=context, cores=chosen, begin=begin)


def examine(plan: Plan) -> tuple[Opened, int, MemoryPlan | None]:
    """See that a checkpoint can be loaded; reads every tensor, runs nothing.

    Returns:
        What it is, its number of parameters, and what it will need of the memory, where that can be told.

    Raises:
        ModelUnavailable: as `loading.load` says it.
    """
    device = choose_device(plan.model.device)
    checkpoint = open_checkpoint(plan.path)
    opened = opened_of(checkpoint)
    context = context_tokens(opened.max_context, plan.engine)
    prompter_of(opened, plan, context)  # a template that cannot be used is told before the tensors are read
    shape = lean_shape(checkpoint, context)
    can_quantise = shape is not None and fits(shape)
    weight_format = choose_format(plan.model.format, device, can_quantise=can_quantise, has_kernels=False)
    memory = None
    if shape is not None and device.type == "cpu":
        memory = _memory_of(plan, shape, weight_format, context)
    if shape is None:
        from edged.engine.decoders import generic_loading  # noqa: PLC0415 - it takes 1.5 s, and most models do without

        generic_loading.examine(checkpoint.path, checkpoint.config)
    checkpoint.read_all()
    return opened, checkpoint.parameters, memory


def _memory_of(plan: Plan, shape: DecoderShape, weight_format: Format, context: int) -> MemoryPlan:
    """Plan the memory; refuses sizes of the settings that this box could not hold if all its memory were free."""
    if weight_format in QUANTISED:
        one_token, weights = kv_bytes_per_token(shape), resident_bytes(shape, weight_format)
    else:
        itemsize = compute_dtype(cast("DenseFormat", weight_format)).itemsize
        one_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * itemsize
        weights = itemsize * sum(prod(each) for each in tensors_of(shape).values())
    return plan_memory(
        plan.engine,
        weights=weights,
        one_context=context * one_token,
        process=TORCH_BYTES,
        free=psutil.virtual_memory().total,
    )


def opened_of(checkpoint: Checkpoint) -> Opened:
    """What a checkpoint says of its model."""
    return Opened(
        architecture=(checkpoint.config.architectures or ["unknown"])[0],
        tokenizer=cast("ModelTokenizer", CheckpointTokenizer(checkpoint.tokenizer)),
        vocab_size=checkpoint.vocab_size,
        end_tokens=checkpoint.end_tokens,
        always_begins=checkpoint.always_begins,
        max_context=getattr(checkpoint.config.get_text_config(), "max_position_embeddings", None),
        sampling=checkpoint.sampling,
    )


def prepare(plan: Plan) -> str:
    """Do now what the first start would do: compile the kernels, round the weights. Says in words what was done.

    Raises:
        ModelUnavailable: as `load` does.
    """
    begin = time.perf_counter()
    plan, _ = with_threads(plan, at_most=_TORCH_THREADS)
    device = choose_device(plan.model.device)
    checkpoint = open_checkpoint(plan.path)
    opened = opened_of(checkpoint)
    context = context_tokens(opened.max_context, plan.engine)
    prompter_of(opened, plan, context)
    built = _build(plan, checkpoint, device, context, sys.maxsize)
    kernels = "our own kernels" if isinstance(built.model, NativeDecoder) else "torch's kernels"
    return (
        f"{plan.model.id}: {built.weight_format}, {built.weight_bytes / 1e6:.0f} MB of weights, on {device} by "
        f"{kernels}, ready to be loaded after {time.perf_counter() - begin:.1f} s"
    )


def _build(plan: Plan, checkpoint: Checkpoint, device: torch.device, context: int, free: int) -> Built:
    """Choose the format and the decoder, check that there is memory, and load the weights."""
    torch.set_num_threads(plan.engine.threads)
    # cuDNN's attention makes a plan for every length that it meets, so for every token: some 50 ms each. torch's other
    # kernels take any length. Source: github.com/pytorch/pytorch/pull/155958.
    torch.backends.cuda.enable_cudnn_sdp(False)
    shape = lean_shape(checkpoint, context)
    can_quantise = shape is not None and fits(shape)
    library = kernels_of(plan) if can_quantise and device.type == "cpu" else None
    match choose_format(plan.model.format, device, can_quantise=can_quantise, has_kernels=library is not None):
        case "int8" | "int4" as quantised:
            return _quantised(plan, checkpoint, cast("DecoderShape", shape), quantised, library, context, free)
        case dense:
            return _dense(checkpoint, dense, device, context, free, lean=shape is not None)


def lean_shape(checkpoint: Checkpoint, context: int) -> DecoderShape | None:
    """Give the sizes of a model that the lean decoders compute exactly; None for another one.

    Raises:
        ModelUnavailable: its weights are quantised by another program, or tensors are missing, unknown or misshapen.
    """
    checkpoint.refuse_quantised()
    if not supports(checkpoint.config, max_context_tokens=context):
        return None
    names = decoder_shape(checkpoint.config).names
    embedding, head = f"{names.embedding}.weight", f"{names.head}.weight"
    if checkpoint.config.tie_word_embeddings and checkpoint.has(head) and checkpoint.has(embedding):
        # A head that was trained apart counts, whatever the config says; transformers takes it so too.
        checkpoint.config.tie_word_embeddings = torch.equal(checkpoint.tensor(head), checkpoint.tensor(embedding))
    shape = decoder_shape(checkpoint.config)
    checkpoint.refuse_other_tensors(tensors_of(shape), unknown_tensors(checkpoint.names(), shape))
    return shape


def _quantised(
    plan: Plan,
    checkpoint: Checkpoint,
    shape: DecoderShape,
    weight_format: QuantisedFormat,
    library: Path | None,
    context: int,
    free: int,
) -> Built:
    check_memory("the weights", packed_bytes(shape, weight_format), free)
    folder = None if plan.cache_dir is None else plan.cache_dir / "prepared"
    weights = open_quantised(
        checkpoint.path,
        shape,
        weight_format,
        tensor=checkpoint.expect,
        folder=folder,
        sizes=partial(_input_sizes, checkpoint),
        smooth=library is not None,
    )
    model: Any
    ropes = ropes_of(checkpoint.config, shape)
    if folder is not None and library is not None:
        _complete_bundle(folder, plan, checkpoint, shape, weights, ropes)
    if library is None:
        model = lean_loading.of_quantised(shape, weights, ropes, max_context_tokens=context)
    else:
        positions = context + SPARE_POSITIONS
        model = NativeDecoder(library, shape, weights, ropes, positions=positions, threads=plan.engine.threads)
    return Built(
        model=model,
        weight_format=weight_format,
        device="cpu",
        parameters=weights.parameters,
        weight_bytes=weights.nbytes,
    )


def _complete_bundle(
    below: Path,
    plan: Plan,
    checkpoint: Checkpoint,
    shape: DecoderShape,
    weights: QuantisedWeights,
    ropes: Sequence[Rope],
) -> None:
    """Make a bundle of prepared weights, if they could be kept and there is no whole bundle of them."""
    folder = prepared_folder(below, checkpoint.path, weights.weight_format, smooth=True)
    if (folder / WEIGHTS).is_file() and bundled.current(folder, checkpoint.path) is None:
        bundle_making.complete(folder, checkpoint, shape, weights, ropes, plan.model.id)
    _remove_earlier(below)


def _remove_earlier(below: Path) -> None:
    """Delete prepared weights in the form of earlier releases, files without a folder, which nothing reads any more."""
    for file in below.glob("*.safetensors"):
        try:
            size = file.stat().st_size
            file.unlink()
        except OSError as error:
            log.warning("old_weights_not_removed", file=str(file), reason=error.strerror)
        else:
            log.info("old_weights_removed", file=str(file), mb=size // MIB, reason="of an earlier release")


def _input_sizes(checkpoint: Checkpoint) -> dict[str, InputSizes]:
    tokens = checkpoint.tokenizer.encode(_SAMPLE)
    return lean_loading.input_sizes(checkpoint.config, tensor=checkpoint.expect, tokens=tokens)


def _dense(
    checkpoint: Checkpoint, weight_format: DenseFormat, device: torch.device, context: int, free: int, *, lean: bool
) -> Built:
    itemsize = compute_dtype(weight_format).itemsize
    check_memory("the weights", checkpoint.parameters * itemsize, free)
    model: Any
    if lean:
        model, parameters = lean_loading.load(
            checkpoint.config,
            tensor=checkpoint.expect,
            weight_format=weight_format,
            device=device,
            max_context_tokens=context,
        )
    else:
        from edged.engine.decoders import generic_loading  # noqa: PLC0415 - it takes 1.5 s, and most models do without

        log.info("generic_decoder", architecture=(checkpoint.config.architectures or ["unknown"])[0])
        model, parameters = generic_loading.load(
            checkpoint.path, checkpoint.config, weight_format=weight_format, device=device
        )
    return Built(
        model=model,
        weight_format=weight_format,
        device=str(device),
        parameters=parameters,
        weight_bytes=parameters * itemsize,
    )
