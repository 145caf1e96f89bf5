"""The units for systemd: what they promise, and that they agree with the code."""

import re
from pathlib import Path

import pytest

from edged.errors import ExitCode
from edged.settings import load as config
from edged.settings.schema import Settings

UNITS = Path(__file__).parents[2] / "systemd"
SERVICE, TEMPLATE = UNITS / "edged.service", UNITS / "edged@.service"


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


def test_the_start_waits_for_no_network() -> None:
    ordering = {name: each.split() for name, each in settings(SERVICE) if name in {"After", "Wants", "Requires"}}
    assert ordering == {"After": ["network.target", "time-sync.target", "mosquitto.service"]}


def test_a_crash_loop_ends_and_an_operator_may_start_again_and_again() -> None:
    starts, interval = int(value("StartLimitBurst")), int(value("StartLimitIntervalSec"))
    assert starts >= 10  # systemd counts those of an operator, who tries settings
    assert starts * (int(value("RestartSec")) + int(value("TimeoutStartSec"))) < interval  # also of a slow box
