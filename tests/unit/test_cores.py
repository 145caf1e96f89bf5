"""Which cores the model runs on: made-up boxes in, threads and the reason out."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from edged.engine.cores import Box, Cores, Cpu, choose, read, saves_power

CPU = "sys/devices/system/cpu"


def box(folder: Path, files: Mapping[str, str]) -> dict[str, Path]:
    """Write what a kernel would show."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return {"sys": folder / "sys", "proc": folder / "proc"}


def rk3588() -> dict[str, str]:
    """Four small cores, then four large ones."""
    capacities = [530] * 4 + [1024] * 4
    return {f"{CPU}/online": "0-7"} | {f"{CPU}/cpu{n}/cpu_capacity": str(each) for n, each in enumerate(capacities)}


def hyperthreads() -> dict[str, str]:
    """Four cores; CPU n and n + 4 are on one core."""
    return {f"{CPU}/online": "0-7"} | {
        f"{CPU}/cpu{n}/topology/thread_siblings_list": f"{n % 4},{n % 4 + 4}" for n in range(8)
    }


@pytest.mark.parametrize(
    ("files", "allowed", "chosen"),
    [
        ({}, range(4), Cores(threads=4, reason="every core")),
        ({f"{CPU}/cpu{n}/cpu_capacity": "1024" for n in range(4)}, range(4), Cores(threads=4, reason="every core")),
        (
            rk3588(),
            range(8),
            Cores(threads=4, reason="4 of 8 cores are large", stay_on=frozenset({4, 5, 6, 7})),
        ),
        (rk3588(), range(4), Cores(threads=4, reason="the affinity allows 4 of 8 CPUs")),
        (hyperthreads(), range(8), Cores(threads=4, reason="one thread for each physical core")),
        (hyperthreads(), {0, 1}, Cores(threads=2, reason="the affinity allows 2 of 8 CPUs")),
        (
            hyperthreads(),
            {5, 1},
            Cores(threads=1, reason="the affinity allows 2 of 8 CPUs, one thread for each physical core"),
        ),
    ],
)
def test_one_thread_for_each_large_core_that_is_allowed(
    tmp_path: Path, files: Mapping[str, str], allowed: range, chosen: Cores
) -> None:
    assert choose(read(**box(tmp_path, files), allowed=allowed)) == chosen


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b", f"{V2}/a/cpu.max": "50000 100000", f"{V2}/a/b/cpu.max": "max 100000"}, 0.5),
        ({"proc/self/cgroup": "0::/a/b", f"{V2}/a/cpu.max": "200000 100000", f"{V2}/a/b/cpu.max": "30000 20000"}, 1.5),
        ({"proc/self/cgroup": "0::/../../x", f"{V2}/cpu.max": "300000 100000"}, 3.0),  # a container sees no further
        (
            {
                "proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/docker/1\n0::/",
                f"{V1}/docker/1/cpu.cfs_quota_us": "250000",
                f"{V1}/docker/1/cpu.cfs_period_us": "100000",
                f"{V1}/cpu.cfs_quota_us": "-1",
                f"{V1}/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
        ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "rubbish"}, None),
        ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "100000 0"}, None),
    ],
)
def test_the_least_quota_of_all_control_groups_counts(
    tmp_path: Path, files: Mapping[str, str], quota: float | None
) -> None:
    assert read(**box(tmp_path, files), allowed=range(8)).quota == quota


@pytest.mark.parametrize(
    ("quota", "threads"), [(None, 4), (0.2, 1), (1.0, 1), (1.4, 1), (1.5, 2), (2.4, 2), (4.0, 4), (9.0, 4)]
)
def test_a_quota_is_rounded_to_whole_threads(quota: float | None, threads: int) -> None:
    four = Box(online=4, allowed=tuple(Cpu(number=n, core=n) for n in range(4)), quota=quota)
    chosen = choose(four)
    assert chosen.threads == threads
    assert ("control group" in chosen.reason) == (threads < 4)


def test_the_setting_and_torchs_own_limit_count() -> None:
    four = Box(online=4, allowed=tuple(Cpu(number=n, core=n) for n in range(4)))
    assert choose(four, wanted=3, at_most=1) == Cores(threads=3, reason="engine.threads")
    assert choose(four, at_most=2) == Cores(threads=2, reason="torch takes 2")
    assert choose(four, at_most=8) == Cores(threads=4, reason="every core")


@pytest.mark.parametrize(
    ("governor", "driver", "warned"),
    [
        ("powersave", "cpufreq-dt", True),
        ("powersave", "intel_pstate", False),
        ("powersave", "amd-pstate-epp", False),
        ("schedutil", "cpufreq-dt", False),
    ],
)
def test_a_governor_that_holds_a_cpu_slow_is_found(tmp_path: Path, governor: str, driver: str, warned: bool) -> None:
    files = {f"{CPU}/cpu0/cpufreq/scaling_governor": "ondemand", f"{CPU}/cpu4/cpufreq/scaling_governor": governor}
    assert saves_power(sys=box(tmp_path, files | {f"{CPU}/cpu4/cpufreq/scaling_driver": driver})["sys"]) is warned
    assert not saves_power(sys=tmp_path / "hidden")
