"""The kernels of the wheels: the same bits on ARM as on x86, and no more instructions for a token than they took.

ARM runs in qemu's user-mode emulator. Its instructions are counted exactly, so no other work of the box moves them.
"""

import functools
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edged.engine.decoders import native_library
from edged.engine.decoders.interface import Span
from edged.engine.decoders.native import NativeDecoder
from edged.engine.loading import Plan, load
from edged.settings.schema import EngineSettings, ModelSettings
from tests.support import arm, assets

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="compares ARM with x86")

CPUS = {"neon": "cortex-a72", "dotprod": "cortex-a76", "i8mm": "max"}  # in the emulator
ROUND_TWICE = {"ssse3"}  # a product and its sum, having no instruction for both: all others give the same bits
VOCAB = 512  # of the random model
PROMPT = "The lighthouse stood at the end of a long stone pier, and every evening the keeper"
TOKENS = 12
POSITIONS = 256

# Million instructions for a layer and a token of the shape of Qwen1.5-0.5B: decoding one row and four, and a prefill of
# 64. deploy/MEASUREMENTS.md has llama.cpp's beside them.
MOST = {
    ("i8mm", 8): (2.09, 1.63, 1.49),
    ("i8mm", 4): (2.93, 1.94, 1.63),
    ("dotprod", 8): (2.90, 1.90, 1.75),
    ("dotprod", 4): (2.93, 2.04, 1.83),
    ("neon", 8): (4.80, 4.86, 4.78),
    ("neon", 4): (4.20, 3.63, 3.52),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What the driver's random model gave.

    Attributes:
        logits: (6, VOCAB): of a prefill's last row, of a row alone, of four rows.
        taken: million instructions for a layer and a token, as in `MOST`.
    """

    logits: npt.NDArray[np.float32]
    taken: tuple[float, ...]


@pytest.fixture(scope="module")
def programs() -> arm.Programs:
    return arm.Programs.fetched()


@pytest.fixture(scope="module")
def random_steps(programs: arm.Programs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Steps]:
    """Runs the random model of so many bits by a set of instructions."""

    @functools.cache
    def run(name: str, bits: int) -> Steps:
        cpu, out = CPUS.get(name), tmp_path_factory.mktemp("steps") / "logits"
        few, more = (  # the slope is a layer's cost, without that of the head and the embedding
            programs.run(name, "random", str(bits), str(layers), str(out), cpu=cpu, count=cpu is not None)[1]
            for layers in (1, 2)
        )
        return Steps(
            logits=np.fromfile(out, np.float32).reshape(-1, VOCAB),
            taken=tuple((more[rows] - few[rows]) / 1e6 / rows for rows in (1, 4, 64) if rows in more),
        )

    return run


@pytest.mark.parametrize("bits", [8, 4])
def test_every_set_gives_the_logits_of_every_other(random_steps: Callable[[str, int], Steps], bits: int) -> None:
    expected = random_steps("dotprod", bits).logits
    for name in (*CPUS, *(each.name for each in native_library.instructions()[:-1])):
        given = random_steps(name, bits).logits
        assert np.array_equal(given[1], given[2])  # a row alone, and among four
        if name in ROUND_TWICE:
            assert float(np.sqrt(((given - expected) ** 2).mean())) < 0.02 * float(expected.std())
        else:
            assert np.array_equal(given, expected), name


@pytest.mark.parametrize(("name", "bits"), MOST)
def test_a_token_takes_no_more_instructions_than_it_did(
    random_steps: Callable[[str, int], Steps], name: str, bits: int
) -> None:
    taken = random_steps(name, bits).taken
    assert all(now <= most for now, most in zip(taken, MOST[name, bits], strict=True)), taken


@pytest.fixture(scope="module")
def written_model(
    programs: arm.Programs, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, list[int], list[int]]:
    """The small real model in int8 as the driver reads it, a prompt, and the tokens that this CPU says to it."""
    file, path = tmp_path_factory.mktemp("real") / "model", assets.small_model()
    plan = Plan(
        path=path,
        model=ModelSettings(id=str(path), format="int8", device="cpu"),
        engine=EngineSettings(max_context_tokens=POSITIONS),
        half_width=True,
        cache_dir=request.config.cache.mkdir("bundles"),
    )
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_library, "INSTALLED", programs.libraries("x86_64"))
        loaded = load(plan)
    torch.set_num_threads(threads)
    model = loaded.model
    assert isinstance(model, NativeDecoder)
    weights, (rope,) = model._kept
    arm.write_model(file, model._shape, weights, rope)
    prompt = list(loaded.prompter._plain(PROMPT))
    return file, prompt, _greedy(model, prompt)


def _greedy(model: NativeDecoder, prompt: list[int]) -> list[int]:
    kv = model.allocate(POSITIONS)
    said: list[int] = []
    step = prompt
    for _ in range(TOKENS):
        logits = model.forward([Span(kv=kv, tokens=step, wanted=(len(step) - 1,))])
        step = [int(logits[0].argmax())]
        said += step
    return said


@pytest.mark.parametrize(("name", "cpu"), CPUS.items())
def test_the_real_model_says_the_same_on_arm(
    programs: arm.Programs, name: str, cpu: str, written_model: tuple[Path, list[int], list[int]]
) -> None:
    if native_library.instructions()[0].name in ROUND_TWICE:
        pytest.skip("this CPU's logits differ in their last bits")
    model, prompt, expected = written_model
    said, _ = programs.run(name, "file", str(model), str(len(expected)), *map(str, prompt), cpu=cpu)
    assert [int(each) for each in said.split()] == expected
