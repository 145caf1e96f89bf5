"""A bundle: one folder with all that serving a model needs, and its manifest. Knows no tensors and loads no model.

The folder holds `bundle.json` (the manifest: schema version, size and sha256 of every other file, what the bundle was
made from and by which release, and what the engine must know of the model), `weights.safetensors`, `tokenizer.json`,
and the licence where the model came with one. The manifest is written last: a folder with one is whole.
A bundle depends on no CPU: one that was made on x86 serves on ARM.
"""

import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edged import __version__
from edged.errors import ModelUnavailable
from edged.models.files import sha256
from edged.state_files import sync

SCHEMA = 2  # of the manifest and of what the files mean
MANIFEST = "bundle.json"
WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"
MOST_MANIFEST_BYTES = 4 << 20
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,98}$")]  # no folder, and nothing hidden
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of an imported bundle
_COPIED_AT_ONCE = 1 << 20


class DamagedBundle(ModelUnavailable):
    """A bundle's files are not those that its manifest means."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KnownFile(_Record):
    """A file as it was when the bundle was made."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Origin(_Record):
    """Where a bundle comes from.

    Attributes:
        model: what the settings called the model.
        made_of: a mark of the checkpoint's files at that time.
        made_by: the release of edged that made it.
        licence: what the checkpoint says of its licence; empty where it says nothing.
    """

    model: str
    made_of: str
    made_by: str = __version__
    licence: str = ""


class Manifest(_Record):
    """The manifest of a bundle.

    Attributes:
        model: what the engine must know; see `edged.engine.bundled.Description`.
    """

    edged_bundle: int
    origin: Origin
    files: dict[FileName, KnownFile]
    model: dict[str, Any]


def is_bundle(path: Path) -> bool:
    """Whether a path is the folder of a bundle."""
    return (path / MANIFEST).is_file()


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Read a manifest.

    Raises:
        ModelUnavailable: it is damaged, or of a schema that this release does not know.
    """
    try:
        said = json.loads(content)
        schema = said.get("edged_bundle") if isinstance(said, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise ModelUnavailable(
                f"the bundle {where} has schema {schema}, and this release of edged ({__version__}) knows none above "
                f"{SCHEMA}: update edged here, or make the bundle with this release"
            )
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise ModelUnavailable(f"the {MANIFEST} of {where} is damaged: {place}: {fault['msg']}") from error
    except ValueError as error:
        raise ModelUnavailable(f"the {MANIFEST} of {where} is damaged: it is no JSON") from error
    if manifest.edged_bundle != SCHEMA:
        raise ModelUnavailable(
            f"the bundle {where} has schema {manifest.edged_bundle}, and this release of edged ({__version__}) reads "
            f"{SCHEMA}: prepare the model again with this release, or import a bundle that was made with it"
        )
    if missing := {WEIGHTS, TOKENIZER} - manifest.files.keys():
        raise ModelUnavailable(f"the {MANIFEST} of {where} is damaged: it names no {', '.join(sorted(missing))}")
    return manifest


def open_bundle(folder: Path) -> Manifest:
    """Read the manifest of a bundle's folder, and see that every file is there in its full size.

    Raises:
        ModelUnavailable: it is damaged, or of a schema that this release does not know.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise ModelUnavailable(f"{folder / MANIFEST} cannot be read: {error.strerror or error}") from error
    manifest = parse_manifest(content, str(folder))
    for name, known in manifest.files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != known.size:
            state = "cut short or changed" if file.is_file() else "missing"
            raise ModelUnavailable(f"the bundle {folder} is damaged: {name} is {state}; import or prepare it again")
    return manifest


def verify(folder: Path) -> Manifest:
    """Read every file of a bundle and hold it against its checksum.

    Raises:
        ModelUnavailable: as `open_bundle` does, or a file differs.
    """
    manifest = open_bundle(folder)
    for name, known in manifest.files.items():
        if sha256(folder / name) != known.sha256:
            raise ModelUnavailable(
                f"the bundle {folder} is damaged: {name} has another checksum; import or prepare it again"
            )
    return manifest


def write_manifest(folder: Path, names: Iterable[str], origin: Origin, model: Mapping[str, Any]) -> Manifest:
    """Write the manifest of a folder whose files are all there; with it, the folder is a bundle."""
    files = {name: KnownFile(size=(folder / name).stat().st_size, sha256=sha256(folder / name)) for name in names}
    manifest = Manifest(edged_bundle=SCHEMA, origin=origin, files=files, model=dict(model))
    half = folder / f".{MANIFEST}.part"
    half.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    for name in names:
        sync(folder / name)
    sync(half)
    half.replace(folder / MANIFEST)
    sync(folder)
    return manifest


def export(folder: Path, file: Path) -> Manifest:
    """Write a bundle as one file, an uncompressed tar with the manifest first; a file that is there is replaced.

    Raises:
        ModelUnavailable: the bundle is damaged, or the file cannot be written.
    """
    manifest = verify(folder)
    half = file.with_name(f".{file.name}.part")
    try:
        with tarfile.open(half, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name in (MANIFEST, *sorted(manifest.files)):
                member = tarfile.TarInfo(name)  # the same bundle gives the same bytes: no owner and no time
                member.size, member.mode = (folder / name).stat().st_size, 0o644
                with (folder / name).open("rb") as opened:
                    archive.addfile(member, opened)
        sync(half)
        half.replace(file)
    except OSError as error:
        raise ModelUnavailable(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        half.unlink(missing_ok=True)
    return manifest


def import_bundle(file: Path, folder: Path, check: Callable[[Path], object] = lambda _: None) -> Manifest:
    """Unpack an exported bundle; each file is checked against its checksum while it is read.

    What is there already is replaced only by a whole bundle, in one rename.

    Args:
        file: as `export` wrote it.
        folder: where the bundle goes.
        check: called with the unpacked folder before it is put in place; refuses it by raising.

    Raises:
        ModelUnavailable: the file is no bundle, is damaged, or is of a schema that this release does not know.
    """
    work = folder.with_name(f".{folder.name}.partial")
    recover(folder)
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        with file.open("rb") as opened, tarfile.open(fileobj=opened, mode="r|") as archive:
            manifest = _unpack(archive, work, file)
        for each in work.iterdir():
            sync(each)
        sync(work)
        check(work)
        _put(work, folder)
    except tarfile.TarError as error:
        raise ModelUnavailable(f"{file} is cut short, or no exported bundle ({error})") from error
    except OSError as error:
        raise ModelUnavailable(f"{file} cannot be imported: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def _unpack(archive: tarfile.TarFile, work: Path, file: Path) -> Manifest:
    first = archive.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > MOST_MANIFEST_BYTES:
        raise ModelUnavailable(f"{file} is no exported bundle: it does not begin with {MANIFEST}")
    content = _content(archive, first).read()
    manifest = parse_manifest(content, str(file))
    (work / MANIFEST).write_bytes(content)
    missing = dict(manifest.files)
    while (member := archive.next()) is not None:
        known = missing.pop(member.name, None)
        if known is None or not member.isreg():
            raise ModelUnavailable(f"{file} is damaged: its manifest does not name {member.name[:100]!r}")
        if member.size != known.size or _copied(_content(archive, member), work / member.name) != known.sha256:
            raise ModelUnavailable(f"{file} is damaged: {member.name} has another size or checksum than it should")
    if missing:
        raise ModelUnavailable(f"{file} is cut short: it holds no {', '.join(missing)}")
    return manifest


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    if content is None:
        raise tarfile.ReadError(f"{member.name} has no content")
    return content


def _copied(content: IO[bytes], to: Path) -> str:
    """Copy a file; gives its sha256."""
    digest = hashlib.sha256()
    with to.open("wb") as target:
        while block := content.read(_COPIED_AT_ONCE):
            digest.update(block)
            target.write(block)
    return digest.hexdigest()


def recover(folder: Path) -> None:
    """Put a bundle back that an import moved away, if a power cut came before the new one was in its place."""
    old = _moved_away(folder)
    if not folder.exists() and is_bundle(old):
        with suppress(OSError):  # it may not be ours to rename; then there is no bundle of this name
            old.rename(folder)


def _moved_away(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _put(work: Path, folder: Path) -> None:
    """Rename a folder into place; one that is there is moved away first, and goes in the end."""
    old = _moved_away(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
