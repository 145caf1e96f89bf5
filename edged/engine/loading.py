"""From a model's folder or file to a model ready to run: which decoder, which format, how much memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import structlog
import torch

from edged.engine import decoder, generic
from edged.engine.checkpoint import Checkpoint, open_checkpoint
from edged.engine.engine import Limits, Loaded
from edged.engine.linear import Format, choose_device, choose_format, compute_dtype
from edged.engine.prompt import Prompter
from edged.errors import ModelUnavailable
from edged.ports import ModelInfo
from edged.settings import EngineSettings, ModelSettings

log = structlog.get_logger(__name__)

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to be loaded, and how."""

    path: Path
    model: ModelSettings
    engine: EngineSettings
    half_width: bool


def load(plan: Plan, *, available_bytes: Callable[[], int] = lambda: psutil.virtual_memory().available) -> Loaded[Any]:
    """Load a model for the engine.

    Raises:
        ModelUnavailable: the files are missing or broken, the architecture is unknown, or the memory is too
            small; the message says what to do.
    """
    begin = time.perf_counter()
    if plan.engine.threads:
        torch.set_num_threads(plan.engine.threads)
    device = choose_device(plan.model.device)
    weight_format = choose_format(plan.model.format, device)
    checkpoint = open_checkpoint(plan.path)
    context = _context_tokens(checkpoint, plan.engine)
    free = available_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    weights = checkpoint.parameters * compute_dtype(weight_format).itemsize
    _check_memory("the weights", weights, free)
    model, parameters = _load_weights(checkpoint, weight_format, device, context)
    kv_bytes = _kv_bytes(plan.engine, context * model.bytes_per_token, free - weights)
    info = ModelInfo(
        id=plan.path.name if Path(plan.model.id).exists() else plan.model.id,
        architecture=(checkpoint.config.architectures or ["unknown"])[0],
        format=weight_format,
        device=str(device),
        threads=torch.get_num_threads(),
        parameters=parameters,
        weight_bytes=parameters * compute_dtype(weight_format).itemsize,
        load_s=time.perf_counter() - begin,
        max_context_tokens=context,
        max_new_tokens=plan.engine.max_new_tokens,
    )
    log.info("model_loaded", model=info.id, format=info.format, device=info.device, seconds=round(info.load_s, 2))
    return Loaded(
        model=model,
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
    )


def _load_weights(checkpoint: Checkpoint, weight_format: Format, device: torch.device, context: int) -> tuple[Any, int]:
    if decoder.supports(checkpoint.config, max_context_tokens=context):
        return decoder.load(
            checkpoint.config,
            tensor=checkpoint.expect,
            has=checkpoint.has,
            weight_format=weight_format,
            device=device,
            max_context_tokens=context,
        )
    log.info("generic_decoder", architecture=(checkpoint.config.architectures or ["unknown"])[0])
    return generic.load(checkpoint.path, checkpoint.config, weight_format=weight_format, device=device)


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
