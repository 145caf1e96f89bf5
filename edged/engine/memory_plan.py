"""What a model will need of the memory, before it is loaded. Pure.

Keys and values of running sequences come first; the prefix cache gets what is left of `engine.memory_mb`.
"""

from dataclasses import dataclass

from edged.errors import ModelUnavailable, NotEnoughMemory
from edged.settings.schema import EngineSettings

MIB = 1 << 20
SERVING_BYTES = 120 * MIB  # a process that serves a bundle: Python, its libraries, a step's rows and logits
TORCH_BYTES = 350 * MIB  # a process with torch and transformers in it


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """Where the memory goes, in bytes at most.

    Attributes:
        kv: keys and values of running sequences.
        prefix_cache: keys and values that are kept for later prompts.
        process: all but the model.
    """

    weights: int
    kv: int
    prefix_cache: int
    process: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.prefix_cache + self.process

    def __str__(self) -> str:
        """For people."""
        weights, kv, cache, process = (
            round(each / MIB) for each in (self.weights, self.kv, self.prefix_cache, self.process)
        )
        return f"weights {weights}, keys and values {kv}, prefix cache {cache}, the process {process} MiB"


def plan_memory(engine: EngineSettings, *, weights: int, one_context: int, process: int, free: int) -> MemoryPlan:
    """Share out the memory.

    Args:
        engine: the settings; those that are not set follow from the others.
        weights: bytes of the weights.
        one_context: bytes of the keys and values of the longest sequence.
        process: bytes of all but the model.
        free: bytes that the box has for weights, keys and values.

    Raises:
        ModelUnavailable: it is too little.
    """
    check_memory("the weights", weights, free)
    if not engine.memory_mb:
        kv = _kv_bytes(engine, one_context, free - weights)
        return MemoryPlan(weights=weights, kv=kv, prefix_cache=engine.prefix_cache_mb * MIB, process=process)
    room = min(engine.memory_mb * MIB - process, free) - weights
    kv = engine.kv_mb * MIB or max(min(engine.max_batch * one_context, room), one_context)
    _check_context(one_context, kv)
    plan = MemoryPlan(
        weights=weights, kv=kv, prefix_cache=max(0, min(engine.prefix_cache_mb * MIB, room - kv)), process=process
    )
    if kv > room:
        raise ModelUnavailable(
            f"engine.memory_mb is {engine.memory_mb}, and {-(-plan.total // MIB)} MiB are needed ({plan}): raise it, "
            "choose a smaller model or format, or lower engine.max_context_tokens (or engine.kv_mb, where it is set)"
        )
    return plan


def check_memory(what: str, needed: int, free: int) -> None:
    """Refuse what does not fit.

    Raises:
        NotEnoughMemory: it does not.
    """
    if needed > free:
        raise NotEnoughMemory(_too_little(what, needed, free), missing_bytes=needed - free)


def _check_context(one_context: int, kv: int) -> None:
    """Refuse settings that leave no room for the longest sequence, however much memory is free.

    Raises:
        ModelUnavailable: they do.
    """
    if one_context > kv:
        raise ModelUnavailable(_too_little("keys and values of one full context", one_context, kv))


def _too_little(what: str, needed: int, free: int) -> str:
    return (
        f"{what} need {needed // MIB} MiB and {free // MIB} MiB are free: choose a smaller model or format, "
        "or free memory"
    )


def _kv_bytes(engine: EngineSettings, one_context: int, free: int) -> int:
    """Memory for running sequences: the setting, or full contexts for the batch within a quarter of what is free."""
    wanted = engine.kv_mb * MIB or max(min(engine.max_batch * one_context, free // 4), one_context)
    _check_context(one_context, wanted)
    check_memory(
        "keys and values (engine.kv_mb) and the prefix cache (engine.prefix_cache_mb)",
        wanted + engine.prefix_cache_mb * MIB,
        free,
    )
    return wanted
