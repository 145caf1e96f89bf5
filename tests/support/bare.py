"""Environments that have a wheel of `deploy/build.sh` and the few packages that serving a bundle imports: no torch.

One is of this machine; the other is of arm64, for the emulator.
"""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from tests.support import assets

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
PACKAGES = [
    name
    for name in Path(__file__).with_name("bundle_packages.txt").read_text().splitlines()
    if name and not name.startswith("#")
]


def wheel(machine: str) -> Path:
    (found,) = (assets.build() / "wheels").glob(f"edged-*-manylinux_2_17_{machine}.whl")
    return found


def of_this_machine(folder: Path, machine: str) -> Path:
    """Make an environment; its other packages are those of the environment that runs the tests. Gives its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    subprocess.run([*_PIP, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel(machine)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in PACKAGES:
        package = metadata.distribution(name)
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            (site / top).symlink_to(str(package.locate_file(top)))
    return python


def of_arm64(folder: Path, cpu: str) -> Path:
    """Make an environment of arm64 on a CPU of the emulator's. Gives its Python, which runs here."""
    site, arm64, qemu = folder / "site", assets.arm64(), assets.qemu()
    platform = ("--platform", "manylinux_2_17_aarch64", "--only-binary", ":all:")
    subprocess.run(
        [*_PIP, "install", "-q", "--no-deps", "--no-index", "--target", site, *platform, wheel("aarch64")], check=True
    )
    python = folder / "python"
    path = os.pathsep.join(map(str, (site, arm64 / "site")))
    run = f"{qemu}/bin/qemu-aarch64 -U LD_LIBRARY_PATH -E PYTHONPATH={path} -L {arm64}/root -cpu {cpu}"
    python.write_text(f'#!/bin/sh\nexec {run} {arm64}/root/usr/bin/python3.11 "$@"\n')
    python.chmod(0o755)
    return python
