"""What is to be loaded and how, and what a loaded model is made of: threads, memory, prompts. Knows no torch.

`bundled.py` builds the model of a bundle, `checkpoint_loading.py` that of a checkpoint; both end in `loaded_of`.
"""

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import structlog

from edged.engine.conversation_place import Place
from edged.engine.cores import Cores, choose, read
from edged.engine.decoders import native_library
from edged.engine.decoders.native import NativeDecoder
from edged.engine.loaded import Limits, Loaded
from edged.engine.memory_plan import MemoryPlan
from edged.engine.own_calibrations import OwnCalibrationFile, OwnCalibrations
from edged.engine.priors import PriorStore
from edged.engine.prompt import Prompter
from edged.engine.tokenizer import ModelTokenizer
from edged.engine.weights.formats import QUANTISED, Format
from edged.errors import ModelUnavailable
from edged.models.presets import preset_sampling
from edged.ports.engine import ModelInfo
from edged.settings.schema import EngineSettings, ModelSettings
from edged.tasks.specs import Sampling, SamplingWishes, sampling_of

log = structlog.get_logger(__name__)

# What was learned of the built-in prompts on the demo's model, so that its first start need not. An entry of another
# model, format or prompt is not found and does no harm.
_SHIPPED = Path(__file__).with_name("learned.json")
_NAMED = 5  # tokens in a warning
# A CPU computes few more tokens a second in larger steps, and a text that comes during a step waits until it ends.
_CLASSIFY_CHUNK_ON_CPU = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to be loaded, and how."""

    path: Path
    model: ModelSettings
    engine: EngineSettings
    half_width: bool
    cache_dir: Path | None = None  # for prepared weights and compiled kernels; without it nothing is kept
    uses_own_calibration: bool = False  # whether scores are corrected by what `edged calibrate` learned
    conversations: Place | None = None  # without it none outlives the process


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What is known of a model before its decoder is built.

    Attributes:
        architecture: the class of transformers that computes the same.
        vocab_size: how many tokens the embedding has.
        end_tokens: tokens that end a reply, as the model's makers have it.
        always_begins: whether every prompt begins with the BOS token, also where the template leaves it out.
        max_context: tokens that the model was made for; None where its makers do not say.
        sampling: how the makers sample it, as far as they say.
    """

    architecture: str
    tokenizer: ModelTokenizer
    vocab_size: int
    end_tokens: frozenset[int]
    always_begins: bool
    max_context: int | None
    sampling: SamplingWishes


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A decoder with its weights."""

    model: Any
    weight_format: Format
    device: str
    parameters: int
    weight_bytes: int


def free_memory() -> int:
    """Give the bytes of memory that processes can get."""
    return int(psutil.virtual_memory().available)


def prompter_of(opened: Opened, plan: Plan, context: int) -> Prompter:
    """Make what turns tasks and texts into tokens.

    Raises:
        ModelUnavailable: the chat template cannot be used.
    """
    prompter = Prompter(
        opened.tokenizer,
        max_context_tokens=context,
        half_width=plan.half_width,
        end_tokens=opened.end_tokens,
        vocab_size=opened.vocab_size,
        always_begins=opened.always_begins,
    )
    prompter.try_template()
    if beyond := prompter.beyond_vocabulary():
        log.warning("tokens_without_embedding", tokens=beyond[:_NAMED], number=len(beyond), instead="never used")
    if not prompter.end_tokens():
        log.warning(
            "no_end_of_turn", reason="the model's files name none", instead="replies end at engine.max_new_tokens"
        )
    return prompter


def bind(cpus: frozenset[int]) -> None:
    """Keep this thread, and the threads of the model that it will start, on these CPUs."""
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        log.warning("threads_not_bound", cpus=sorted(cpus), reason=error.strerror)


def with_threads(plan: Plan, *, at_most: int | None = None) -> tuple[Plan, Cores]:
    """Choose the number of threads, where the settings leave it open; see `cores.choose`."""
    chosen = choose(read(), wanted=plan.engine.threads, at_most=at_most)
    return replace(plan, engine=plan.engine.model_copy(update={"threads": chosen.threads})), chosen


def kernels_of(plan: Plan) -> Path | None:
    """The compiled kernels, where they are of use on a CPU and there are any."""
    wanted = plan.model.format in {"auto", *QUANTISED} and plan.engine.kernels != "torch"
    if not wanted or plan.cache_dir is None:
        return None
    try:
        return native_library.library(plan.cache_dir / "kernels", kernels=plan.engine.kernels)
    except native_library.NotBuilt as error:
        log.warning("no_kernels", reason=str(error), instead="torch's, which are slower")
        return None


def loaded_of(
    plan: Plan,
    opened: Opened,
    built: Built,
    prompter: Prompter,
    *,
    memory: MemoryPlan,
    context: int,
    cores: Cores,
    begin: float,
) -> Loaded[Any]:
    """Put a loaded model together.

    Args:
        plan: as it was loaded.
        opened: what is known of the model.
        built: its decoder.
        prompter: its prompts.
        memory: what keys and values may take.
        context: tokens of prompt and reply together.
        cores: on which it runs.
        begin: when its loading began, by `time.perf_counter`.
    """
    info = ModelInfo(
        id=plan.path.name if Path(plan.model.id).exists() else plan.model.id,
        architecture=opened.architecture,
        format=built.weight_format,
        device=built.device,
        threads=cores.threads,
        threads_reason=cores.reason,
        kernels=built.model.instructions if isinstance(built.model, NativeDecoder) else "torch",
        parameters=built.parameters,
        weight_bytes=built.weight_bytes,
        load_s=time.perf_counter() - begin,
        max_context_tokens=context,
        max_new_tokens=plan.engine.max_new_tokens,
    )
    if not opened.tokenizer.chat_template:
        log.info("no_chat_template", instead="a plain one: User: … Assistant: …")
    sampling = sampling_of(Sampling(), opened.sampling, preset_sampling(plan.model.id))
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
        limits=_limits_of(plan.engine, memory, built.device),
        own_calibrations=_own_calibrations(plan),
        priors=PriorStore(None if plan.cache_dir is None else plan.cache_dir / "priors.json", came_with=[_SHIPPED]),
    )


def _own_calibrations(plan: Plan) -> OwnCalibrations:
    if not plan.uses_own_calibration or plan.cache_dir is None:
        return {}
    return OwnCalibrationFile(plan.cache_dir).read()


def _limits_of(engine: EngineSettings, memory: MemoryPlan, device: str) -> Limits:
    return Limits(
        max_batch=engine.max_batch,
        max_new_tokens=engine.max_new_tokens,
        prefill_chunk_tokens=engine.prefill_chunk_tokens,
        kv_bytes=memory.kv,
        prefix_cache_bytes=memory.prefix_cache,
        classify_chunk_tokens=_CLASSIFY_CHUNK_ON_CPU if device == "cpu" else None,
    )


def context_tokens(limit: int | None, engine: EngineSettings) -> int:
    """Give the setting, or what the model was made for, `limit`, if that is less.

    Raises:
        ModelUnavailable: it has no room for a reply.
    """
    if limit is None or limit >= engine.max_context_tokens:
        return engine.max_context_tokens
    log.warning("context_reduced", asked=engine.max_context_tokens, model_has=limit)
    if limit <= engine.max_new_tokens:
        raise ModelUnavailable(
            f"the model's context of {limit} tokens has no room for engine.max_new_tokens={engine.max_new_tokens}; "
            f"set EDGED_ENGINE__MAX_NEW_TOKENS below {limit // 2}"
        )
    return limit
