"""From a model's folder or file to a model ready to run: which decoder, which format, how much memory."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil
import structlog
import torch

from edged.engine.cores import Cores, choose, read
from edged.engine.decoders import lean_loading, native_library
from edged.engine.decoders.lean import Decoder
from edged.engine.decoders.linear import DenseFormat, Format, choose_device, choose_format, compute_dtype
from edged.engine.decoders.native import NativeDecoder
from edged.engine.loaded import Limits, Loaded
from edged.engine.priors import PriorStore
from edged.engine.prompt import Prompter
from edged.engine.weights.architectures.architecture import SPARE_POSITIONS, DecoderShape, rope_angles, tensors_of
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
_NAMED = 5  # tokens in a warning
_TORCH_THREADS = torch.get_num_threads()  # before this module changes it

# Text of many kinds, to find the large channels of a model; they hardly depend on the text.
_SAMPLE = """The pump in hall 3 runs hot again: 4.2 bar at 18:30, and nobody answers the phone!
I love this little box, it wakes me with music. What should I cook tonight? Maybe soup, with bread and cheese.
Q: Why is the sky blue? A: Because air scatters blue light more than red.
def add(a, b): return a + b  # {"id": 7, "ok": true}
今天天气很好，我们去公园吧。这个手机太差了，屏幕碎了，客服也不理我。
user: Please summarise the minutes of the meeting. assistant: Of course. First, the budget was agreed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Which model to load, and how."""

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
    context = context_tokens(checkpoint, plan.engine)
    prompter = prompter_of(checkpoint, plan, context)
    free = available_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    plan, chosen = _with_threads(plan)
    if chosen.stay_on:
        _bind(chosen.stay_on)
    built = _build(plan, checkpoint, device, context, free)
    kv_bytes = _kv_bytes(plan.engine, context * built.model.bytes_per_token, free - built.weight_bytes)
    if device.type != "cpu" and isinstance(built.model, Decoder):
        built.model.reserve((kv_bytes + plan.engine.prefix_cache_mb * _MIB) // built.model.bytes_per_token)
    info = ModelInfo(
        id=plan.path.name if Path(plan.model.id).exists() else plan.model.id,
        architecture=(checkpoint.config.architectures or ["unknown"])[0],
        format=built.weight_format,
        device=str(device),
        threads=chosen.threads,
        threads_reason=chosen.reason,
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
        prompter=prompter,
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


def prompter_of(checkpoint: Checkpoint, plan: Plan, context: int) -> Prompter:
    """Make the prompter, which turns tasks and texts into tokens.

    Raises:
        ModelUnavailable: the chat template cannot be used.
    """
    prompter = Prompter(
        checkpoint.tokenizer,
        max_context_tokens=context,
        half_width=plan.half_width,
        end_tokens=checkpoint.end_tokens,
        vocab_size=checkpoint.vocab_size,
        always_begins=checkpoint.always_begins,
    )
    prompter.try_template()
    if beyond := prompter.beyond_vocabulary():
        log.warning("tokens_without_embedding", tokens=beyond[:_NAMED], number=len(beyond), instead="never used")
    if not prompter.end_tokens():
        log.warning(
            "no_end_of_turn", reason="the model's files name none", instead="replies end at engine.max_new_tokens"
        )
    return prompter


def prepare(plan: Plan) -> str:
    """Do in advance what the first start would do: compile the kernels, round the weights. Returns a line about it.

    Raises:
        ModelUnavailable: as `load` does.
    """
    begin = time.perf_counter()
    plan, _ = _with_threads(plan)
    device = choose_device(plan.model.device)
    checkpoint = open_checkpoint(plan.path)
    built = _build(plan, checkpoint, device, context_tokens(checkpoint, plan.engine), sys.maxsize)
    kernels = "our own kernels" if isinstance(built.model, NativeDecoder) else "torch's kernels"
    return (
        f"{plan.model.id}: {built.weight_format}, {built.weight_bytes / 1e6:.0f} MB of weights, on {device} by "
        f"{kernels}, ready to be loaded after {time.perf_counter() - begin:.1f} s"
    )


def _bind(cpus: frozenset[int]) -> None:
    """Keep this thread, and the threads of the model that it will start, on these CPUs."""
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        log.warning("threads_not_bound", cpus=sorted(cpus), reason=error.strerror)


def _with_threads(plan: Plan) -> tuple[Plan, Cores]:
    """Choose the number of threads, where the settings leave it open."""
    chosen = choose(read(), wanted=plan.engine.threads, at_most=_TORCH_THREADS)
    return replace(plan, engine=plan.engine.model_copy(update={"threads": chosen.threads})), chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class _Built:
    model: Any
    weight_format: Format
    parameters: int
    weight_bytes: int


def _build(plan: Plan, checkpoint: Checkpoint, device: torch.device, context: int, free: int) -> _Built:
    """Choose the format and the decoder, check that there is memory, and load the weights."""
    torch.set_num_threads(plan.engine.threads)
    # cuDNN's attention makes a plan for every length that it meets, so for every token: some 50 ms each. torch's other
    # kernels take any length. Source: github.com/pytorch/pytorch/pull/155958.
    torch.backends.cuda.enable_cudnn_sdp(False)
    shape = lean_shape(checkpoint, context)
    can_quantise = shape is not None and fits(shape)
    library = _library(plan, device) if can_quantise else None
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


def _library(plan: Plan, device: torch.device) -> Path | None:
    """The compiled kernels; None if they are not used or cannot be built."""
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
        torch.set_num_threads(1)  # torch has little left to do; more of its threads would spin on cores that the
        # kernels need
        model = NativeDecoder(library, shape, weights, rope, threads=plan.engine.threads)
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
        from edged.engine.decoders import generic_loading  # noqa: PLC0415 - it takes 1.5 s, and most models do without

        log.info("generic_decoder", architecture=(checkpoint.config.architectures or ["unknown"])[0])
        model, parameters = generic_loading.load(
            checkpoint.path, checkpoint.config, weight_format=weight_format, device=device
        )
    return _Built(model=model, weight_format=weight_format, parameters=parameters, weight_bytes=parameters * itemsize)


def context_tokens(checkpoint: Checkpoint, engine: EngineSettings) -> int:
    """Give the setting, or what the model was made for if that is less.

    Raises:
        ModelUnavailable: it has no room for a reply.
    """
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
