"""How far each weight format is from fp32, on the real small model and real text."""

import os
import platform
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from edged.engine import loading
from edged.engine.cores import Box, Cpu
from edged.engine.decoders import native_library
from edged.engine.decoders.interface import Span
from edged.engine.decoders.native import NativeDecoder
from edged.engine.loaded import Loaded
from edged.engine.loading import Plan
from edged.errors import ModelUnavailable
from edged.settings.schema import EngineSettings, ModelSettings
from tests.support import assets, tiny

TEXT = """The lighthouse stood at the end of a long stone pier, and every evening the keeper walked out to light the
lamp. In winter the waves broke over the wall and froze on the railings. He had a dog, two cats and a radio that
worked when the wind came from the south. People in the village said that he never spoke, but this was not true: he
spoke to the ships, one after the other, as their lights went by. When the lamp was replaced by an electric one, a man
from the city came to show him how it worked. "You only have to press here," said the man. The keeper looked at the
switch for a while. Then he made tea for both of them, and asked whether the ships would notice the difference.
I bought this blender last week and it already leaks. The customer service was friendly, though, and they promised to
send a new one. Would I buy it again? Probably not, but the soup was excellent. The film is slow, far too long and
badly lit; the actors do what they can, and the last ten minutes are wonderful. To install the program, download the
archive, unpack it and run the script. If it fails, look at the log file: most errors are caused by missing rights."""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


def load(weight_format: Any, cache: Path, kernels: Any = "auto") -> Loaded[Any]:
    path = assets.small_model()
    return loading.load(
        Plan(
            path=path,
            model=ModelSettings(id=str(path), format=weight_format),
            engine=EngineSettings(kernels=kernels),
            half_width=True,
            cache_dir=cache,
        )
    )


def log_probabilities(loaded: Loaded[Any], tokens: list[int]) -> torch.Tensor:
    kv = loaded.model.allocate(len(tokens))
    logits: torch.Tensor = tiny.run(loaded.model, [Span(kv=kv, tokens=tokens, wanted=range(len(tokens)))])
    return logits.log_softmax(dim=-1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def reference(cache: Path) -> tuple[list[int], torch.Tensor]:
    with torch.inference_mode():
        loaded = load("fp32", cache)
        tokens = loaded.prompter._plain(TEXT)
        return list(tokens), log_probabilities(loaded, list(tokens))


@pytest.mark.parametrize(
    ("weight_format", "kernels", "divergence", "agreement"),
    [
        ("bf16", "auto", 0.003, 0.95),
        ("int8", "auto", 0.01, 0.94),  # within 300 tokens one is 0.3 %
        ("int4", "auto", 0.06, 0.8),
        ("int8", "torch", 0.02, 0.9),
        ("int4", "torch", 0.06, 0.8),
    ],
)
def test_a_format_stays_close_to_fp32(
    weight_format: str,
    kernels: str,
    divergence: float,
    agreement: float,
    reference: tuple[list[int], torch.Tensor],
    cache: Path,
) -> None:
    tokens, expected = reference
    loaded = load(weight_format, cache, kernels)
    if kernels == "auto" and weight_format != "bf16" and not isinstance(loaded.model, NativeDecoder):
        pytest.skip("no compiler here")
    assert loaded.info.format == weight_format
    ours = log_probabilities(loaded, tokens)
    assert float((expected.exp() * (expected - ours)).sum(dim=-1).mean()) < divergence
    assert float((expected.argmax(dim=-1) == ours.argmax(dim=-1)).float().mean()) >= agreement


def test_a_format_that_is_not_for_this_device_or_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="fp16 is for a GPU"):
        load("fp16", tmp_path)


def test_kernels_can_be_named(cache: Path) -> None:
    assert load("int8", cache, "torch").info.kernels == "torch"
    if shutil.which("c++") is None:
        pytest.skip("no compiler here")
    assert load("int8", cache).info.kernels == native_library.instructions()[0].name
    assert load("int8", cache, "portable").info.kernels == "portable"
    missing: Any = "dotprod" if platform.machine() == "x86_64" else "avx2"
    assert load("int8", cache, missing).info.kernels == "torch"  # a CPU without these instructions


def test_the_model_runs_on_the_large_cores(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    cpus = tuple(Cpu(number=n, core=n, capacity=1024 if n == allowed[-1] else 400) for n in (*allowed, 1000))
    monkeypatch.setattr("edged.engine.plan.read", lambda: Box(online=len(cpus), allowed=cpus))

    def in_a_thread() -> tuple[Loaded[Any], set[int]]:
        loaded = load("int8", cache)
        return loaded, os.sched_getaffinity(0)

    with ThreadPoolExecutor(1) as pool:
        loaded, bound = pool.submit(in_a_thread).result()
    assert loaded.info.threads == 1
    assert loaded.info.threads_reason == f"1 of {len(cpus)} cores are large"
    assert bound == {allowed[-1]}
    assert sorted(os.sched_getaffinity(0)) == allowed  # of this thread, which does not run the model
