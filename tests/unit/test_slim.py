"""What deploy/slim.py takes out of an image's environment, and what it leaves."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def slim() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slim", Path(__file__).parents[2] / "deploy/slim.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert stripped[:2] == ["strip", "--strip-unneeded"]
    assert {Path(each).name for each in stripped[2:]} == {"libtorch.so", "edged-avx2.so"}


def test_the_code_of_models_that_write_text_and_what_it_uses_stays(slim: ModuleType, tmp_path: Path) -> None:
    put(tmp_path, "gpt/modeling_gpt.py", text="from ..shared.modeling_shared import x\nclass GptForCausalLM: ...")
    put(tmp_path, "shared/modeling_shared.py", "vision/modeling_vision.py", "vision/image_processing_vision.py")
    put(tmp_path, "vision/configuration_vision.py", "vision/tokenization_vision.py", "auto/modeling_auto.py")
    assert {each.name for each in slim.other_models(tmp_path)} == {"modeling_vision.py", "image_processing_vision.py"}


def test_an_environment_without_torch_is_slimmed_too(
    slim: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "lib/python3.11/site-packages", "edged/__init__.py", "edged/__pycache__/a.pyc")
    monkeypatch.setattr(sys, "argv", ["slim.py", str(tmp_path)])
    slim.main()
    assert [each.name for each in tmp_path.rglob("edged/*")] == ["__init__.py"]
