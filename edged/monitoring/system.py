"""Readings of the box: processor, memory, disk, temperature. A figure that the box does not provide is None.

A reading never raises: sandboxes hide parts of /proc, and drivers of sensors fail now and then.
"""

import contextlib
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from edged.contract.health import SystemFigures

_MIB = 1 << 20
_DAY_S = 86400
_RATE_AFTER_S = 3600  # the start writes more than the hours behind it
_SYS = Path("/sys")
_THROTTLED = "devices/platform/soc/soc:firmware/get_throttled"  # Raspberry Pi
_BOARD = "firmware/devicetree/base/model"
_THROTTLED_NOW = 0xF  # under-voltage, frequency capped, throttled, soft temperature limit; higher bits: since the boot
_CPU_SENSORS = ("cpu_thermal", "cpu-thermal", "soc_thermal", "soc-thermal", "coretemp", "k10temp", "zenpower", "acpitz")
_NOT_TOLD = (OSError, psutil.Error, LookupError, ValueError, AttributeError)


def read(folder: Path, *, sys: Path = _SYS) -> SystemFigures:
    """Read all figures; `folder` is on the disk that is meant, `sys` is where the kernel shows its devices."""
    throttled = _number(lambda: int((sys / _THROTTLED).read_text(), 16))
    return SystemFigures(
        cpu_percent=_number(psutil.cpu_percent),
        load=_number(lambda: psutil.getloadavg()[0], digits=2),
        memory_rss_mb=_number(lambda: psutil.Process().memory_info().rss / _MIB),
        memory_available_mb=_number(lambda: psutil.virtual_memory().available / _MIB),
        temperature_c=_number(_temperature),
        throttled=None if throttled is None else bool(int(throttled) & _THROTTLED_NOW),
        disk_free_mb=_number(lambda: psutil.disk_usage(str(folder)).free / _MIB),
        disk_written_mb=_number(lambda: _written() / _MIB),
        disk_written_mb_per_day=_number(lambda: _written() / _MIB * _DAY_S / _old_enough(_age_s())),
    )


def _written() -> int:
    """Bytes that this process has had written to disks: the kernel's own count, `write_bytes` of proc(5)."""
    return int(psutil.Process().io_counters().write_bytes)


def _age_s() -> float:
    return time.time() - psutil.Process().create_time()


def _old_enough(age_s: float) -> float:
    """Give the age of the process.

    Raises:
        ValueError: it is so young that a rate since its start says nothing.
    """
    if age_s < _RATE_AFTER_S:
        raise ValueError("too young")
    return age_s


def temperature() -> float | None:
    """Degrees Celsius of the processor; None where the box does not tell."""
    return _number(_temperature)


def cpu_name(*, proc: Path = Path("/proc"), sys: Path = _SYS) -> str:
    """Name the processor as people know it: x86 tells the name of the processor, ARM boards that of the board."""
    with contextlib.suppress(OSError):
        for line in (proc / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    with contextlib.suppress(OSError):
        return (sys / _BOARD).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    return platform.processor() or platform.machine() or "unknown"


def peak_memory_mb(*, proc: Path = Path("/proc")) -> float:
    """Give the most resident memory (MiB) that this process has had.

    The kernel's own count is preferred: getrusage's starts with the memory of the process that started this one.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (proc / "self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _number(reading: Callable[[], float], digits: int = 1) -> float | None:
    with contextlib.suppress(*_NOT_TOLD):
        return round(reading(), digits)
    return None


def _temperature() -> float:
    """Degrees Celsius of the first sensor that is known to sit at the processor.

    Raises:
        LookupError: there is none.
    """
    sensors = psutil.sensors_temperatures()
    name = next((name for name in _CPU_SENSORS if sensors.get(name)), None)
    if name is None:
        raise LookupError("no sensor of the processor")
    return sensors[name][0].current
