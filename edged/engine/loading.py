"""From a model's folder or file to a model ready to run: which decoder, which format, how much memory."""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil
import structlog
import torch

from edged.engine.decoders import lean_loading, native_library
from edged.engine.decoders.lean import Decoder
from edged.engine.decoders.linear import DenseFormat, Format, choose_device, choose_format, compute_dtype
from edged.engine.decoders.native import NativeDecoder
from edged.engine.loaded import Limits, Loaded
from edged.engine.priors import PriorStore
from edged.engine.prompt import Prompter
from edged.engine.weights.architectures.architecture import SPARE_POSITIONS, DecoderShape, rope_angles
from edged.engine.weights.architectures.table import decoder_shape, supports, unknown_tensors
from edged.engine.weights.checkpoint import Checkpoint, open_checkpoint
from edged.engine.weights.packing import QUANTISED, QuantisedFormat
from edged.engine.weights.pieces import InputSizes
from edged.engine.weights.quantised import fits, open_quantised, packed_bytes
from edged.errors import ModelUnavailable
from edged.models.presets import preset_sampling
from edged.ports.engine import ModelInfo
from edged.settings.schema import EngineSettings, ModelSettings
from edged.tasks.specs import Sampling, sampling_of

log = structlog.get_logger(__name__)

_MIB = 1 << 20
_NAMED = 5  # tensors in a warning
_CORES = torch.get_num_threads()  # as torch counts them: without hyperthreads

# Text of many kinds, to see which channels of a model are large; which they are hardly depends on the text.
_SAMPLE = """The pump in hall 3 runs hot again: 4.2 bar at 18:30, and nobody answers the phone!
I love this little box, it wakes me with music. What should I cook tonight? Maybe soup, with bread and cheese.
Q: Why is the sky blue? A: Because air scatters blue light more than red.
def add(a, b): return a + b  # {"id": 7, "ok": true}
今天天气很好，我们去公园吧。这个手机太差了，屏幕碎了，客服也不理我。
user: Please summarise the minutes of the meeting. assistant: Of course. First, the budget was agreed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to be loaded, and how."""

    path: Path
    model: ModelSettings
    engine: EngineSettings
    half_width: bool
    cache_dir: Path | None = None  # for prepared weights and compiled kernels; without it nothing is kept


def load(plan: Plan, *, available_bytes: Callable[[], int] = lambda: psutil.virtual_memory().available) -> Loaded[Any]:
    """Load a model for the engine.

    Raises:
        ModelUnavailable: the files are missing or broken, the architecture is unknown, or the memory is too
            small; the message says what to do.
    """
    begin = time.perf_counter()
    device = choose_device(plan.model.device)
    checkpoint = open_checkpoint(plan.path)
    context = _context_tokens(checkpoint, plan.engine)
    free = available_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    built = _build(plan, checkpoint, device, context, free)
    kv_bytes = _kv_bytes(plan.engine, context * built.model.bytes_per_token, free - built.weight_bytes)
    if device.type != "cpu" and isinstance(built.model, Decoder):
        built.model.reserve((kv_bytes + plan.engine.prefix_cache_mb * _MIB) // built.model.bytes_per_token)
    info = ModelInfo(
        id=plan.path.name if Path(plan.model.id).exists() else plan.model.id,
        architecture=(checkpoint.config.architectures or ["unknown"])[0],
        format=built.weight_format,
        device=str(device),
        threads=plan.engine.threads or _CORES,
        parameters=built.parameters,
        weight_bytes=built.weight_bytes,
        load_s=time.perf_counter() - begin,
        max_context_tokens=context,
        max_new_tokens=plan.engine.max_new_tokens,
    )
    if not checkpoint.tokenizer.chat_template:
        log.info("no_chat_template", instead="a plain one: User: … Assistant: …")
    sampling = sampling_of(Sampling(), checkpoint.sampling, preset_sampling(plan.model.id))
    log.info(
        "model_loaded",
        model=info.id,
        format=info.format,
        device=info.device,
        seconds=round(info.load_s, 2),
        sampling=asdict(sampling),
    )
    return Loaded(
        sampling=sampling,
        model=built.model,
        prompter=Prompter(
            checkpoint.tokenizer,
            max_context_tokens=context,
            half_width=plan.half_width,
            end_tokens=checkpoint.end_tokens,
        ),
        info=info,
        limits=Limits(
            max_batch=plan.engine.max_batch,
            max_new_tokens=plan.engine.max_new_tokens,
            prefill_chunk_tokens=plan.engine.prefill_chunk_tokens,
            kv_bytes=kv_bytes,
            prefix_cache_bytes=plan.engine.prefix_cache_mb * _MIB,
        ),
        priors=PriorStore(None if plan.cache_dir is None else plan.cache_dir / "priors.json"),
    )


def prepare(plan: Plan) -> str:
    """Do now what the first start would do: compile the kernels, round the weights. Says in words what was done.

    Raises:
        ModelUnavailable: as `load` does.
    """
    begin = time.perf_counter()
    device = choose_device(plan.model.device)
    checkpoint = open_checkpoint(plan.path)
    built = _build(plan, checkpoint, device, _context_tokens(checkpoint, plan.engine), sys.maxsize)
    kernels = "our own kernels" if isinstance(built.model, NativeDecoder) else "torch's kernels"
    return (
        f"{plan.model.id}: {built.weight_format}, {built.weight_bytes / 1e6:.0f} MB of weights, on {device} by "
        f"{kernels}, ready to be loaded after {time.perf_counter() - begin:.1f} s"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Built:
    model: Any
    weight_format: Format
    parameters: int
    weight_bytes: int


def _build(plan: Plan, checkpoint: Checkpoint, device: torch.device, context: int, free: int) -> _Built:
    """Choose the format and the decoder, check that there is memory, and load the weights."""
    torch.set_num_threads(plan.engine.threads or _CORES)
    # cuDNN's attention makes a plan for every length that it meets, so for every token: some 50 ms each. torch's other
    # kernels take any length. Source: github.com/pytorch/pytorch/pull/155958.
    torch.backends.cuda.enable_cudnn_sdp(False)
    lean = supports(checkpoint.config, max_context_tokens=context)
    shape = decoder_shape(checkpoint.config) if lean else None
    if shape is not None and (ignored := unknown_tensors(checkpoint.names(), shape)):
        log.warning("tensors_ignored", names=ignored[:_NAMED], number=len(ignored))
    can_quantise = shape is not None and fits(shape)
    library = _library(plan, device) if can_quantise else None
    match choose_format(plan.model.format, device, can_quantise=can_quantise, has_kernels=library is not None):
        case "int8" | "int4" as quantised:
            return _quantised(plan, checkpoint, cast("DecoderShape", shape), quantised, library, context, free)
        case dense:
            return _dense(checkpoint, dense, device, context, free, lean=lean)


def _library(plan: Plan, device: torch.device) -> Path | None:
    """The compiled kernels, where they are of use and there are any."""
    wanted = plan.model.format in {"auto", *QUANTISED} and plan.engine.kernels == "auto"
    if not wanted or device.type != "cpu" or plan.cache_dir is None:
        return None
    try:
        return native_library.library(plan.cache_dir / "kernels")
    except native_library.NotBuilt as error:
        log.warning("no_kernels", reason=str(error), instead="torch's, which are slower")
        return None


def _quantised(
    plan: Plan,
    checkpoint: Checkpoint,
    shape: DecoderShape,
    weight_format: QuantisedFormat,
    library: Path | None,
    context: int,
    free: int,
) -> _Built:
    _check_memory("the weights", packed_bytes(shape, weight_format), free)
    weights = open_quantised(
        checkpoint.path,
        shape,
        weight_format,
        tensor=checkpoint.expect,
        folder=None if plan.cache_dir is None else plan.cache_dir / "prepared",
        sizes=partial(_input_sizes, checkpoint),
        smooth=library is not None,
    )
    model: Any
    if library is None:
        model = lean_loading.of_quantised(checkpoint.config, weights, max_context_tokens=context)
    else:
        angles, scale = rope_angles(checkpoint.config, shape, context + SPARE_POSITIONS)
        rope = torch.stack((angles.cos(), angles.sin())) * scale
        torch.set_num_threads(1)  # for what little torch still does; more would spin on the cores that we need
        model = NativeDecoder(library, shape, weights, rope, threads=plan.engine.threads or _CORES)
    return _Built(model=model, weight_format=weight_format, parameters=weights.parameters, weight_bytes=weights.nbytes)


def _input_sizes(checkpoint: Checkpoint) -> dict[str, InputSizes]:
    tokens = checkpoint.tokenizer.encode(_SAMPLE)
    return lean_loading.input_sizes(checkpoint.config, tensor=checkpoint.expect, tokens=tokens)


def _dense(
    checkpoint: Checkpoint, weight_format: DenseFormat, device: torch.device, context: int, free: int, *, lean: bool
) -> _Built:
    itemsize = compute_dtype(weight_format).itemsize
    _check_memory("the weights", checkpoint.parameters * itemsize, free)
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
        from edged.engine.decoders import generic  # noqa: PLC0415 - it takes 1.5 s, and most models do without

        log.info("generic_decoder", architecture=(checkpoint.config.architectures or ["unknown"])[0])
        model, parameters = generic.load(checkpoint.path, checkpoint.config, weight_format=weight_format, device=device)
    return _Built(model=model, weight_format=weight_format, parameters=parameters, weight_bytes=parameters * itemsize)


def _context_tokens(checkpoint: Checkpoint, engine: EngineSettings) -> int:
    """The setting, or what the model was made for if that is less."""
    limit = getattr(checkpoint.config.get_text_config(), "max_position_embeddings", None)
    if limit is None or limit >= engine.max_context_tokens:
        return engine.max_context_tokens
    log.warning("context_reduced", asked=engine.max_context_tokens, model_has=limit)
    if limit <= engine.max_new_tokens:
        raise ModelUnavailable(
            f"the model's context of {limit} tokens has no room for engine.max_new_tokens={engine.max_new_tokens}; "
            f"set EDGED_ENGINE__MAX_NEW_TOKENS below {limit // 2}"
        )
    return int(limit)


def _check_memory(what: str, needed: int, free: int) -> None:
    if needed > free:
        raise ModelUnavailable(
            f"{what} need {needed // _MIB} MiB and {free // _MIB} MiB are free: choose a smaller model or format, "
            "or free memory"
        )


def _kv_bytes(engine: EngineSettings, one_context: int, free: int) -> int:
    """Memory for running sequences: the setting, or full contexts for the batch within a quarter of what is free."""
    wanted = engine.kv_mb * _MIB or max(min(engine.max_batch * one_context, free // 4), one_context)
    _check_memory("keys and values of one full context", one_context, wanted)
    _check_memory(
        "keys and values (engine.kv_mb) and the prefix cache (engine.prefix_cache_mb)",
        wanted + engine.prefix_cache_mb * _MIB,
        free,
    )
    return wanted
