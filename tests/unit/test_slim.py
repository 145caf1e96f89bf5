"""What deploy/slim.py takes out of an image's environment, and what it leaves."""

import importlib.util
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edged.models.wheel import PIP_ARCHIVE

# An import of another module of the same package, alone in its line: the dots, and the path behind them.
_IMPORT = re.compile(r"^ *from (\.+)([\w.]*) import (\w+)", re.MULTILINE)


@pytest.fixture(scope="module")
def slim() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slim", Path(__file__).parents[2] / "deploy/slim.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def package() -> Path:
    """The installed transformers."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def goes(slim: ModuleType, package: Path) -> set[Path]:
    """What slim.py would take out of it."""
    models = package / "models"
    kinds = ("modular", "convert")
    return {*slim.other_models(models), *(each for kind in kinds for each in models.glob(f"*/{kind}_*.py"))}


def put(folder: Path, *names: str, text: str = "") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_what_only_tests_and_builds_need_goes(
    slim: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "lib/python3.11/site-packages"
    stays = [
        "torch/lib/libtorch.so",
        "torch/bin/torch_shm_manager",
        "torch/testing/_internal/logging_tensor.py",
        "sympy/core/add.py",
    ]
    stays += ["numpy.libs/libblas-0123abcd.so", "torch-2.dist-info/METADATA", "edged/engine/built/edged-avx2.so"]
    goes = [
        "torch/lib/libback_test.so",
        "torch/bin/test_api",
        "torch/include/a.h",
        "torch/testing/_internal/common_nn.py",
    ]
    goes += ["sympy/core/tests/tests/test_add.py", "sympy/core/__pycache__/add.pyc", "pip/main.py", "torch/a.pyi"]
    goes += ["sympy/physics/units.py", "pygments/lexers/c_cpp.py", "pygments/lexers/_vim_builtins.py"]
    stays += ["pygments/lexers/__init__.py", "pygments/lexers/_mapping.py"]
    goes += ["torch-2.dist-info/RECORD", "setuptools/a.py", "networkx/a.py", "distutils-precedence.pth"]
    put(site, *stays, *goes, "pip-25.0.dist-info/RECORD")
    put(tmp_path, "bin/pip3", "bin/edged")
    stripped: list[str] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: stripped.extend(command))
    monkeypatch.setattr(sys, "argv", ["slim.py", str(tmp_path)])
    slim.main()
    left = {each.relative_to(site).as_posix() for each in site.rglob("*") if each.is_file()}
    assert left == set(stays)
    assert [each.name for each in (tmp_path / "bin").iterdir()] == ["edged"]
    assert zipfile.ZipFile(tmp_path / slim.PIP_ARCHIVE).namelist() == ["pip/main.py"]
    assert slim.PIP_ARCHIVE == PIP_ARCHIVE
    assert stripped[:2] == ["strip", "--strip-unneeded"]
    assert {Path(each).name for each in stripped[2:]} == {"libtorch.so", "edged-avx2.so"}


def test_the_code_of_models_that_write_text_and_what_it_uses_stays(slim: ModuleType, tmp_path: Path) -> None:
    put(tmp_path, "gpt/modeling_gpt.py", text="from ..shared.modeling_shared import x\nclass GptForCausalLM: ...")
    listed = '("old", "OldLMHeadModel"),\n        ("eye", "EyeForConditionalGeneration"),\n'
    listed = f"MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict(\n    [\n        {listed}    ]\n)\n"
    put(tmp_path, "auto/modeling_auto.py", text=listed)
    put(tmp_path, "old/modeling_old.py", text="class OldLMHeadModel(Old): ...")
    put(tmp_path, "eye/modeling_eye.py", text="class EyeForConditionalGeneration(Eye): ...")
    put(tmp_path, "eye/configuration_eye.py", text='x = Sub(model_type="lens_model")')
    put(tmp_path, "lens/configuration_lens.py", text='class LensConfig:\n    model_type = "lens_model"\n')
    put(tmp_path, "lens/modeling_lens.py")
    put(tmp_path, "shared/modeling_shared.py", "vision/modeling_vision.py", "vision/image_processing_vision.py")
    put(tmp_path, "vision/configuration_vision.py", "vision/tokenization_vision.py")
    assert {each.name for each in slim.other_models(tmp_path)} == {"modeling_vision.py", "image_processing_vision.py"}


def test_an_environment_without_torch_is_slimmed_too(
    slim: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "lib/python3.11/site-packages", "edged/__init__.py", "edged/__pycache__/a.pyc", "pip/main.py")
    monkeypatch.setattr(sys, "argv", ["slim.py", str(tmp_path)])
    slim.main()
    assert list(tmp_path.rglob("*pip*")) == []
    assert [each.name for each in tmp_path.rglob("edged/*")] == ["__init__.py"]


def imported(file: Path, text: str) -> Iterator[Path]:
    """The modules that a module imports by their place beside it."""
    for dots, path, name in _IMPORT.findall(text):
        folder = file.parents[len(dots) - 1].joinpath(*path.split("."))
        yield from (folder.with_suffix(".py"), folder / f"{name}.py")


def test_every_model_that_continues_a_text_stays(package: Path, goes: set[Path]) -> None:
    models = package / "models"
    gone = {each.parent.name for each in goes if each.name.startswith("modeling_")}
    listed = re.search(
        r"^MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.*?^\)",
        (models / "auto/modeling_auto.py").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert listed is not None
    kinds = set(re.findall(r'\("([\w-]+)", "\w+"\)', listed[0]))
    assert kinds >= {"gpt2", "qwen2", "openai-gpt", "gemma3"}
    assert {each.replace("-", "_") for each in kinds} & gone == set()
    assert "siglip" not in gone  # Gemma 3 is built with its eye


def test_nothing_of_transformers_that_stays_imports_what_goes(package: Path, goes: set[Path]) -> None:
    assert len(goes) > 500
    others = {package / "pipelines/text_to_audio.py", package / "exporters/utils.py"}  # for speech; not ours
    # The list in each folder's __init__ is made of the files that are there.
    stays = [each for each in package.rglob("*.py") if each not in goes | others and each.name != "__init__.py"]
    assert [
        f"{file.relative_to(package)}: {each.relative_to(package)}"
        for file in stays
        for each in imported(file, file.read_text())
        if each in goes
    ] == []
