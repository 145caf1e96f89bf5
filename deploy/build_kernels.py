"""Compiles the native decoder's kernels for all sets of instructions of a machine, by zig's clang.

usage: build_kernels.py x86_64|aarch64 OUT_DIR CACHE_DIR

For glibc 2.17 and newer; the C++ library is linked in. A library is named after its sources and flags: one that is in
the cache is not compiled again.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from edged.engine.decoders.native_sets import FLAGS, MAIN, SETS, SOURCES, InstructionSet, file_name

_GLIBC = "2.17"
# Nothing of the path, the time or the linker's identification gets into the file.
_ZIG_FLAGS = ("-fvisibility=hidden", "-g0", "-s", "-Wl,--build-id=none")


def compile_set(machine: str, target: InstructionSet, folder: Path) -> Path:
    """Compile one library into `folder`, unless it is there."""
    built = folder / machine / file_name(target)
    if built.exists():
        return built
    built.parent.mkdir(parents=True, exist_ok=True)
    half = built.with_suffix(".part")
    flags = target.flags if target.zig is None else target.zig
    command = [sys.executable, "-m", "ziglang", "c++", "-target", f"{machine}-linux-gnu.{_GLIBC}", *FLAGS, *_ZIG_FLAGS]
    subprocess.run([*command, *flags, "-o", str(half), MAIN], cwd=SOURCES, check=True)
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
