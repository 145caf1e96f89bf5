"""The read bandwidth of this box, and the caches that a kernel shows."""

import math
from pathlib import Path

import pytest

from edged.bench import bandwidth


def caches(folder: Path, *sizes: str) -> Path:
    for i, size in enumerate(sizes):
        (folder / f"cache/index{i}").mkdir(parents=True)
        (folder / f"cache/index{i}/size").write_text(size)
    return folder


@pytest.mark.parametrize(
    ("sizes", "largest"),
    [
        (("32K\n", "1024K\n", "32768K\n"), 32 << 20),
        (("48K\n", "2M\n"), 2 << 20),
        (("what\n", "512\n", "\n"), 512),
        ((), 0),
    ],
)
def test_the_largest_cache_is_found(tmp_path: Path, sizes: tuple[str, ...], largest: int) -> None:
    assert bandwidth.cache_bytes(caches(tmp_path, *sizes)) == largest


@pytest.mark.parametrize("threads", [1, 3])
def test_this_box_reads_its_memory(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(bandwidth, "_buffer_bytes", lambda: 16 << 20)  # eight large caches take seconds
    measured = bandwidth.read_bandwidth(threads)
    assert math.isfinite(measured)
    assert measured > 0
