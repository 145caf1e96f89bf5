"""How the memory is shared out: within the bound of the settings, keys and values before the prefix cache."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.decoders.native import kv_bytes_per_token
from edged.engine.memory_plan import MIB, SERVING_BYTES, MemoryPlan, plan_memory
from edged.engine.weights.architectures.architecture import LLAMA_NAMES, Biases, DecoderShape
from edged.engine.weights.quantised import packed_bytes, resident_bytes
from edged.errors import ModelUnavailable
from edged.settings.schema import EngineSettings

BOX = 8192 * MIB
HALF_BILLION = DecoderShape(  # Qwen1.5-0.5B
    layers=24,
    hidden=1024,
    mlp=2816,
    heads=16,
    kv_heads=16,
    head_dim=64,
    vocab=151936,
    eps=1e-6,
    tied=True,
    normalises_heads=False,
    biases=Biases(qkv=True, out=False, mlp=False),
    names=LLAMA_NAMES,
)


def planned(*, weights: int = 300, one_context: int = 20, free: int = BOX, **settings: Any) -> MemoryPlan:
    """A plan; all in MiB, but `free`."""
    engine = EngineSettings(**settings)
    return plan_memory(engine, weights=weights * MIB, one_context=one_context * MIB, process=100 * MIB, free=free)


def test_without_a_bound_each_setting_counts_as_it_is() -> None:
    plan = planned(max_batch=8)
    assert (plan.weights, plan.kv, plan.prefix_cache, plan.process) == tuple(n * MIB for n in (300, 160, 256, 100))
    assert str(plan) == "weights 300, keys and values 160, prefix cache 256, the process 100 MiB"


@pytest.mark.parametrize(
    ("memory_mb", "kv", "prefix_cache"),
    [(2000, 160, 256), (700, 160, 140), (560, 160, 0), (500, 100, 0), (420, 20, 0)],
)
def test_under_a_bound_the_prefix_cache_goes_first_and_then_the_batch(
    memory_mb: int, kv: int, prefix_cache: int
) -> None:
    plan = planned(memory_mb=memory_mb)
    assert (plan.kv, plan.prefix_cache) == (kv * MIB, prefix_cache * MIB)


@given(st.integers(1, 3000), st.integers(1, 900), st.integers(1, 90), st.integers(0, 300), st.integers(0, 600))
def test_a_plan_never_takes_more_than_its_bound(memory: int, weights: int, one: int, kv: int, cache: int) -> None:
    try:
        plan = planned(weights=weights, one_context=one, memory_mb=memory, kv_mb=kv, prefix_cache_mb=cache)
    except ModelUnavailable:
        assert memory < 100 + weights + max(one, kv) or 0 < kv < one
    else:
        assert plan.total <= memory * MIB
        assert plan.kv >= one * MIB


def test_a_bound_that_is_too_small_says_what_is_needed() -> None:
    words = re.escape(
        "engine.memory_mb is 400, and 420 MiB are needed (weights 300, keys and values 20, prefix cache 0"
    )
    with pytest.raises(ModelUnavailable, match=words):
        planned(memory_mb=400)


def test_a_bound_above_what_the_box_has_promises_nothing() -> None:
    assert planned(memory_mb=2000, free=400 * MIB).kv == 100 * MIB
    with pytest.raises(ModelUnavailable, match="the weights need 300 MiB"):
        planned(memory_mb=2000, free=200 * MIB)


def test_a_box_of_one_gigabyte_serves_half_a_billion_parameters_in_700_mib() -> None:
    one_context = 2048 * kv_bytes_per_token(HALF_BILLION)
    plan = plan_memory(
        EngineSettings(memory_mb=700),
        weights=resident_bytes(HALF_BILLION, "int4"),
        one_context=one_context,
        process=SERVING_BYTES,
        free=800 * MIB,
    )
    assert plan.kv >= one_context
    assert plan.total <= 700 * MIB


def test_of_an_embedding_that_is_not_the_head_only_rows_in_use_are_counted() -> None:
    shared = resident_bytes(HALF_BILLION, "int8")
    assert shared == packed_bytes(HALF_BILLION, "int8")
    parted, whole = resident_bytes(HALF_BILLION, "int4"), packed_bytes(HALF_BILLION, "int4")
    embedding = HALF_BILLION.vocab * HALF_BILLION.hidden
    assert whole - embedding * 17 // 16 < parted < whole - embedding // 2
