"""The compiled library of the native decoder: which instructions this CPU has, and where the library for them is.

The sources in `native/` are compiled once on the box itself, for its own instructions. A library's name holds a hash
of all sources and flags, so a library of other sources is never taken.
"""

import hashlib
import os
import platform
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_SOURCES = Path(__file__).with_name("native")
_MAIN = "native.cpp"  # it includes the headers beside it
INSTALLED = Path(__file__).parents[1] / "built"  # where `deploy/install.sh` has the library compiled to
_COMPILERS = ("g++", "c++", "clang++")
_FLAGS = ("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-pthread")


@dataclass(frozen=True, kw_only=True, slots=True)
class Instructions:
    """A set of instructions that the sources have code for: its flags for the compiler, its names in the CPU's list."""

    name: str
    flags: tuple[str, ...]
    cpu: frozenset[str]  # words of /proc/cpuinfo, all of which are needed


_X86 = (
    Instructions(
        name="avx512vnni",
        flags=("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx2", "-mfma"),
        cpu=frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx2", "fma"}),
    ),
    Instructions(
        name="avxvnni",
        flags=("-mavx2", "-mfma", "-mavxvnni"),
        cpu=frozenset({"avx2", "fma", "avx_vnni"}),
    ),
    Instructions(name="avx2", flags=("-mavx2", "-mfma"), cpu=frozenset({"avx2", "fma"})),
)
_ARM = (Instructions(name="dotprod", flags=("-march=armv8.2-a+dotprod",), cpu=frozenset({"asimddp"})),)
_PORTABLE = Instructions(name="portable", flags=(), cpu=frozenset())


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[Instructions]:
    """Give the sets that this CPU has, the fastest first. The last one is plain C++, which every CPU runs."""
    try:
        words = frozenset(cpuinfo.read_text().split())
    except OSError:
        words = frozenset()
    known = _X86 if platform.machine() in {"x86_64", "AMD64"} else _ARM if platform.machine() == "aarch64" else ()
    return [*(each for each in known if each.cpu <= words), _PORTABLE]


class NotBuilt(Exception):
    """There is no library for this box, and none can be compiled; the message says why."""


def library(folder: Path) -> Path:
    """Find the library for this CPU, or compile it into `folder`.

    Raises:
        NotBuilt: there is no compiler, or it fails, or the CPU has none of the instructions that would make the
            library faster than torch's kernels.
    """
    installed = _file(_best(), INSTALLED)
    return installed if installed.exists() else compile_for(_best(), folder)


def prospect(folder: Path) -> str:
    """Name the instructions that `library` has code for, or could compile code for; compiles nothing.

    Raises:
        NotBuilt: as `library` does.
    """
    best = _best()
    if not _file(best, INSTALLED).exists() and not _file(best, folder).exists():
        _compiler()
    return best.name


def install() -> str:
    """Compile into the package's own folder, for `deploy/install.sh`. Gives the library, or why there is none."""
    try:
        return f"{compile_for(_best(), INSTALLED)}"
    except NotBuilt as error:
        return f"not built: {error}; int8 and int4 will run by torch's kernels, which are slower"


def _best() -> Instructions:
    best = instructions()[0]
    if best is _PORTABLE:
        raise NotBuilt("this CPU has no dot-product instructions that there is code for")
    return best


def _compiler() -> str:
    found = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if found is None:
        raise NotBuilt("no C++ compiler is installed (apt install g++)")
    return found


def _file(target: Instructions, folder: Path) -> Path:
    version = hashlib.sha256()
    for source in sorted(each for each in _SOURCES.iterdir() if each.suffix in {".cpp", ".h"}):
        version.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    version.update("\0".join((*_FLAGS, *target.flags)).encode())
    return folder / f"edged-{target.name}-{version.hexdigest()[:12]}.so"


def compile_for(target: Instructions, folder: Path) -> Path:
    """Compile the sources for a set of instructions, unless that was done before.

    Raises:
        NotBuilt: as `library` does.
    """
    built = _file(target, folder)
    if built.exists():
        return built
    compiler = _compiler()
    half = built.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [compiler, *_FLAGS, *target.flags, "-o", str(half), str(_SOURCES / _MAIN)],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise NotBuilt(f"{compiler} fails: {(done.stderr.strip().splitlines() or ['it says nothing'])[0]}")
        half.replace(built)
    except OSError as error:
        raise NotBuilt(f"{folder}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            half.unlink(missing_ok=True)
    log.info("kernels_built", instructions=target.name, library=str(built))
    return built
