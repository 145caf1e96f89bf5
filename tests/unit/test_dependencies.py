"""What is installed by default lies within what pyproject.toml promises to work with."""

import importlib.metadata
import platform
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edged import extras
from tests.support.without_torch import BLOCKED

ROOT = Path(__file__).parents[2]
# Of the metadata of torch's builds on the package index; all of 2.9.1's name one processor.
CUDA_ON_X86 = 'nvidia-cublas-cu12==12.8.4.1; platform_system == "Linux" and platform_machine == "x86_64"'
CUDA = "cuda-toolkit[cublas]==13.0.2; platform_system == 'Linux'"


def test_every_dependency_is_held_to_a_release_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    lines = (ROOT / "deploy/constraints.txt").read_text().splitlines()
    held = dict(line.split("==") for line in lines if not line.startswith("#"))
    # torch has builds of its own; deploy/install.sh chooses between them.
    requirements = [each for each in map(Requirement, asked) if each.name not in {"edged", "torch"}]
    wrong = [
        str(each) for each in requirements if not each.specifier.contains(held.get(canonicalize_name(each.name), "0"))
    ]
    assert requirements
    assert wrong == []


def test_what_an_installation_for_serving_leaves_out_is_what_serving_is_tested_without() -> None:
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())
    left_out = set(said["tool"]["edged"]["not-for-serving"])
    assert left_out <= {Requirement(each).name for each in said["project"]["dependencies"]}
    assert left_out <= BLOCKED


@pytest.mark.parametrize(
    ("machine", "good", "bad"),
    [
        ("x86_64", ("2.9.1", "2.10.0", "2.13.0"), ("2.8.0", "2.14.0")),
        # 2.10 does not run on a Raspberry Pi 4, and what follows is built for CUDA.
        ("aarch64", ("2.9.0", "2.9.1"), ("2.8.0", "2.10.0", "2.11.0", "2.13.0")),
    ],
)
def test_torch_of_every_machine_is_one_that_runs_there(
    machine: str, good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [each for each in map(Requirement, project["dependencies"]) if each.name == "torch"]
    (one,) = (each for each in asked if each.marker is None or each.marker.evaluate({"platform_machine": machine}))
    assert [each for each in (*good, *bad) if one.specifier.contains(each)] == [*good]
    first, on_arm = re.findall(r"(?m)^\s*torch=([\d.]+)", (ROOT / "deploy/install.sh").read_text())
    assert one.specifier.contains(on_arm if machine == "aarch64" else first)


@pytest.mark.parametrize(
    ("machine", "wanted", "is_for_gpu"),
    [
        ("x86_64", CUDA_ON_X86, True),
        ("aarch64", CUDA_ON_X86, False),
        ("aarch64", CUDA, True),
        ("x86_64", "sympy>=1.13.3", False),
    ],
)
def test_the_build_of_torch_is_known_by_what_it_wants_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, machine: str, wanted: str, *, is_for_gpu: bool
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [wanted])
    assert ("--cuda" in extras.how_to_install("top")) is is_for_gpu
