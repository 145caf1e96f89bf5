"""Checksums and sizes of files from any source."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

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
