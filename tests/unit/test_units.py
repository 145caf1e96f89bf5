"""The units for systemd: what they promise, and that they agree with the code."""

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from edged.errors import ExitCode
from edged.settings import load as config
from edged.settings.schema import Settings

UNITS = Path(__file__).parents[2] / "systemd"
SERVICE, TEMPLATE = UNITS / "edged.service", UNITS / "edged@.service"
EXPOSURE = 1.5  # the most, of 10, by `systemd-analyze security`

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this box")


def settings(unit: Path) -> list[tuple[str, str]]:
    """The unit's lines, in order; a name may come several times."""
    lines = (line.partition("=") for line in unit.read_text().splitlines() if re.match(r"\w+=", line))
    return [(name, value) for name, _, value in lines]


def value(name: str) -> str:
    (only,) = (value for each, value in settings(SERVICE) if each == name)
    return only


def test_the_template_is_the_service_but_for_the_names_of_its_instance() -> None:
    differing = {name for name, _ in set(settings(TEMPLATE)) ^ set(settings(SERVICE))}
    assert differing == {"Description", "Environment", "ExecStart", "RuntimeDirectory", "StateDirectory"}


def test_what_does_not_mend_itself_is_not_started_again() -> None:
    kept_down = {ExitCode(int(code)) for code in value("RestartPreventExitStatus").split()}
    assert kept_down == {ExitCode.USAGE, ExitCode.MODEL, ExitCode.BROKER}
    assert int(value("SuccessExitStatus")) == ExitCode.INTERRUPTED


def test_the_credentials_are_those_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, folder = value("LoadCredential").partition(":")
    assert folder == "/etc/edged/credentials"
    for file in ("username", "password"):  # systemd.exec(5): the files of a folder become NAME_FILE
        (tmp_path / f"{name}_{file}").write_text(f"a {file}\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    mqtt = config.load(flags={}, config_file=None).mqtt
    assert mqtt.username == "a username"
    assert mqtt.password is not None
    assert mqtt.password.get_secret_value() == "a password"


def test_the_times_agree_with_the_daemon() -> None:
    assert float(value("TimeoutStopSec")) > Settings().shutdown_timeout + 15  # for the last words
    # The watchdog starves when a part has stood still for `stall_after`, and acts before the daemon ends itself.
    assert 3 < float(value("WatchdogSec")) < Settings().health.stall_after


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
