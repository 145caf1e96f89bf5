"""A trial of the wheels: a folder of them, and no sources, on a box with Python: three commands.

usage: python3 -m tests.trials.pip_install DIST [MORE_PIP_OPTIONS ...]

DIST is the folder that `sh deploy/build.sh` made. Prints what it saw.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.trials.box import expect, say

INDEX = "https://download.pytorch.org/whl/cpu"


def run(folder: Path, *command: str) -> str:
    """Run a command in an empty folder, with an environment that knows nothing of the sources."""
    environment = {"HOME": str(folder), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    expect(done.returncode == 0, " ".join(command), f"{time.monotonic() - began:.0f} s\n{done.stdout[-1500:]}")
    return done.stdout


def main() -> None:
    dist, more = Path(sys.argv[1]), sys.argv[2:] or ["--extra-index-url", INDEX]
    with tempfile.TemporaryDirectory(prefix="edged-pip-") as name:
        folder = Path(name)
        shutil.copytree(dist, folder / "dist", ignore=lambda _, names: [each for each in names if ".whl" not in each])
        run(folder, "python3", "-m", "venv", "edged")
        run(folder, "edged/bin/pip", "install", "-q", "--find-links", "dist", *more, "edged[demo]")
        told = run(folder, "edged/bin/edged", "demo")
        expect("positive (positive)" in told and "exit 0" in told, "three messages are answered")
        where = run(folder, "edged/bin/python", "-c", "import edged; print(edged.__file__)").strip()
        expect(str(folder) in where, "by the wheel's code", where)
        kernels = "from edged.engine.decoders import native_library as n; print(n.instructions()[0].name)"
        say("kernels", run(folder, "edged/bin/python", "-c", kernels).strip())
        sizes = run(folder, "du", "-sm", "edged").split()
        say("on disk", f"{sizes[0]} MB")


if __name__ == "__main__":
    main()
