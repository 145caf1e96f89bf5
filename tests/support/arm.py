"""The compiled kernels of the wheels, run by a driver in C++: on this CPU, or in qemu on a chosen ARM CPU.

What it uses, `tests/run.sh` fetches: the wheels with their kernels and zig's compiler (EDGED_TEST_BUILD), and the
emulator with arm64's C library (EDGED_TEST_QEMU).
"""

import hashlib
import os
import re
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from edged.engine.decoders import native_sets
from edged.engine.decoders.native_sets import Machine
from edged.engine.weights.architectures.architecture import DecoderShape
from edged.engine.weights.formats import BLOCK
from edged.engine.weights.quantised import Matrix, QuantisedWeights
from tests.support import assets

_SOURCES = Path(__file__).with_name("arm_cost")


@dataclass(frozen=True, kw_only=True, slots=True)
class Programs:
    """The compiled libraries, the driver for both machines, and the emulator with its plugin that counts."""

    build: Path
    qemu: Path

    @classmethod
    def fetched(cls) -> "Programs":
        return cls(build=assets.build(), qemu=assets.qemu())

    def libraries(self, machine: Machine) -> Path:
        return self.build / "wheels" / "kernels" / machine

    def run(self, name: str, *arguments: str, cpu: str | None, count: bool = False) -> tuple[str, dict[int, int]]:
        """Run the driver with the library of a set of instructions.

        Args:
            name: of the set.
            arguments: of the driver, behind the library.
            cpu: qemu's name of an ARM CPU; None runs it on this machine.
            count: instructions, by the plugin.

        Returns:
            What the driver prints, and the instructions up to each marker.
        """
        machine: Machine = "x86_64" if cpu is None else "aarch64"
        target = next(each for each in native_sets.SETS[machine] if each.name == name)
        library = self.libraries(machine) / native_sets.file_name(target)
        command = [str(self._driver(machine)), str(library), *arguments]
        if cpu is not None:
            plugin = ["-plugin", str(self._plugin())] if count else []
            root = self.qemu / "root/usr/aarch64-linux-gnu"
            command = [str(self.qemu / "bin/qemu-aarch64"), "-L", str(root), "-cpu", cpu, *plugin, *command]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        counts = re.findall(r"^INSTRUCTIONS (\d+) (\d+)$", done.stderr, re.MULTILINE)
        return done.stdout, {int(marker): int(instructions) for marker, instructions in counts}

    def _driver(self, machine: Machine) -> Path:
        compiler = (
            f"-I{native_sets.SOURCES}",
            "-std=c++20",
            "-O2",
            "-ffp-contract=off",
            "-fno-exceptions",
            "-fno-rtti",
        )
        return self._compiled("driver.cpp", f"{machine}-linux-gnu.2.17", compiler, ("-ldl", "-lm"))

    def _plugin(self) -> Path:
        return self._compiled("tbcount.c", "x86_64-linux-gnu.2.17", ("-fPIC", "-O2"), ("-shared",))

    def _compiled(self, source: str, target: str, compiler: Sequence[str], linker: Sequence[str]) -> Path:
        """Compile one of the sources, unless that was done before. As C it is linked without a C++ library."""
        text = (_SOURCES / source).read_bytes() + (native_sets.SOURCES / "interface.h").read_bytes()
        version = hashlib.sha256(text + repr((target, compiler, linker)).encode()).hexdigest()[:12]
        built = self.build / "drivers" / f"{source}-{target}-{version}"
        if not built.exists():
            built.parent.mkdir(exist_ok=True)
            half, compiled = (built.with_name(f"{built.name}.{os.getpid()}.{end}") for end in ("part", "o"))
            self._zig(
                "c++" if source.endswith("pp") else "cc", target, *compiler, "-c", _SOURCES / source, "-o", compiled
            )
            self._zig("cc", target, *linker, compiled, "-o", half)
            compiled.unlink()
            half.replace(built)
        return built

    def _zig(self, tool: str, target: str, *arguments: str | Path) -> None:
        tools = max(self.build.glob("tools-*"), key=os.path.getmtime)
        caches = {f"ZIG_{kind}_CACHE_DIR": str(self.build / "zig") for kind in ("LOCAL", "GLOBAL")}
        command = [tools / "bin/python", "-m", "ziglang", tool, "-target", target, *arguments]
        subprocess.run(command, check=True, env={**os.environ, **caches})


Floats = npt.NDArray[np.float32]


def write_model(file: Path, shape: DecoderShape, weights: QuantisedWeights, rope: Floats) -> None:
    """Write a model whose layers are all alike, as `driver.cpp` reads it.

    `rope` is cosines and sines, (2, positions, head_dim / 2).
    """
    with file.open("wb") as out:
        sizes = (shape.layers, shape.hidden, shape.mlp, shape.heads, shape.kv_heads, shape.head_dim, shape.vocab)
        out.write(struct.pack("<7iff", *sizes, shape.attention_scale, shape.eps))
        for layer in weights.layers:
            for vector in (layer.attention_norm, layer.q_norm, layer.k_norm, layer.mlp_norm):
                _tensor(out, vector)
            for matrix in (layer.qkv, layer.out, layer.gate_up, layer.down):
                _matrix(out, matrix)
        for vector in (weights.embedding_scale, weights.norm, *rope):
            _tensor(out, vector)
        _matrix(out, Matrix(packed=weights.embedding, bias=None))
        _matrix(out, Matrix(packed=weights.head, bias=None))


def _matrix(out: BinaryIO, matrix: Matrix) -> None:
    packed = matrix.packed
    bits = 8 if packed.weight_format == "int8" else 4
    out.write(struct.pack("<3i", packed.blocks.shape[0] * BLOCK, packed.inputs, bits))
    _tensor(out, packed.blocks)
    _tensor(out, packed.factors)
    _tensor(out, matrix.bias)


def _tensor(out: BinaryIO, array: Floats | npt.NDArray[np.uint8] | None) -> None:
    out.write(struct.pack("<q", 0 if array is None else array.nbytes))
    if array is not None:
        out.write(bytes(-out.tell() % 64))
        out.write(np.ascontiguousarray(array).tobytes())
