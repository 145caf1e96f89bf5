"""Checksums, sizes and the progress bar of a download, for files from any source."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

COPY_REMEDY = "or fetch it on another machine, copy it here and set EDGED_MODEL__ID to its path"


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def git_sha1(path: Path) -> str:
    """The hash by which git knows a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def bytes_below(folder: Path) -> int:
    """The size of all files in a folder, as far as they stay there while they are counted."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(root, name).stat().st_size
    return total


class _Bar(tqdm):  # type: ignore[type-arg]
    """A progress bar for terminals only; the hub's client would draw it into a log too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": kwargs.get("disable") or None})


class _NoBar(tqdm):  # type: ignore[type-arg]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def bar(*, show_progress: bool) -> Any:
    """The class of the bar to draw."""
    return _Bar if show_progress else _NoBar
