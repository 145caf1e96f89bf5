"""The scripts of deploy/ and the units of systemd/, run by the programs that they are for."""

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edged.settings import load as config

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
SERVICE, TEMPLATE = UNITS / "edged.service", UNITS / "edged@.service"
EXPOSURE = 1.5  # the most, of 10, by `systemd-analyze security`

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this box")


def test_the_installer_knows_the_options_that_the_containerfile_gives_it() -> None:
    text = re.sub(r"\\\n\s*", "", (ROOT / "deploy/Containerfile").read_text())
    (line,) = (each for each in text.splitlines() if each.startswith("RUN") and "install.sh" in each)
    told = subprocess.run(
        ["sh", ROOT / "deploy/install.sh", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert {*re.findall(r"--\w+", line)} <= {*re.findall(r"--\w+", told)}


def test_an_installation_for_serving_gets_all_requirements_but_those_that_make_models() -> None:
    script = (ROOT / "deploy/install.sh").read_text()
    program = script.partition("<<'PY'\nimport re, sys, tomllib")[2].partition("\nPY\n")[0]
    program = f"import re, sys, tomllib{program}"
    arguments = [sys.executable, "-c", program, str(ROOT / "pyproject.toml"), "extract,demo"]
    told = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.splitlines()
    names = {Requirement(each).name for each in told}
    assert {"numpy", "tokenizers", "jinja2", "paho-mqtt", "llguidance", "amqtt"} <= names
    assert not names & {"torch", "transformers", "accelerate", "edged"}


@needs_systemd
@pytest.mark.parametrize("unit", [SERVICE, TEMPLATE], ids=lambda unit: unit.name)
def test_systemd_understands_the_unit_and_finds_it_hardly_exposed(unit: Path, tmp_path: Path) -> None:
    program = tmp_path / "edged"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / unit.name.replace("@", "@kitchen")
    copy.write_text(unit.read_text().replace("/opt/edged/bin/edged", str(program)))
    for drop_in in sorted((UNITS / "examples").iterdir()):
        folder = tmp_path / f"{copy.name}.d"
        folder.mkdir(exist_ok=True)
        shutil.copy(drop_in, folder)
    assert _analyze("verify", str(copy)).splitlines() == []
    said = _analyze("security", "--offline=true", str(unit))
    found = re.search(r"Overall exposure level .*: ([\d.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= EXPOSURE


def test_a_box_is_installed_upgraded_and_cleaned(tmp_path: Path) -> None:
    def system(*arguments: str) -> None:
        script = UNITS.parent / "deploy" / "system.sh"
        subprocess.run(["sh", script, *arguments, "--root", tmp_path], check=True, timeout=60, capture_output=True)

    def files() -> dict[str, int]:
        return {str(each.relative_to(tmp_path)): each.stat().st_mode for each in tmp_path.rglob("*") if each.is_file()}

    system("install")
    file = tmp_path / "etc/edged/edged.toml"
    assert config.load(flags={}, config_file=file) == config.load(flags={}, config_file=None)
    assert (tmp_path / "etc/systemd/system/edged.service").read_bytes() == SERVICE.read_bytes()
    assert stat.S_IMODE((tmp_path / "etc/edged/credentials").stat().st_mode) == 0o700
    assert not [path for path, mode in files().items() if mode & 0o022]

    for model in ("/srv/a & b|c.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct"):
        system("install", "--model", model)
        assert config.load(flags={}, config_file=file).model.id == model
    file.write_text('node = "kitchen"\n' + file.read_text())
    system("install")
    settings = config.load(flags={}, config_file=file)
    assert (settings.node, settings.model.id) == ("kitchen", "HuggingFaceTB/SmolLM2-135M-Instruct")

    system("uninstall")
    assert set(files()) == {"etc/edged/edged.toml"}
    system("uninstall", "--purge")
    assert not files()


def _analyze(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr
