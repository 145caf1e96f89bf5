"""How the memory is shared out: within the bound of the settings, keys and values before the prefix cache."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.memory_plan import MIB, MemoryPlan, plan_memory
from edged.errors import ModelUnavailable
from edged.settings.schema import EngineSettings

BOX = 8192 * MIB


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
