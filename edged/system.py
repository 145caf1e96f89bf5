"""Readings of the box: processor, memory, disk, heat. What a box does not tell is None."""

import contextlib
from pathlib import Path

import psutil

from edged.ports import Readings

_MIB = 1 << 20
_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")  # Raspberry Pi
_THROTTLED_NOW = 0xF  # under-voltage, frequency capped, throttled, soft temperature limit
_CPU_SENSORS = ("cpu_thermal", "cpu-thermal", "coretemp", "k10temp", "soc_thermal")


def read(folder: Path) -> Readings:
    """Read all; `folder` is on the disk in question. A hidden /proc or a missing sensor gives None."""
    cpu = load = rss = available = disk = None
    with contextlib.suppress(OSError, psutil.Error):
        cpu = psutil.cpu_percent()
    with contextlib.suppress(OSError):
        load = round(psutil.getloadavg()[0], 2)
    with contextlib.suppress(OSError, psutil.Error):
        rss = round(psutil.Process().memory_info().rss / _MIB, 1)
    with contextlib.suppress(OSError, psutil.Error):
        available = round(psutil.virtual_memory().available / _MIB, 1)
    with contextlib.suppress(OSError):
        disk = round(psutil.disk_usage(str(folder)).free / _MIB, 1)
    return Readings(
        cpu_percent=cpu,
        load=load,
        memory_rss_mb=rss,
        memory_available_mb=available,
        temperature_c=_temperature(),
        throttled=throttled(),
        disk_free_mb=disk,
    )


def _temperature() -> float | None:
    with contextlib.suppress(OSError, AttributeError, psutil.Error):
        sensors = psutil.sensors_temperatures()
        for name in _CPU_SENSORS:
            if sensors.get(name):
                return round(sensors[name][0].current, 1)
    return None


def throttled(path: Path = _THROTTLED) -> bool | None:
    """Whether a Raspberry Pi is slowed down at this moment by heat or a weak supply."""
    try:
        return bool(int(path.read_text(), 16) & _THROTTLED_NOW)
    except (OSError, ValueError):
        return None
