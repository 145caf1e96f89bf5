"""Compiles the native decoder's kernels for all sets of instructions of a machine, by zig's clang.

usage: build_kernels.py x86_64|aarch64 OUT_DIR CACHE_DIR

For glibc 2.17 and newer, without a C++ library. A library is named after its sources and flags: one that is in the
cache is not compiled again.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from edged.engine.decoders.native_sets import FLAGS, MAIN, SETS, SOURCES, InstructionSet, file_name

_GLIBC = "2.17"
# Nothing of the path, the time or the linker's identification gets into the file.
_COMPILER_FLAGS = ("-fvisibility=hidden", "-g0")
_LINKER_FLAGS = ("-shared", "-pthread", "-s", "-Wl,--build-id=none")


def compile_set(machine: str, target: InstructionSet, folder: Path) -> Path:
    """Compile one library into `folder`, unless it is there."""
    built = folder / machine / file_name(target)
    if built.exists():
        return built
    built.parent.mkdir(parents=True, exist_ok=True)
    half, compiled = built.with_suffix(".part"), built.with_suffix(".o")
    flags = target.flags if target.zig is None else target.zig
    zig = [sys.executable, "-m", "ziglang"]
    # The features of the CPU are for the compiler alone: zig would compile start-up code anew for each set of them.
    for_machine = ["-target", f"{machine}-linux-gnu.{_GLIBC}"]
    compiler = [*zig, "c++", *for_machine, *FLAGS, *_COMPILER_FLAGS, *flags]
    subprocess.run([*compiler, "-c", "-o", str(compiled), MAIN], cwd=SOURCES, check=True)
    # As C: the sources need none of the C++ library, which zig would compile first, for a minute for each set.
    subprocess.run([*zig, "cc", *for_machine, *_LINKER_FLAGS, "-o", str(half), str(compiled)], check=True)
    compiled.unlink()
    half.replace(built)
    return built


def main() -> None:
    machine, out, cache = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(parents=True)
    for name, sets in SETS.items():
        for target in sets if name == machine else ():
            print(f"build: kernels {machine} {target.name}")
            shutil.copy(compile_set(machine, target, cache), out)


if __name__ == "__main__":
    main()
