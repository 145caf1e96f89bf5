"""The wheels of `deploy/build.sh`: what is in them, and a box without a compiler that is served by one."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from edged.engine.decoders import native_library
from edged.engine.decoders.native_sets import SETS, Machine, file_name
from tests.support import assets
from tests.support.broker import Broker
from tests.support.daemon import Daemon, Watcher, publish

GLIBC = (2, 17)  # the oldest that the wheels are for


def wheel(machine: str) -> Path:
    (found,) = (assets.build() / "wheels").glob(f"edged-*-manylinux_2_17_{machine}.whl")
    return found


@pytest.mark.parametrize("machine", SETS)
def test_a_wheel_has_kernels_for_every_set_and_asks_for_little(machine: Machine) -> None:
    with zipfile.ZipFile(wheel(machine)) as archive:
        libraries = {name for name in archive.namelist() if name.endswith(".so")}
        assert libraries == {f"edged/engine/built/{file_name(each)}" for each in SETS[machine]}
        for name in libraries:
            library = archive.read(name)
            asked = {tuple(map(int, each.split(b"."))) for each in re.findall(rb"GLIBC_(2\.\d+)", library)}
            assert max(asked) <= GLIBC
            assert b"libstdc++.so" not in library


def test_the_hashes_are_those_of_the_files() -> None:
    folder = assets.build() / "wheels"
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    told = {name: sha256 for sha256, name in (line.split() for line in lines)}
    for machine, sets in SETS.items():
        for file in (wheel(machine), *(folder / "kernels" / machine / file_name(each) for each in sets)):
            assert told[str(file.relative_to(folder))] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_installer_takes_the_kernels_of_a_wheel_before_it_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_library, "INSTALLED", tmp_path / "built")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "apt install g++" in native_library.install(tmp_path)
    (tmp_path / f"edged-0-py3-none-manylinux_2_17_{platform.machine()}.whl").write_bytes(b"half a wheel")
    assert "apt install g++" in native_library.install(tmp_path)
    expected = tmp_path / "built" / file_name(native_library.instructions()[0])
    assert native_library.install(tmp_path, assets.build() / "wheels") == str(expected)
    assert native_library.library(tmp_path / "cache") == expected


def test_a_library_that_this_system_cannot_load_is_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_library, "INSTALLED", tmp_path)
    file = tmp_path / file_name(native_library.instructions()[0])
    file.write_bytes(b"of another C library")
    if shutil.which("c++") is None:
        pytest.skip("no compiler here")
    assert native_library.library(tmp_path / "cache").parent == tmp_path / "cache"
    assert native_library.install() == str(file)
    assert file.stat().st_size > 1000


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """An environment with the wheel in it. Its other packages are those of this one."""
    folder = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin/python")]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", wheel(platform.machine())], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def test_a_box_without_a_compiler_answers_by_the_kernels_of_the_wheel(bare: Path, tmp_path: Path) -> None:
    python = str(bare / "bin/python")
    without = {"PATH": str(bare / "bin"), "PYTHONPATH": "", "PYTHONSAFEPATH": "1", "EDGED_ENGINE__THREADS": "2"}
    without["EDGED_STATE_DIR"] = str(tmp_path / "state")
    without["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    best = native_library.instructions()[0]
    (shipped,) = bare.glob(f"lib/python*/site-packages/edged/engine/built/{file_name(best)}")
    install = "from edged.engine.decoders import native_library; print(native_library.install())"
    done = subprocess.run(
        [python, "-c", install], env={**os.environ, **without}, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(shipped)

    broker = Broker(folder=tmp_path)
    broker.start()
    daemon = Daemon(folder=tmp_path, broker=broker, python=python, more=without)
    daemon.start()
    try:
        daemon.wait_ready()
        watcher = Watcher(broker, f"{daemon.root}/info", f"{daemon.root}/out/sentiment")
        model = watcher.next_json()["model"]
        assert (model["format"], model["kernels"]) == ("int8", best.name)
        publish(broker, f"{daemon.root}/in/sentiment", "I love this, it is wonderful.")
        assert watcher.next_json()["sentiment"]["label"] == "positive"
        watcher.stop()
        assert daemon.stop() == 0
    finally:
        daemon.kill()
        broker.stop()
    assert not list(tmp_path.rglob("kernels/edged-*"))  # nothing was compiled
