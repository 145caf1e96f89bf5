"""On how many threads, and on which CPUs, the model runs: `read` looks at the box, `choose` decides. No torch.

The threads of a step wait for each other, so the slowest one decides how long the step takes. A small core, a second
thread on the same core, or a thread that a CPU quota stops, makes the others wait.
"""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_SYS = Path("/sys")
_PROC = Path("/proc")
_CPUS = "devices/system/cpu"
_LARGE = 0.7  # of the capacity of the largest core: the little cores of big.LITTLE have a half or less
# intel_pstate and amd-pstate call their usual, load-driven governor "powersave".
_SCALES_IN_POWERSAVE = frozenset({"intel_pstate", "amd-pstate-epp"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Cpu:
    """A logical CPU as the kernel shows it.

    Attributes:
        core: the first CPU of the same physical core.
        capacity: how fast it is beside the others of the box; None where the kernel does not tell.
    """

    number: int
    core: int
    capacity: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """The CPUs of a box, as far as this process may use them.

    Attributes:
        online: how many CPUs the box has.
        allowed: those that the affinity of this process allows.
        quota: how many CPUs' time the process may take, by its control groups; None without a limit.
    """

    online: int
    allowed: tuple[Cpu, ...]
    quota: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cores:
    """What was chosen.

    Attributes:
        reason: why so many threads, in words.
        stay_on: the CPUs to which the threads are to be bound; empty where the kernel may place them on any.
    """

    threads: int
    reason: str
    stay_on: frozenset[int] = frozenset()


def choose(box: Box, *, wanted: int = 0, at_most: int | None = None) -> Cores:
    """Choose one thread for each large core, within the affinity and the CPU quota of the process.

    A quota is rounded to the nearest number: with 1.5 CPUs two threads do more than one, although they are stopped for
    a quarter of the time.

    Args:
        box: see `read`.
        wanted: the setting `engine.threads`; 0 leaves the choice.
        at_most: how many threads torch takes by itself, which `OMP_NUM_THREADS` may lower.
    """
    if wanted:
        return Cores(threads=wanted, reason="engine.threads")
    cores = list({cpu.core: cpu for cpu in reversed(box.allowed)}.values())[::-1]  # the first CPU of each
    largest = max((cpu.capacity or 0 for cpu in cores), default=0)
    large = [cpu for cpu in cores if cpu.capacity is None or cpu.capacity >= _LARGE * largest]
    threads = max(len(large), 1)
    reasons = []
    if len(box.allowed) < box.online:
        reasons.append(f"the affinity allows {len(box.allowed)} of {box.online} CPUs")
    if len(cores) < len(box.allowed):
        reasons.append("one thread for each physical core")
    if len(large) < len(cores):
        reasons.append(f"{len(large)} of {len(cores)} cores are large")
    if at_most is not None and at_most < threads:
        threads = at_most
        reasons.append(f"torch takes {at_most}")
    if box.quota is not None and (by_quota := max(math.floor(box.quota + 0.5), 1)) < threads:
        threads = by_quota
        reasons.append(f"the control group allows {box.quota:g} CPUs")
    return Cores(
        threads=threads,
        reason=", ".join(reasons) or "every core",
        stay_on=frozenset(cpu.number for cpu in large) if len(large) < len(cores) else frozenset(),
    )


def read(*, sys: Path = _SYS, proc: Path = _PROC, allowed: Iterable[int] | None = None) -> Box:
    """Look at the box. What a sandbox hides counts as not limited.

    Args:
        sys: where the kernel shows CPUs and control groups.
        proc: where it shows processes.
        allowed: the CPUs that this process may use; None asks the kernel.
    """
    numbers = sorted(_affinity() if allowed is None else allowed)
    online = _numbers(_text(sys / _CPUS / "online") or "")
    return Box(
        online=max(len(online), len(numbers)),
        allowed=tuple(_cpu(sys / _CPUS / f"cpu{number}", number) for number in numbers),
        quota=_quota(sys / "fs/cgroup", _text(proc / "self/cgroup") or ""),
    )


def saves_power(*, sys: Path = _SYS) -> bool:
    """Whether a governor holds a CPU at its lowest frequency, however much there is to do."""
    return any(
        _text(policy / "scaling_governor") == "powersave"
        and _text(policy / "scaling_driver") not in _SCALES_IN_POWERSAVE
        for policy in (sys / _CPUS).glob("cpu[0-9]*/cpufreq")
    )


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return {*range(os.cpu_count() or 1)}


def _cpu(folder: Path, number: int) -> Cpu:
    siblings = _numbers(_text(folder / "topology/thread_siblings_list") or "")
    capacity = _text(folder / "cpu_capacity")
    return Cpu(
        number=number,
        core=min(siblings, default=number),
        capacity=int(capacity) if capacity is not None and capacity.isdecimal() else None,
    )


def _quota(root: Path, groups: str) -> float | None:
    """The least quota of the control groups of a process and of those around them.

    Source: docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max), scheduler/sched-bwc.html (version 1).

    Args:
        root: where the control groups are mounted.
        groups: `/proc/self/cgroup`, with lines as `0::/a/b` (version 2) and `4:cpu,cpuacct:/a/b` (version 1).
    """
    quotas: list[float] = []
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        places = (root / controllers, root / "cpu") if controllers else (root, root / "unified")
        for folder in (each for place in places for each in _upwards(place, path)):
            limit, _, period = (_text(folder / "cpu.max") or "").partition(" ")
            quotas += _ratio(limit, period)
            quotas += _ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))
    return min(quotas, default=None)


def _upwards(place: Path, path: str) -> Iterator[Path]:
    """The folder of a control group and those of the groups around it. In a container some may not be visible."""
    parts = [part for part in path.split("/") if part not in {"", ".."}]
    return (place.joinpath(*parts[:count]) for count in range(len(parts), -1, -1))


def _ratio(limit: str | None, period: str | None) -> list[float]:
    """Microseconds of CPU time in each period, as a number of CPUs; empty without a limit ("max", or -1)."""
    if limit and period and limit.isdecimal() and period.isdecimal() and int(period):
        return [int(limit) / int(period)]
    return []


def _numbers(text: str) -> list[int]:
    """The numbers of a list as the kernel writes it: "0-3,6"."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found += range(int(first), int(last or first) + 1)
    return found


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="ascii").strip()
    return None
