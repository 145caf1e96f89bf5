"""What the warm-up computes, kept in a file: the next start maps it and need not compute it again.

The file has the keys and values of the beginnings that all prompts of a task share, and the priors of the prompts. It
is made of one bundle by one library of kernels and one release, and names them: other kernels round sums otherwise. A
file that is not of these, or is damaged, counts as none. So it never changes a token of an answer.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol

import numpy as np
import structlog
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from edged import __version__
from edged.engine.decoders.interface import K
from edged.engine.weights.prepared_file import Array, Damaged, Entry, file_name_of, map_file, write
from edged.models.bundle import MANIFEST, WEIGHTS, is_bundle

log = structlog.get_logger(__name__)

_FORM = 1  # of the file, and of how the decoder lays out keys and values
_READ_AT_ONCE = 1 << 20
_KEPT_FREE = 2  # a file is written only where the disk has room for so many of its size


class PrefixModel(Protocol[K]):
    """A decoder whose keys and values can be kept in a file."""

    def kv_arrays(self, kv: K) -> tuple[Array, Array]:
        """Keys and values of a sequence that borrows nothing, with zeros where it holds no position."""
        ...

    def kv_shapes(self, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the keys and values of a sequence of this length."""
        ...

    def kv_of(self, keys: Array, values: Array, length: int) -> K:
        """A sequence of keys and values that are only read; others may be forked from it."""
        ...


class _Content(BaseModel):
    """What the file says of itself.

    Attributes:
        prefixes: the tokens of each beginning, in the order of the tensors.
        priors: of each prompt, by the prompt's hash.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    prefixes: list[list[int]]
    priors: dict[str, list[FiniteFloat]]


def mark_of(bundle: Path, library: Path, *, half_width: bool) -> str:
    """Name a bundle in its present state, a library of kernels, and what else the priors depend on.

    Args:
        bundle: its folder.
        library: of the kernels.
        half_width: see `Prompter`.

    Raises:
        OSError: a file of the bundle is missing.
    """
    weights = (bundle / WEIGHTS).stat()
    manifest = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    said = [_FORM, __version__, manifest, weights.st_size, weights.st_mtime_ns, library.name, half_width]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What a file has: keys and values by their tokens, and priors by the hash of their prompts."""

    prefixes: Mapping[tuple[int, ...], tuple[Array, Array]] = field(default_factory=dict)
    priors: Mapping[str, list[float]] = field(default_factory=dict)


def read(path: Path, made_of: str) -> Kept:
    """Read the file, if there is one with this mark (see `mark_of`), and it is whole. Every byte is read once."""
    try:
        return _read(path, made_of)
    except FileNotFoundError:
        return Kept()
    except (OSError, Damaged, ValidationError) as error:
        log.warning("warm_up_file_unreadable", file=str(path), reason=_in_words(error), instead="made anew")
        return Kept()


def _read(path: Path, made_of: str) -> Kept:
    metadata, tensors = map_file(path)
    if metadata.get("made_of") != made_of:
        return Kept()
    said = metadata.get("content", "")
    if metadata.get("checksum") != _checksum(said, _blocks(path)):
        raise Damaged("its checksum is wrong")
    content = _Content.model_validate_json(said)
    if tensors.keys() != {str(n) for n in range(2 * len(content.prefixes))}:
        raise Damaged("it does not have the tensors that it names")
    prefixes = {
        tuple(tokens): (tensors[str(2 * n)], tensors[str(2 * n + 1)]) for n, tokens in enumerate(content.prefixes)
    }
    return Kept(prefixes=prefixes, priors=content.priors)


@dataclass(slots=True)
class WarmUpFile(Generic[K]):
    """The file of one bundle, as far as it is of use to this start.

    Attributes:
        path: of the file.
        bundle: the folder of which it is.
        made_of: see `mark_of`.
        model: the decoder.
        kept: what the file has.
        is_complete: whether all that was asked for so far was there.
    """

    path: Path
    bundle: Path
    made_of: str
    model: PrefixModel[K]
    kept: Kept = field(default_factory=Kept)
    is_complete: bool = True
    _asked: dict[str, list[float]] = field(default_factory=dict)

    def prefix(self, tokens: Sequence[int]) -> K | None:
        """The keys and values of exactly these tokens; None if the file has none."""
        keys, values = self.kept.prefixes.get(tuple(tokens), (None, None))
        if keys is None or values is None or (keys.shape, values.shape) != self.model.kv_shapes(len(tokens)):
            self.is_complete = False
            return None
        return self.model.kv_of(keys, values, len(tokens))

    def prior(self, *prompt: object) -> list[float] | None:
        """The prior of a prompt; None if it is not known. `prompt` is all that tells it from others, for `repr`."""
        key = _hash_of(prompt)
        found = self.kept.priors.get(key)
        if found is None:
            self.is_complete = False
        else:
            self._asked[key] = found
        return found

    def note_prior(self, *prompt: object, prior: Sequence[float]) -> None:
        """Take in a prior that was measured."""
        self._asked[_hash_of(prompt)] = list(prior)

    def write(self, pinned: Mapping[tuple[int, ...], K]) -> bool:
        """Replace the file by what this start has used; gives whether it is there now.

        Args:
            pinned: the beginnings of all prompts, by their tokens.
        """
        ordered = dict(sorted(pinned.items()))  # in whichever order they were used, the file is the same
        arrays = [np.ascontiguousarray(array) for kv in ordered.values() for array in self.model.kv_arrays(kv)]
        content = _Content(prefixes=[list(tokens) for tokens in ordered], priors=self._asked)
        said = content.model_dump_json()
        checksum = _checksum(said, (array.data for array in arrays))
        entries: dict[str, Entry] = {str(n): ("BF16", array.shape) for n, array in enumerate(arrays)}
        metadata = {"made_of": self.made_of, "content": said, "checksum": checksum, "bundle": str(self.bundle)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove_orphans(self.path.parent)
            if shutil.disk_usage(self.path.parent).free < _KEPT_FREE * sum(array.nbytes for array in arrays):
                log.warning("warm_up_not_kept", file=str(self.path), reason="the disk is nearly full")
                return False
            write(self.path, entries, iter((str(n), array) for n, array in enumerate(arrays)), metadata)
        except OSError as error:
            log.warning("warm_up_not_kept", file=str(self.path), reason=_in_words(error))
            return False
        self.kept = read(self.path, self.made_of)
        return True


def _remove_orphans(folder: Path) -> None:
    """Delete the files of bundles that are no more.

    Raises:
        OSError: one cannot be deleted.
    """
    for file in folder.glob("*.safetensors"):
        try:
            metadata, _ = map_file(file)
        except (OSError, Damaged):
            continue  # it is read, or replaced, by the start of its own bundle
        bundle = metadata.get("bundle")
        if bundle is not None and not is_bundle(Path(bundle)):
            file.unlink(missing_ok=True)
            log.info("warm_up_file_removed", file=str(file), reason=f"the bundle {bundle} is no more")


def file_of(folder: Path, bundle: Path) -> Path:
    """Name the file of a bundle; there is one for each."""
    return folder / f"{file_name_of(bundle)}.safetensors"


def _hash_of(prompt: tuple[object, ...]) -> str:
    return hashlib.blake2b(repr(prompt).encode(), digest_size=16).hexdigest()


def _checksum(content: str, data: Iterable[Any]) -> str:
    digest = hashlib.blake2b(content.encode(), digest_size=32)
    for block in data:
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    """The bytes behind the header. They are read, not mapped: what is only added up here need not stay in memory."""
    with file.open("rb") as opened:
        opened.seek(8 + int.from_bytes(opened.read(8), "little"))
        while block := opened.read(_READ_AT_ONCE):
            yield block


def _in_words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
