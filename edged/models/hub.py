"""The Hugging Face hub: what files a model has there, and fetching them."""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edged.errors import ModelUnavailable
from edged.models.files import COPY_REMEDY, git_sha1, sha256
from edged.models.presets import HubModel


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """A file as the hub describes it: of large ones it tells the sha256, of small ones git's hash."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None


class Hub(Protocol):
    """A hub of models; both methods raise ModelUnavailable."""

    def list_files(self, model: HubModel) -> tuple[str, Sequence[HubFile]]:
        """The commit that the revision means now, and its files."""
        ...

    def fetch(self, model: HubModel, commit: str, names: Sequence[str], folder: Path, *, show_progress: bool) -> None:
        """Download files into a folder, going on where an earlier try ended."""
        ...


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

        from edged.models.progress_bar import bar  # noqa: PLC0415 - as above

        with _hub_faults(model):
            snapshot_download(
                model.repo,
                revision=commit,
                local_dir=folder,
                allow_patterns=[re.sub(r"([\[*?])", r"[\1]", name) for name in names],
                etag_timeout=self._timeout_s,
                endpoint=self._endpoint,
                tqdm_class=bar(show_progress=show_progress),
            )


@contextmanager
def _hub_faults(model: HubModel) -> Iterator[None]:
    """Turn what the hub's client raises into ModelUnavailable. A full disk stays an OSError."""
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
            f"{failed} ({reason}): check the network, {COPY_REMEDY}; the model smollm2-135m-instruct needs no hub"
        ) from error


def check_file(path: Path, file: HubFile) -> None:
    """Compare a download with the hub's checksum; a file that differs is deleted, so that it is fetched again."""
    if not path.is_file():
        raise ModelUnavailable(f"{file.name} did not come from the hub: pull it again")
    actual = sha256(path) if file.sha256 else git_sha1(path)
    if path.stat().st_size != file.size or actual != (file.sha256 or file.git_sha1 or actual):
        path.unlink()
        raise ModelUnavailable(f"{file.name} came from the hub with another checksum than it should: pull it again")
