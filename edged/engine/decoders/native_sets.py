"""The sets of CPU instructions that the native decoder has code for, and the compiler flags for each.

Pure, and of the standard library alone: `deploy/build_kernels.py` reads it where nothing else of edged is installed.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Machine = Literal["x86_64", "aarch64"]

SOURCES = Path(__file__).with_name("native")
MAIN = "native.cpp"  # it includes the headers beside it
# -ffp-contract=off: the sources say themselves where a product and a sum are rounded once.
FLAGS = (
    *("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
    *("-fno-exceptions", "-fno-rtti", "-fPIC", "-pthread"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class InstructionSet:
    """Instructions that the sources have code for.

    Attributes:
        flags: what g++ and clang++ are told, besides `FLAGS`.
        zig: what zig's clang is told instead; it names ARM's instructions in its own way. None: the same.
        cpu: the names of the instructions in Linux, all of which the CPU must have.
    """

    name: str
    flags: tuple[str, ...]
    cpu: frozenset[str]
    zig: tuple[str, ...] | None = None


_AVX2 = ("-mavx2", "-mfma")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", *_AVX2)
_HAS_AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx2", "fma"}

# The fastest first.
SETS: dict[Machine, tuple[InstructionSet, ...]] = {
    "x86_64": (
        InstructionSet(
            name="avx512vnni", flags=(*_AVX512, "-mavx512vnni"), cpu=frozenset({*_HAS_AVX512, "avx512_vnni"})
        ),
        InstructionSet(name="avx512", flags=_AVX512, cpu=frozenset(_HAS_AVX512)),
        InstructionSet(name="avxvnni", flags=(*_AVX2, "-mavxvnni"), cpu=frozenset({"avx2", "fma", "avx_vnni"})),
        InstructionSet(name="avx2", flags=_AVX2, cpu=frozenset({"avx2", "fma"})),
        InstructionSet(name="ssse3", flags=("-mssse3",), cpu=frozenset({"ssse3"})),
    ),
    "aarch64": (
        InstructionSet(
            name="i8mm",
            flags=("-march=armv8.2-a+dotprod+i8mm",),
            zig=("-mcpu=generic+dotprod+i8mm",),
            cpu=frozenset({"asimd", "asimddp", "i8mm"}),
        ),
        InstructionSet(
            name="dotprod",
            flags=("-march=armv8.2-a+dotprod",),
            zig=("-mcpu=generic+dotprod",),
            cpu=frozenset({"asimd", "asimddp"}),
        ),
        InstructionSet(name="neon", flags=("-march=armv8-a",), zig=("-mcpu=generic",), cpu=frozenset({"asimd"})),
    ),
}
PORTABLE = InstructionSet(name="portable", flags=(), cpu=frozenset())


def usable(machine: str, words: Iterable[str]) -> list[InstructionSet]:
    """Give the sets that a CPU with these instructions has, the fastest first. The last one is plain C++."""
    has = frozenset(words)
    known = next((sets for name, sets in SETS.items() if name == {"AMD64": "x86_64"}.get(machine, machine)), ())
    return [*(each for each in known if each.cpu <= has), PORTABLE]


def file_name(target: InstructionSet, sources: Path = SOURCES) -> str:
    """The name of the library of a set. It holds a hash of all sources and flags."""
    version = hashlib.sha256()
    for source in sorted(each for each in sources.iterdir() if each.suffix in {".cpp", ".h"}):
        version.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    version.update("\0".join((*FLAGS, *target.flags)).encode())
    return f"edged-{target.name}-{version.hexdigest()[:12]}.so"
