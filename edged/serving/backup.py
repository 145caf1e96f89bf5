"""Backups: what a box needs to go on after its disk was changed, in one file (zip), without secrets.

A backup has a manifest with the hash of each file in it. Before anything is replaced, all of it is checked: the
hashes, the settings with the options, the journal. Then each file is replaced as a whole.
"""

import hashlib
import io
import os
import stat
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from edged import __version__, state_files
from edged.contract.results import rfc3339
from edged.errors import BackupFault, JournalFault, SettingsError
from edged.journal.copying import check_journal, close_journal, copy_journal
from edged.settings.options import FILE as OPTIONS
from edged.settings.options import only_secrets, patched, without_secrets
from edged.settings.text import toml_of

MANIFEST, SETTINGS, JOURNAL = "manifest.json", "edged.toml", "journal.db"
_KIND, _VERSION = "edged-backup", 1
_MAX_BYTES = 2_000_000_000  # of one file in it
_KEPT = ".before-restore"  # what was there before is kept under its name with this
_HEAD = "# The settings file of a backup, without secrets and comments.\n\n"


class _Manifest(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    kind: str
    version: int
    edged: str
    time: str
    node: str
    files: dict[str, str]  # SHA-256 by name


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """What is backed up.

    Attributes:
        settings: the content of the settings file; None: there is none.
    """

    node: str
    settings: Mapping[str, Any] | None
    state_dir: Path


def make_backup(sources: Sources, *, with_journal: bool, wall_time: float) -> bytes:
    """Make a backup.

    Raises:
        BackupFault: a file cannot be read.
    """
    files: dict[str, bytes] = {}
    if sources.settings is not None:
        files[SETTINGS] = (_HEAD + toml_of(without_secrets(sources.settings))).encode()
    try:
        if (options := sources.state_dir / OPTIONS).is_file():
            files[OPTIONS] = options.read_bytes()
        if with_journal and (journal := sources.state_dir / JOURNAL).is_file():
            with tempfile.TemporaryDirectory(dir=sources.state_dir, prefix=".backup.") as folder:
                copy_journal(journal, Path(folder, JOURNAL))
                files[JOURNAL] = Path(folder, JOURNAL).read_bytes()
    except JournalFault as fault:
        raise BackupFault(str(fault)) from fault
    except OSError as error:
        raise BackupFault(f"{error.filename}: {error.strerror}") from error
    manifest = _Manifest(
        kind=_KIND,
        version=_VERSION,
        edged=__version__,
        time=rfc3339(wall_time),
        node=sources.node,
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, manifest.model_dump_json(indent=1))
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


@dataclass(frozen=True, kw_only=True, slots=True)
class Backup:
    """A backup whose files have the hashes of its manifest; `files` by name."""

    node: str
    time: str
    files: Mapping[str, bytes]


def read_backup(path: Path) -> Backup:
    """Read a backup.

    Raises:
        BackupFault: it is none, damaged, or of a newer edged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _Manifest.model_validate_json(archive.read(MANIFEST))
            if (manifest.kind, manifest.version) != (_KIND, _VERSION):
                raise BackupFault(f"{path} is of another edged ({manifest.kind} {manifest.version})")
            if not {*manifest.files} <= {SETTINGS, OPTIONS, JOURNAL}:
                raise BackupFault(f"{path} has files that no backup has")
            if any(archive.getinfo(name).file_size > _MAX_BYTES for name in manifest.files):
                raise BackupFault(f"{path} has a file of more than {_MAX_BYTES} bytes")
            files = {name: archive.read(name) for name in manifest.files}
    except OSError as error:
        raise BackupFault(f"{path}: {error.strerror}") from error
    except (zipfile.BadZipFile, KeyError, ValidationError, EOFError, NotImplementedError, RuntimeError) as error:
        raise BackupFault(f"{path} is no backup of edged, or damaged") from error
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != manifest.files[name]:
            raise BackupFault(f"{path}: {name} in it is damaged")
    return Backup(node=manifest.node, time=manifest.time, files=files)


def restore(
    backup: Backup,
    *,
    state_dir: Path,
    settings_file: Path | None,
    check: Callable[[Mapping[str, Any] | None, Mapping[str, Any]], None],
) -> list[Path]:
    """Put the files of a backup in their places; no daemon may run. Secrets of the settings file that is there stay.

    Args:
        backup: as it was read.
        state_dir: where options and journal go.
        settings_file: where the settings go; None: they are left out.
        check: raises SettingsError if settings (None: those that are there) and options are wrong.

    Returns:
        The files that were written; those that were there before are kept beside them.

    Raises:
        BackupFault: something in it is wrong, or cannot be written. What was not replaced yet is as before.
    """
    settings = None if settings_file is None else _merged(backup, settings_file)
    try:
        check(settings, _toml(backup.files.get(OPTIONS, b"")))
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        new: dict[Path, bytes] = {}
        if JOURNAL in backup.files:
            with tempfile.TemporaryDirectory(dir=state_dir, prefix=".restore.") as folder:
                copy = Path(folder, JOURNAL)
                copy.write_bytes(backup.files[JOURNAL])
                check_journal(copy)
            new[state_dir / JOURNAL] = backup.files[JOURNAL]
        if OPTIONS in backup.files:
            new[state_dir / OPTIONS] = backup.files[OPTIONS]
        if settings is not None and settings_file is not None:
            new[settings_file] = (_HEAD + toml_of(settings)).encode()
        for path, content in new.items():
            _replace(path, content)
    except (SettingsError, JournalFault) as fault:
        raise BackupFault(f"nothing was changed: {fault}") from fault
    except OSError as error:
        raise BackupFault(f"{error.filename or state_dir}: {error.strerror}") from error
    return [*new]


def _merged(backup: Backup, settings_file: Path) -> dict[str, Any] | None:
    """The settings of the backup with the secrets of the file that is there."""
    if SETTINGS not in backup.files:
        return None
    there = _toml(settings_file.read_bytes()) if settings_file.is_file() else {}
    return patched(_toml(backup.files[SETTINGS]), only_secrets(there))


def _toml(written: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(written.decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BackupFault(f"nothing was changed: settings that are not valid TOML: {error}") from error


def _replace(path: Path, content: bytes) -> None:
    """Put a file in place of the one that is there, which is kept. Root leaves it to the owner of the old one."""
    if path.name == JOURNAL:
        close_journal(path)
    is_there = path.exists()
    like = (path if is_there else path.parent).stat()
    if is_there:
        kept = path.with_name(path.name + _KEPT)
        state_files.replace(kept, path.read_bytes())
        _give(kept, like, is_file=True)
    state_files.replace(path, content)
    _give(path, like, is_file=is_there)


def _give(path: Path, like: os.stat_result, *, is_file: bool) -> None:
    if os.geteuid() == 0:
        os.chown(path, like.st_uid, like.st_gid)
    if is_file:
        path.chmod(stat.S_IMODE(like.st_mode))
