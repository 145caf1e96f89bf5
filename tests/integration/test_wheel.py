"""The wheels of `deploy/build.sh`: what is in them, and a box without a compiler that is served by one."""

import hashlib
import json
import os
import platform
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edged.engine import bundled, loading
from edged.engine.decoders import native_library
from edged.engine.decoders.native_sets import SETS, Machine, file_name
from edged.engine.loading import Plan
from edged.settings.schema import EngineSettings, ModelSettings
from tests.support import assets, bare, tiny_chat
from tests.support.broker import Broker
from tests.support.daemon import Daemon, Watcher, publish

GLIBC = (2, 17)  # the oldest that the wheels are for


@pytest.mark.parametrize("machine", SETS)
def test_a_wheel_has_kernels_for_every_set_and_asks_for_little(machine: Machine) -> None:
    with zipfile.ZipFile(bare.wheel(machine)) as archive:
        libraries = {name for name in archive.namelist() if name.endswith(".so")}
        assert libraries == {f"edged/engine/built/{file_name(each)}" for each in SETS[machine]}
        for name in libraries:
            library = archive.read(name)
            asked = {tuple(map(int, each.split(b"."))) for each in re.findall(rb"GLIBC_(2\.\d+)", library)}
            assert max(asked) <= GLIBC
            assert not re.search(rb"lib(stdc|c)\+\+\.so", library)


def test_the_hashes_are_those_of_the_files() -> None:
    folder = assets.build() / "wheels"
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    told = {name: sha256 for sha256, name in (line.split() for line in lines)}
    for machine, sets in SETS.items():
        for file in (bare.wheel(machine), *(folder / "kernels" / machine / file_name(each) for each in sets)):
            assert told[str(file.relative_to(folder))] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_kernels_are_the_same_bytes_wherever_they_are_built() -> None:
    sums = (assets.build() / "wheels/SHA256SUMS").read_text()
    built = [line.replace("kernels/", "") for line in sums.splitlines() if line.endswith(".so")]
    recorded = (Path(__file__).parents[2] / "deploy/kernels.sha256").read_text().splitlines()
    assert built == recorded, "after a change of their sources: sh deploy/build.sh --record"


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
    name = file_name(native_library.instructions()[0])
    compiler = tmp_path / "g++"
    made = assets.build() / "wheels/kernels" / platform.machine() / name
    compiler.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp "{made}" "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(compiler))
    monkeypatch.setattr(native_library, "INSTALLED", tmp_path / "built")
    file = tmp_path / "built" / name
    file.parent.mkdir()
    file.write_bytes(b"of another C library")
    assert native_library.library(tmp_path / "cache") == tmp_path / "cache" / name
    assert native_library.install() == str(file)
    assert file.read_bytes() == made.read_bytes()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model's bundle."""
    checkpoint, store = tiny_chat.save(tmp_path_factory.mktemp("tiny")), tmp_path_factory.mktemp("store")
    model = ModelSettings(id=str(checkpoint), device="cpu")
    plan = Plan(path=checkpoint, model=model, engine=EngineSettings(), half_width=True, cache_dir=store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_library, "INSTALLED", assets.build() / "wheels" / "kernels" / platform.machine())
        loading.prepare(plan)
        made = bundled.find(plan)
    assert made is not None
    return made.folder


@pytest.fixture(scope="module")
def answer(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[str, dict[str, Any]]]:
    """Has the daemon of a Python answer one message; gives the name of its kernels, and the result."""

    def ask(python: Path) -> tuple[str, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("box")
        more = {
            "PATH": str(python.parent),  # no compiler
            "PYTHONPATH": "",
            "PYTHONSAFEPATH": "1",
            "EDGED_MODEL_DIR": str(folder / "store"),
            "EDGED_MODEL__ID": str(bundle),
            "EDGED_LANGUAGE": "en",
            "EDGED_ENGINE__THREADS": "1",
        }
        broker = Broker(folder=folder)
        broker.start()
        daemon = Daemon(folder=folder, broker=broker, python=str(python), more=more)
        daemon.start()
        try:
            daemon.wait_ready()
            watcher = Watcher(broker, f"{daemon.root}/info", f"{daemon.root}/out/message")
            model = watcher.next_json()["model"]
            request = {"text": "I love this phone.", "params": {"temperature": 0, "max_tokens": 8}}
            publish(broker, f"{daemon.root}/in/message", json.dumps(request))
            result = watcher.next_json()
            watcher.stop()
            assert daemon.stop() == 0
        finally:
            daemon.kill()
            broker.stop()
        assert not (folder / "store/kernels").exists()  # nothing was compiled
        assert result["status"] == "ok"
        return model["kernels"], result

    return ask


@pytest.fixture(scope="module")
def answered_here(
    answer: Callable[[Path], tuple[str, dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    return answer(bare.of_this_machine(tmp_path_factory.mktemp("bare"), platform.machine()))


def test_a_box_without_a_compiler_answers_by_the_kernels_of_the_wheel(
    answered_here: tuple[str, dict[str, Any]],
) -> None:
    kernels, result = answered_here
    assert kernels == native_library.instructions()[0].name
    assert result["sentiment"]["label"] in {"positive", "negative", "neutral"}


@pytest.mark.skipif("EDGED_TEST_ARM64" not in os.environ, reason="takes a minute; run with EDGED_TEST_ARM=long")
def test_a_box_of_arm_gives_the_same_answer_by_its_wheel(
    answer: Callable[[Path], tuple[str, dict[str, Any]]],
    answered_here: tuple[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    kernels, result = answer(bare.of_arm64(tmp_path, "cortex-a72"))
    assert kernels == "neon"
    assert result["reply"] == answered_here[1]["reply"]
    assert result["sentiment"]["scores"] == pytest.approx(answered_here[1]["sentiment"]["scores"], abs=1e-3)
