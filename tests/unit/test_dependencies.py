"""What is installed by default lies within what pyproject.toml promises to work with."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.without_torch import BLOCKED

ROOT = Path(__file__).parents[2]


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
