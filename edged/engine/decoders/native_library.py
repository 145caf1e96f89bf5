"""The compiled library of the native decoder: which instructions this CPU has, and where the library for them is.

A wheel of `deploy/build.sh` brings libraries for all sets of instructions; elsewhere the sources in `native/` are
compiled once on the box, for its own instructions. A library's name holds a hash of all sources and flags, so a library
of other sources is never taken.
"""

import ctypes
import os
import platform
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import structlog

from edged.engine.decoders import native_sets
from edged.engine.decoders.native_sets import FLAGS, MAIN, PORTABLE, InstructionSet

log = structlog.get_logger(__name__)

_SOURCES = native_sets.SOURCES
INSTALLED = Path(__file__).parents[1] / "built"  # where a wheel has its libraries and `deploy/install.sh` compiles to
_COMPILERS = ("g++", "c++", "clang++")

# ARM's names of instructions in /proc/cpuinfo, and where `getauxval` has them: (type, bit). Source: Linux,
# arch/arm64/include/uapi/asm/hwcap.h.
_ARM_BITS = {"asimd": (16, 1), "asimddp": (16, 20), "i8mm": (26, 13)}


class NotBuilt(Exception):
    """There is no library for this box, and none can be compiled; the message says why."""


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[InstructionSet]:
    """Give the sets that this CPU has, the fastest first. The last one is plain C++, which every CPU runs."""
    machine = platform.machine()
    return native_sets.usable(machine, _arm_words() if machine == "aarch64" else _words(cpuinfo))


def _words(cpuinfo: Path) -> frozenset[str]:
    try:
        return frozenset(cpuinfo.read_text().split())
    except OSError:
        return frozenset()


def _arm_words() -> frozenset[str]:
    """What the kernel tells this process, which is right in an emulator too."""
    ask = ctypes.CDLL(None).getauxval
    ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return frozenset(name for name, (kind, bit) in _ARM_BITS.items() if ask(kind) >> bit & 1)


def library(folder: Path, *, kernels: str = "auto") -> Path:
    """Find the library for this CPU, or compile it into `folder`.

    Args:
        folder: of libraries that are compiled here.
        kernels: the name of a set of instructions; auto takes the fastest that the CPU has.

    Raises:
        NotBuilt: there is no compiler, or it fails, or the CPU has none of the instructions that would make the
            library faster than torch's kernels.
    """
    target = choose(kernels)
    return _shipped(target) or compile_for(target, folder)


def prospect(folder: Path, *, kernels: str = "auto") -> str:
    """Name the instructions that `library` has code for, or could compile code for; compiles nothing.

    Raises:
        NotBuilt: as `library` does.
    """
    target = choose(kernels)
    if _shipped(target) is None and not _file(target, folder).exists():
        _compiler()
    return target.name


def install(*wheelhouses: Path) -> str:
    """Put the library for this CPU into the package's own folder, for `deploy/install.sh`.

    One that is there stays; else it is taken from a wheel of `deploy/build.sh`, else compiled.

    Args:
        wheelhouses: folders in which there may be wheels.

    Returns:
        The library, or why there is none.
    """
    try:
        target = choose("auto")
        return str(_shipped(target) or _from_wheel(target, wheelhouses) or compile_for(target, INSTALLED))
    except NotBuilt as error:
        return f"not built: {error}; int8 and int4 will run by torch's kernels, which are slower"


def choose(kernels: str) -> InstructionSet:
    """Give the set of that name, or for auto the fastest.

    Raises:
        NotBuilt: this CPU does not have it.
    """
    has = instructions()
    if kernels == "auto":
        if has[0] is PORTABLE:
            raise NotBuilt("this CPU has no instructions that there is code for")
        return has[0]
    for each in has:
        if each.name == kernels:
            return each
    raise NotBuilt(f"this CPU has no {kernels} (engine.kernels); it has {', '.join(each.name for each in has)}")


def _shipped(target: InstructionSet) -> Path | None:
    """The library in the package's own folder, if there is one that this system can load."""
    file = _file(target, INSTALLED)
    if not file.exists():
        return None
    try:
        ctypes.CDLL(str(file))
    except OSError as error:  # built for another C library
        log.info("kernels_not_loaded", library=str(file), reason=str(error))
        return None
    return file


def _from_wheel(target: InstructionSet, wheelhouses: Iterable[Path]) -> Path | None:
    """Take the library of these very sources out of a wheel for this machine."""
    file = _file(target, INSTALLED)
    for wheel in (each for folder in wheelhouses for each in sorted(folder.glob(f"edged-*_{platform.machine()}.whl"))):
        with suppress(OSError, KeyError, zipfile.BadZipFile), zipfile.ZipFile(wheel) as archive:
            library = archive.read(f"edged/engine/built/{file.name}")
            INSTALLED.mkdir(exist_ok=True)
            half = file.with_suffix(f".{os.getpid()}.part")
            half.write_bytes(library)
            half.replace(file)
            return _shipped(target)
    return None


def _compiler() -> str:
    found = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if found is None:
        raise NotBuilt("no C++ compiler is installed (apt install g++)")
    return found


def _file(target: InstructionSet, folder: Path) -> Path:
    return folder / native_sets.file_name(target, _SOURCES)


def compile_for(target: InstructionSet, folder: Path) -> Path:
    """Compile the sources for a set of instructions, unless that was done before.

    Raises:
        NotBuilt: as `library` does.
    """
    built = _file(target, folder)
    if built.exists() and folder != INSTALLED:
        return built
    compiler = _compiler()
    half = built.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [compiler, *FLAGS, *target.flags, "-shared", "-o", str(half), str(_SOURCES / MAIN)],
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
