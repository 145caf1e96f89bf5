"""What the warm-up computes, kept in a file: the next start maps it and need not compute it again.

The file has the keys and values of the beginnings that all prompts of a task share, and the priors of the prompts. It
is made of one bundle by one library of kernels and one release, and names them: other kernels round sums otherwise. A
file that is not of these, or is damaged, counts as none. So it never changes a token of an answer.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

import structlog
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from edged.engine import kv_file
from edged.engine.decoders.interface import K
from edged.engine.kv_file import KVModel
from edged.engine.weights import prepared_file
from edged.engine.weights.prepared_file import Array, Damaged, file_name_of, map_file
from edged.models.bundle import is_bundle

log = structlog.get_logger(__name__)


class _Content(BaseModel):
    """What the file says of itself.

    Attributes:
        prefixes: the tokens of each beginning, in the order of the tensors.
        priors: of each prompt, by the prompt's hash.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    prefixes: list[list[int]]
    priors: dict[str, list[FiniteFloat]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What a file has: keys and values by their tokens, and priors by the hash of their prompts."""

    prefixes: Mapping[tuple[int, ...], tuple[Array, Array]] = field(default_factory=dict)
    priors: Mapping[str, list[float]] = field(default_factory=dict)


def read(path: Path, made_of: str) -> Kept:
    """Read the file, if there is a whole one with this mark (see `kv_file.mark_of`). Every byte is read once."""
    try:
        return _read(path, made_of)
    except FileNotFoundError:
        return Kept()
    except (OSError, Damaged, ValidationError) as error:
        log.warning("warm_up_file_unreadable", file=str(path), reason=kv_file.in_words(error), instead="made anew")
        return Kept()


def _read(path: Path, made_of: str) -> Kept:
    stored = kv_file.read(path, made_of)
    if stored is None:
        return Kept()
    content = _Content.model_validate_json(stored.content)
    if len(content.prefixes) != len(stored.sequences):
        raise Damaged("it does not have the tensors that it names")
    prefixes = dict(zip(map(tuple, content.prefixes), stored.sequences, strict=True))
    return Kept(prefixes=prefixes, priors=content.priors)


@dataclass(slots=True)
class WarmUpFile(Generic[K]):
    """The file of one bundle, as far as it is of use to this start.

    Attributes:
        path: of the file.
        bundle: the folder of which it is.
        made_of: see `kv_file.mark_of`.
        model: the decoder.
        kept: what the file has.
        is_complete: whether all that was asked for so far was there.
    """

    path: Path
    bundle: Path
    made_of: str
    model: KVModel[K]
    kept: Kept = field(default_factory=Kept)
    is_complete: bool = True
    _asked: dict[str, list[float]] = field(default_factory=dict)

    def prefix(self, tokens: Sequence[int]) -> K | None:
        """The keys and values of exactly these tokens; None if the file has none."""
        arrays = self.kept.prefixes.get(tuple(tokens))
        kv = None if arrays is None else kv_file.taken(self.model, arrays, len(tokens))
        if kv is None:
            self.is_complete = False
        return kv

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
        content = _Content(prefixes=[list(tokens) for tokens in ordered], priors=self._asked)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove_orphans(self.path.parent)
            kv_file.write(
                self.path,
                lambda: map(self.model.kv_arrays, ordered.values()),
                made_of=self.made_of,
                content=content.model_dump_json(),
                more={"bundle": str(self.bundle)},
            )
        except OSError as error:
            log.warning("warm_up_not_kept", file=str(self.path), reason=kv_file.in_words(error))
            return False
        self.kept = read(self.path, self.made_of)
        return True

    def put_away(self) -> None:
        """Have the file take no memory until it is read again; what a start read of it may never be asked for."""
        for keys, _ in self.kept.prefixes.values():
            prepared_file.put_away(keys)


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
