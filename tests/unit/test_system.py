"""Readings of the real box, and of boxes that hide things."""

import json
import math
import platform
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from edged.contract.health import SystemFigures
from edged.monitoring import system

Sensor = namedtuple("Sensor", "label current")  # noqa: PYI024 - as psutil's own


def test_this_box_tells_what_every_linux_tells(tmp_path: Path) -> None:
    readings = system.read(tmp_path)
    told = (
        readings.cpu_percent,
        readings.load,
        readings.memory_rss_mb,
        readings.memory_available_mb,
        readings.disk_free_mb,
        readings.disk_written_mb,
    )
    assert all(value is not None and math.isfinite(value) and value >= 0 for value in told)
    assert (readings.memory_rss_mb or 0) > 1
    json.dumps(readings.model_dump(), allow_nan=False)


def test_a_box_that_hides_everything_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden() -> tuple[float, float, float]:
        raise OSError("hidden")

    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    monkeypatch.setattr(psutil, "getloadavg", hidden)
    monkeypatch.setattr(psutil, "sensors_temperatures", dict)
    readings = system.read(tmp_path / "nowhere", sys=tmp_path)
    assert readings.model_dump() == dict.fromkeys(SystemFigures.model_fields)


def test_what_is_written_a_day_is_told_once_the_start_no_longer_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_written", lambda: 3 << 20)
    for age_s, told in ((60.0, None), (7200.0, 36.0), (86400.0, 3.0)):
        monkeypatch.setattr(system, "_age_s", lambda age_s=age_s: age_s)
        readings = system.read(tmp_path)
        assert (readings.disk_written_mb, readings.disk_written_mb_per_day) == (3.0, told)


@pytest.mark.parametrize(
    ("content", "throttled"),
    [("0", False), ("0x50000\n", False), ("50005", True), ("0x1\n", True), ("8", True), ("", None), ("what", None)],
)
def test_a_raspberry_pi_tells_whether_it_is_throttled_now(tmp_path: Path, content: str, throttled: bool | None) -> None:
    file = tmp_path / "devices/platform/soc/soc:firmware/get_throttled"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert system.read(tmp_path, sys=tmp_path).throttled is throttled


@pytest.mark.parametrize(
    ("sensors", "celsius"),
    [
        ({"cpu_thermal": [Sensor("", 51.54)]}, 51.5),
        ({"nvme": [Sensor("", 30.0)], "coretemp": [Sensor("Package id 0", 60.0), Sensor("Core 0", 55.0)]}, 60.0),
        ({"k10temp": [], "acpitz": [Sensor("", 27.8)]}, 27.8),
        ({"nvme": [Sensor("", 30.0)]}, None),
        ({}, None),
    ],
)
def test_the_processors_own_sensor_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sensors: dict[str, list[Sensor]], celsius: float | None
) -> None:
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors)
    assert system.read(tmp_path).temperature_c == system.temperature() == celsius


def test_a_moody_sensor_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def moody() -> None:
        raise ValueError("could not convert string to float")

    monkeypatch.setattr(psutil, "sensors_temperatures", moody)
    readings = system.read(tmp_path)
    assert readings.temperature_c is None
    assert readings.disk_free_mb is not None


@pytest.mark.parametrize(
    ("cpuinfo", "board", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 9B14\nmodel name\t: other\n", None, "AMD EPYC 9B14"),
        ("processor\t: 0\nCPU part\t: 0xd0b\n", "Raspberry Pi 5 Model B Rev 1.0\0", "Raspberry Pi 5 Model B Rev 1.0"),
        (None, None, platform.processor() or platform.machine()),
    ],
    ids=["x86", "arm", "hidden"],
)
def test_the_processor_has_a_name(tmp_path: Path, cpuinfo: str | None, board: str | None, name: str) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    if board is not None:
        (tmp_path / "firmware/devicetree/base").mkdir(parents=True)
        (tmp_path / "firmware/devicetree/base/model").write_text(board)
    assert system.cpu_name(proc=tmp_path, sys=tmp_path) == name


def test_peak_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("Name:\tedged\nVmHWM:\t  204800 kB\nVmRSS:\t 1024 kB\n")
    assert system.peak_memory_mb(proc=tmp_path) == 200


def test_peak_memory_is_known_where_the_kernel_hides_it(tmp_path: Path) -> None:
    assert system.peak_memory_mb(proc=tmp_path) > 1
