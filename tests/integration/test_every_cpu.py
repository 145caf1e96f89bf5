"""The kernels that the wheels carry: the same bits on ARM as on x86, and no more instructions for a token than they were.

ARM runs in qemu's user-mode emulator. Its instructions are counted exactly, so no other work of the box moves them.
"""

import platform
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

CPUS = [("neon", "cortex-a72"), ("dotprod", "cortex-a76"), ("neon", "max"), ("dotprod", "max"), ("i8mm", "max")]
ROUND_TWICE = {"ssse3"}  # a product and its sum, having no instruction for both: all others give the same bits
CASES = "d1,d4,d8,p64"
VOCAB = 512  # of the random model
PROMPT = "The lighthouse stood at the end of a long stone pier, and every evening the keeper"
TOKENS = 16
POSITIONS = 256

# Million instructions for a layer and a token of the shape of Qwen1.5-0.5B: decoding one row and four, and a prefill of
# 64. What llama.cpp 0.3.36 takes for the same (Q8_0 and Q4_0; deploy/MEASUREMENTS.md):
#   dotprod 3.22, 2.27, 2.02 and 4.02, 2.57, 1.94; neon 11.6, 11.6, 11.3 and 12.8, 12.8, 12.5.
MOST = {
    ("i8mm", "max", 8): (2.09, 1.62, 1.49),
    ("i8mm", "max", 4): (2.93, 1.87, 1.61),
    ("dotprod", "cortex-a76", 8): (2.91, 1.91, 1.76),
    ("dotprod", "cortex-a76", 4): (2.94, 2.01, 1.82),
    ("neon", "cortex-a72", 8): (4.81, 4.87, 4.79),
    ("neon", "cortex-a72", 4): (4.21, 3.62, 3.54),
}


@pytest.fixture(scope="module")
def programs() -> arm.Programs:
    return arm.Programs.fetched()


@pytest.mark.parametrize("bits", [8, 4])
def test_every_set_gives_the_logits_of_this_cpu(programs: arm.Programs, bits: int, tmp_path: Path) -> None:
    def logits(name: str, cpu: str | None) -> npt.NDArray[np.float32]:
        out = tmp_path / f"{name}-{cpu}"
        programs.run(name, "random", str(bits), "2", CASES, str(out), cpu=cpu)
        rows = np.fromfile(out, np.float32).reshape(-1, VOCAB)
        assert np.array_equal(rows[0], rows[1])  # a row alone, and among four
        assert np.array_equal(rows[0], rows[5])  # and among eight
        return rows

    here = [each.name for each in native_library.instructions()[:-1]]
    everywhere = {(name, cpu): logits(name, cpu) for name, cpu in [*((name, None) for name in here), *CPUS]}
    expected = everywhere["dotprod", "cortex-a76"]
    for (name, cpu), given in everywhere.items():
        if name in ROUND_TWICE:
            assert float(np.sqrt(((given - expected) ** 2).mean())) < 0.02 * float(expected.std())
        else:
            assert np.array_equal(given, expected), (name, cpu)


@pytest.mark.parametrize(("name", "cpu", "bits"), MOST)
def test_a_token_takes_no_more_instructions_than_it_did(
    programs: arm.Programs, name: str, cpu: str, bits: int, tmp_path: Path
) -> None:
    few, more = (
        programs.run(name, "random", str(bits), str(layers), CASES, str(tmp_path / "out"), cpu=cpu, count=True)[1]
        for layers in (2, 4)
    )
    taken = tuple((more[marker] - few[marker]) / 2e6 / rows for marker, rows in ((1, 1), (4, 4), (1064, 64)))
    assert all(now <= most for now, most in zip(taken, MOST[name, cpu, bits], strict=True)), taken


@pytest.fixture(scope="module")
def written_model(
    programs: arm.Programs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[int], list[int]]:
    """The small real model in int8 as the driver reads it, a prompt, and the tokens that this CPU says to it."""
    folder = tmp_path_factory.mktemp("real")
    path = assets.small_model()
    plan = Plan(
        path=path,
        model=ModelSettings(id=str(path), format="int8", device="cpu"),
        engine=EngineSettings(max_context_tokens=POSITIONS),
        half_width=True,
        cache_dir=folder,
    )
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_library, "INSTALLED", programs.libraries("x86_64"))
        loaded = load(plan)
    torch.set_num_threads(threads)
    model = loaded.model
    assert isinstance(model, NativeDecoder)
    assert not (folder / "kernels").exists()  # those of the wheel were taken
    weights, rope = model._kept
    arm.write_model(folder / "model", model._shape, weights, rope)
    prompt = list(loaded.prompter._plain(PROMPT))
    return folder / "model", prompt, _greedy(model, prompt)


def _greedy(model: NativeDecoder, prompt: list[int]) -> list[int]:
    kv = model.allocate(POSITIONS)
    said: list[int] = []
    step = prompt
    for _ in range(TOKENS):
        logits = model.forward([Span(kv=kv, tokens=step, wanted=(len(step) - 1,))])
        step = [int(logits[0].argmax())]
        said += step
    return said


@pytest.mark.parametrize(("name", "cpu"), CPUS)
def test_the_real_model_says_the_same_on_arm(
    programs: arm.Programs, name: str, cpu: str, written_model: tuple[Path, list[int], list[int]]
) -> None:
    if native_library.instructions()[0].name in ROUND_TWICE:
        pytest.skip("this CPU's logits differ in their last bits")
    model, prompt, expected = written_model
    said, _ = programs.run(name, "file", str(model), str(len(expected)), *map(str, prompt), cpu=cpu)
    assert [int(each) for each in said.split()] == expected
