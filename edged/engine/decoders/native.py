"""The decoder whose step runs in C++: int8 and int4 weights on a CPU. See `native.cpp`.

The source is compiled once on the box itself, for its own instructions; without a compiler `decoder.py` runs the
same weights by torch's kernels. Called through ctypes, so no build needs torch's headers.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch

from edged.engine.decoders.interface import Span
from edged.engine.weights.packing import BLOCK
from edged.engine.weights.quantised import Matrix, QuantisedWeights
from edged.engine.weights.shape import DecoderShape

log = structlog.get_logger(__name__)

_SOURCE = Path(__file__).with_name("native") / "native.cpp"
INSTALLED = Path(__file__).parents[1] / "built"  # where `deploy/install.sh` has the library compiled to
_COMPILERS = ("g++", "c++", "clang++")
_FLAGS = ("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-pthread")
_TILE = 16  # positions that keys stand together in
_BF16 = 2  # bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Instructions:
    """A set of instructions that there is code for: what the compiler calls it, and the CPU."""

    name: str
    flags: tuple[str, ...]
    cpu: frozenset[str]  # words of /proc/cpuinfo, all of which it takes


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
    """The sets that this CPU has, the fastest first; the last one, of plain C++, every CPU has."""
    try:
        words = frozenset(cpuinfo.read_text().split())
    except OSError:
        words = frozenset()
    known = _X86 if platform.machine() in {"x86_64", "AMD64"} else _ARM if platform.machine() == "aarch64" else ()
    return [*(each for each in known if each.cpu <= words), _PORTABLE]


class NotBuilt(Exception):
    """There is no library for this box; the message says why."""


def library(folder: Path) -> Path:
    """Find the library for this CPU, or compile it into `folder`.

    Raises:
        NotBuilt: no compiler, or it fails, or the CPU has none of the instructions that make it worth it.
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
    """Compile into the package's own folder, for `deploy/install.sh`; says in words what came of it."""
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
    version = hashlib.sha256(b"\0".join([_SOURCE.read_bytes(), *map(str.encode, (*_FLAGS, *target.flags))]))
    return folder / f"edged-{target.name}-{version.hexdigest()[:12]}.so"


def compile_for(target: Instructions, folder: Path) -> Path:
    """Compile the source for a set of instructions, unless that was done before; see `library`."""
    built = _file(target, folder)
    if built.exists():
        return built
    compiler = _compiler()
    half = built.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [compiler, *_FLAGS, *target.flags, "-o", str(half), str(_SOURCE)],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise NotBuilt(f"{compiler} fails: {(done.stderr.strip().splitlines() or ['no word'])[0]}")
        half.replace(built)
    except OSError as error:
        raise NotBuilt(f"{folder}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            half.unlink(missing_ok=True)
    log.info("kernels_built", instructions=target.name, library=str(built))
    return built


# ---------------------------------------------------------------------------------------- the structures of the C++

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int32


class _Matrix(ctypes.Structure):
    _fields_ = [("blocks", _POINTER), ("bias", _POINTER), ("outputs", _INT), ("inputs", _INT), ("bits", _INT)]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("attention_norm", _POINTER),
        ("q_norm", _POINTER),
        ("k_norm", _POINTER),
        ("mlp_norm", _POINTER),
        ("qkv", _Matrix),
        ("out", _Matrix),
        ("gate_up", _Matrix),
        ("down", _Matrix),
    ]


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, _INT) for name in ("layers", "hidden", "mlp", "heads", "kv_heads", "head_dim", "vocab")),
        ("threads", _INT),
        ("eps", ctypes.c_float),
        ("layer", ctypes.POINTER(_Layer)),
        ("embedding_scale", _POINTER),
        ("norm", _POINTER),
        ("cos", _POINTER),
        ("sin", _POINTER),
        ("embedding", _Matrix),
        ("head", _Matrix),
    ]


class _Block(ctypes.Structure):
    _fields_ = [("keys", _POINTER), ("values", _POINTER), ("capacity", _INT)]


class _Span(ctypes.Structure):
    _fields_ = [
        ("lent", _Block),
        ("own", _Block),
        *((name, _INT) for name in ("shared", "past", "first", "tokens", "rows")),
    ]


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _matrix(matrix: Matrix) -> _Matrix:
    packed = matrix.packed
    return _Matrix(
        blocks=_pointer(packed.blocks),
        bias=_pointer(matrix.bias),
        outputs=packed.blocks.shape[0] * BLOCK,
        inputs=packed.inputs,
        bits=8 if packed.weight_format == "int8" else 4,
    )


def _open(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    loaded.edged_open.restype = _POINTER
    loaded.edged_open.argtypes = [_POINTER]
    loaded.edged_close.argtypes = [_POINTER]
    loaded.edged_close.restype = None
    loaded.edged_step.argtypes = [
        _POINTER, _INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER, _INT, _POINTER, _INT, _POINTER, _POINTER,
    ]  # fmt: skip
    return loaded


# ---------------------------------------------------------------------------------------------------- the model


@dataclass(slots=True)
class NativeKV:
    """Keys and values of one sequence, bf16.

    Attributes:
        keys: (layers, kv_heads, own capacity / 16, head_dim, 16), so that sixteen scores are made at a time.
        values: (layers, kv_heads, own capacity, head_dim).
        lent: another sequence, of which this one reads its first `shared` positions (whole sixteens).
        length: positions held, the shared ones included.
    """

    keys: torch.Tensor
    values: torch.Tensor
    lent: "NativeKV | None" = None
    shared: int = 0
    length: int = 0

    @property
    def capacity(self) -> int:
        return self.shared + self.values.shape[2]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def block(self) -> _Block:
        return _Block(keys=self.keys.data_ptr(), values=self.values.data_ptr(), capacity=self.values.shape[2])


class NativeDecoder:
    """A loaded model; see `edged.engine.model.CausalModel`. For one thread at a time."""

    shares_prefixes = True

    def __init__(
        self, library: Path, shape: DecoderShape, weights: QuantisedWeights, rope: torch.Tensor, *, threads: int
    ) -> None:
        """`rope` is fp32, (2, positions, head_dim / 2): cosines and sines.

        Raises:
            MemoryError: no room for the threads.
        """
        self.vocab_size = shape.vocab
        self.bytes_per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * _BF16
        self._shape = shape
        self._library = _open(library)
        self._kept = (weights, rope)  # what the C++ points into
        self._logits = torch.empty((0, shape.vocab))
        layers = (_Layer * shape.layers)(
            *(
                _Layer(
                    attention_norm=_pointer(layer.attention_norm),
                    q_norm=_pointer(layer.q_norm),
                    k_norm=_pointer(layer.k_norm),
                    mlp_norm=_pointer(layer.mlp_norm),
                    qkv=_matrix(layer.qkv),
                    out=_matrix(layer.out),
                    gate_up=_matrix(layer.gate_up),
                    down=_matrix(layer.down),
                )
                for layer in weights.layers
            )
        )
        described = _Shape(
            layers=shape.layers,
            hidden=shape.hidden,
            mlp=shape.mlp,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            vocab=shape.vocab,
            threads=threads,
            eps=shape.eps,
            layer=layers,
            embedding_scale=_pointer(weights.embedding_scale),
            norm=_pointer(weights.norm),
            cos=rope[0].data_ptr(),
            sin=rope[1].data_ptr(),
            embedding=_matrix(Matrix(packed=weights.embedding, bias=None)),
            head=_matrix(Matrix(packed=weights.head, bias=None)),
        )
        self._handle: int | None = self._library.edged_open(ctypes.byref(described))
        if self._handle is None:
            raise MemoryError("no memory for the decoder's threads")

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._library.edged_close(self._handle)

    def allocate(self, capacity: int) -> NativeKV:
        s = self._shape
        tiles = -(-capacity // _TILE)
        return NativeKV(
            keys=torch.empty((s.layers, s.kv_heads, tiles, s.head_dim, _TILE), dtype=torch.bfloat16),
            values=torch.empty((s.layers, s.kv_heads, tiles * _TILE, s.head_dim), dtype=torch.bfloat16),
        )

    def fork(self, source: NativeKV, length: int, capacity: int, *, borrow: bool = False) -> NativeKV:
        if source.lent is not None:
            raise ValueError("a sequence that borrows its beginning cannot be forked")
        lent = length // _TILE if borrow else 0  # tiles
        kv = self.allocate(capacity - lent * _TILE)
        if lent:
            kv.lent, kv.shared = source, lent * _TILE
        tiles = -(-length // _TILE)
        kv.keys[:, :, : tiles - lent].copy_(source.keys[:, :, lent:tiles])
        kv.values[:, :, : length - kv.shared].copy_(source.values[:, :, kv.shared : length])
        kv.length = length
        return kv

    def forward(self, spans: Sequence[Span[NativeKV]]) -> torch.Tensor:
        """Run one step; see `CausalModel.forward`. The logits hold until the next step."""
        tokens, positions, parents, wanted = array("i"), array("i"), array("i"), array("i")
        described: list[_Span] = []
        words: set[int] | None = set()  # None: all of the vocabulary
        for span in spans:
            first, past, count = len(tokens), span.kv.length, len(span.tokens)
            rows = count + len(span.branches)
            if past + rows > span.kv.capacity:
                raise ValueError(f"{past} + {rows} tokens do not fit into a block of {span.kv.capacity}")
            tokens.extend(span.tokens)
            positions.extend(range(past, past + count))
            parents.extend(range(-1, count - 1))
            for parent, token in span.branches:
                tokens.append(token)
                positions.append(positions[first + parent] + 1)
                parents.append(parent)
            wanted.extend(first + row for row in span.wanted)
            if span.wanted:
                words = words | set(span.words) if words is not None and span.words else None
            described.append(
                _Span(
                    lent=_Block() if span.kv.lent is None else span.kv.lent.block(),
                    own=span.kv.block(),
                    shared=span.kv.shared,
                    past=past,
                    first=first,
                    tokens=count,
                    rows=rows,
                )
            )
        asked = (*tokens, *(words or ()))
        if asked and not (min(asked) >= 0 and max(asked) < self.vocab_size):
            raise ValueError("a token is outside the vocabulary")
        blocks = array("i", sorted({word // BLOCK for word in words or ()}))
        if len(wanted) > len(self._logits):
            self._logits = torch.empty((len(wanted), self.vocab_size))
        failed = self._library.edged_step(
            self._handle,
            len(tokens),
            tokens.buffer_info()[0],
            positions.buffer_info()[0],
            parents.buffer_info()[0],
            len(described),
            ctypes.byref((_Span * len(described))(*described)),
            len(wanted),
            wanted.buffer_info()[0],
            len(blocks),
            blocks.buffer_info()[0],
            self._logits.data_ptr(),
        )
        if failed:
            raise MemoryError("no memory for the step")
        for span in spans:
            span.kv.length += len(span.tokens)
        return self._logits[: len(wanted)]
