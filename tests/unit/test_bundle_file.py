"""A bundle as one file: what comes in is what went out, and nothing else comes in."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edged.errors import ModelUnavailable
from edged.models.bundle import MANIFEST, SCHEMA, Origin, export, import_bundle, is_bundle, verify, write_manifest
from edged.models.store import Store

FILES = {"weights.safetensors": b"w" * 5000, "tokenizer.json": b"{}", "LICENSE": b"Do what you like."}
Members = dict[str, bytes]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    write_manifest(folder, FILES, Origin(model="tiny", made_of="abc"), {"any": "thing"})
    return folder


def members_of(file: Path) -> Members:
    with tarfile.open(file) as archive:
        return {each.name: (archive.extractfile(each) or io.BytesIO()).read() for each in archive}


def written(file: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def test_what_comes_in_is_what_went_out(made: Path, tmp_path: Path) -> None:
    file, again = tmp_path / "a.tar", tmp_path / "b.tar"
    export(made, file)
    store = Store(tmp_path / "store")
    assert store.import_bundle(file, check=verify) == "a"
    folder = store.path("a")
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == {
        each.name: each.read_bytes() for each in made.iterdir()
    }
    assert "a whole bundle" in store.verify("a")
    assert any(line.startswith("a ") for line in store.describe())
    export(folder, again)
    assert again.read_bytes() == file.read_bytes()
    assert [each.name for each in tmp_path.glob(".*")] == []


def _manifest(members: Members, **changes: object) -> Members:
    said = json.loads(members[MANIFEST])
    return {**members, MANIFEST: json.dumps(said | changes).encode()}


def _named(members: Members, name: str) -> Members:
    """A bundle whose manifest names a file of this name, and which has it."""
    said = json.loads(members[MANIFEST])
    said["files"][name] = said["files"]["LICENSE"]
    return {**members, MANIFEST: json.dumps(said).encode(), name: members["LICENSE"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m | {"LICENSE": b"Do what I like.."}, "LICENSE has another size or checksum"),
        (lambda m: m | {"LICENSE": b"Do what you hate."}, "LICENSE has another size or checksum"),
        (lambda m: m | {"more": b"x"}, "does not name 'more'"),
        (lambda m: m | {"../out": b"x"}, "does not name '../out'"),
        (lambda m: _named(m, "../out"), r"bundle\.json of .* is damaged: files"),
        (lambda m: _named(m, "/out"), r"bundle\.json of .* is damaged: files"),
        (lambda m: _named(m, "a/b"), r"bundle\.json of .* is damaged: files"),
        (lambda m: {k: v for k, v in m.items() if k != "LICENSE"}, "cut short: it holds no LICENSE"),
        (lambda m: {k: v for k, v in m.items() if k != MANIFEST}, "does not begin with"),
        (lambda m: _manifest(m, edged_bundle=SCHEMA + 1), f"schema {SCHEMA + 1}, and this release .* update edged"),
        (
            lambda m: _manifest(m, edged_bundle=SCHEMA - 1),
            f"schema {SCHEMA - 1}, and this release .* prepare the model",
        ),
        (lambda m: _manifest(m, more=1), "damaged: more"),
        (lambda m: m | {MANIFEST: b"{"}, "is no JSON"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_and_the_bundle_in_use_stays(
    made: Path, tmp_path: Path, change: Callable[[Members], Members], words: str
) -> None:
    export(made, tmp_path / "good.tar")
    folder = tmp_path / "store" / "tiny"
    import_bundle(tmp_path / "good.tar", folder)
    bad = written(tmp_path / "bad.tar", change(members_of(tmp_path / "good.tar")))
    with pytest.raises(ModelUnavailable, match=words):
        import_bundle(bad, folder)
    verify(folder)
    assert [each.name for each in folder.parent.iterdir()] == ["tiny"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [0, 100, 600, 3000, -2000])
def test_a_file_that_is_cut_short_is_refused(made: Path, tmp_path: Path, size: int) -> None:
    export(made, tmp_path / "good.tar")
    content = (tmp_path / "good.tar").read_bytes().rstrip(b"\0")
    (tmp_path / "cut.tar").write_bytes(content[:size])
    with pytest.raises(ModelUnavailable, match=r"cut short|no exported bundle"):
        import_bundle(tmp_path / "cut.tar", tmp_path / "store" / "tiny")
    assert not any((tmp_path / "store").iterdir())


def test_a_link_is_no_file_of_a_bundle(made: Path, tmp_path: Path) -> None:
    export(made, tmp_path / "good.tar")
    content = members_of(tmp_path / "good.tar")
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        first = tarfile.TarInfo(MANIFEST)
        first.size = len(content[MANIFEST])
        archive.addfile(first, io.BytesIO(content[MANIFEST]))
        link = tarfile.TarInfo("LICENSE")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ModelUnavailable, match="does not name 'LICENSE'"):
        import_bundle(tmp_path / "bad.tar", tmp_path / "store" / "tiny")


def test_a_bundle_that_cannot_be_served_is_not_put_in_place(made: Path, tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        assert is_bundle(folder)
        raise ModelUnavailable("its template loops")

    export(made, tmp_path / "a.tar")
    with pytest.raises(ModelUnavailable, match="loops"):
        Store(tmp_path / "store").import_bundle(tmp_path / "a.tar", check=refuse)
    assert not any((tmp_path / "store" / "bundles").iterdir())


@pytest.mark.parametrize("name", ["../a", "a/b", ".a", "", "ü", "a" * 65])
def test_a_name_that_climbs_out_is_no_name(made: Path, tmp_path: Path, name: str) -> None:
    export(made, tmp_path / "a.tar")
    if name:
        with pytest.raises(ModelUnavailable, match="cannot name a bundle"):
            Store(tmp_path / "store").import_bundle(tmp_path / "a.tar", name, check=verify)


def test_a_damaged_bundle_is_not_exported(made: Path, tmp_path: Path) -> None:
    (made / "LICENSE").write_bytes(b"Do what you hate.")
    with pytest.raises(ModelUnavailable, match="LICENSE has another checksum"):
        export(made, tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()


def test_a_power_cut_while_a_bundle_is_replaced_leaves_the_old_one(made: Path, tmp_path: Path) -> None:
    export(made, tmp_path / "a.tar")
    store = Store(tmp_path / "store")
    store.import_bundle(tmp_path / "a.tar", check=verify)
    folder = store.path("a")
    folder.rename(folder.with_name(".a.old"))  # as between the two renames of an import
    assert store.path("a") == folder
    verify(folder)
    folder.rename(folder.with_name(".a.old"))
    (tmp_path / "bad.tar").write_bytes(b"")
    with pytest.raises(ModelUnavailable):
        store.import_bundle(tmp_path / "bad.tar", "a", check=verify)
    verify(folder)
    assert [each.name for each in folder.parent.iterdir()] == ["a"]
