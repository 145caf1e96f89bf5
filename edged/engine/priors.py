"""What was learned about prompts, kept from one start to the next, so that a start need not compute it all again.

An entry has a mark of what it was computed from (the prompts as tokens), the model's result for the first of these
texts, which each start computes, and what was learned. If the model, its format or the prompt has changed, the first
result differs and no entry is found.

There are two kinds of file. The store's own file is of this box, and its first result must be the same to the last bit.
Files that ship with edged were made on another box, whose kernels round differently: there the first result must be
nearly the same.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, FiniteFloat, TypeAdapter

from edged.state_files import StateFile

_MAX_ENTRIES = 1000  # a file with so many is emptied, so that it does not grow for ever
_NEAR = 0.05  # nats; the results of two formats of one model differ by more
_Entries = dict[str, list[FiniteFloat]]
_ENTRIES: TypeAdapter[_Entries] = TypeAdapter(_Entries)


class Carried(BaseModel):
    """An entry of a file that ships.

    Attributes:
        of: a mark of what it was learned from.
        first: the model's result for the first text.
        learned: what was kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    of: str
    first: list[FiniteFloat]
    learned: list[FiniteFloat]


class PriorStore:
    """The file of this box, and files that ship.

    Without a path nothing is kept; a file that cannot be read counts as empty.
    """

    def __init__(self, path: Path | None, *, came_with: Iterable[Path] = ()) -> None:
        self._path = path
        self._file = None if path is None else StateFile(path, _Entries, kind="priors", earlier=_earlier_entries)
        self._came_with = tuple(carried_file(each) for each in came_with)
        self._entries: _Entries | None = None
        self._carried: list[Carried] | None = None
        self._used: list[Carried] = []

    @property
    def used(self) -> list[Carried]:
        """What this process found or learned, in the form of a file that ships."""
        return list(self._used)

    def find(self, of: object, first: Sequence[float]) -> list[float] | None:
        """What was learned, if it was kept.

        Args:
            of: what it was learned from, for JSON: the tokens of the prompts.
            first: the log-probabilities for the first text, as this model gives them.
        """
        found = self._read().get(_key(of, first)) or self._nearly(of, first)
        if found is not None:
            self._used.append(Carried(of=_mark(of), first=[*first], learned=found))
        return found

    def keep(self, of: object, first: Sequence[float], learned: Sequence[float]) -> None:
        """Remember what was learned for the next start."""
        self._used.append(Carried(of=_mark(of), first=[*first], learned=[*learned]))
        if self._path is None or self._file is None:
            return
        entries = self._read()
        if len(entries) >= _MAX_ENTRIES:
            entries.clear()
        entries[_key(of, first)] = list(learned)
        with contextlib.suppress(OSError):  # then the write fails too, and is told
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file.write(entries)

    def _read(self) -> _Entries:
        if self._entries is None:
            self._entries = (None if self._file is None else self._file.read()) or {}
        return self._entries

    def _nearly(self, of: object, first: Sequence[float]) -> list[float] | None:
        if self._carried is None:
            self._carried = [entry for file in self._came_with for entry in file.read() or []]
        mark = _mark(of) if self._carried else ""
        for each in self._carried:
            if each.of == mark and len(each.first) == len(first):
                gap = max(abs(a - b) for a, b in zip(each.first, first, strict=True))
                if gap <= _NEAR:
                    return each.learned
        return None


def carried_file(path: Path) -> StateFile[list[Carried]]:
    """A file of what was learned, as it ships."""
    return StateFile(path, list[Carried], kind="calibration")


def _earlier_entries(written: bytes) -> _Entries:
    """The entries as they were without kind and version."""
    return _ENTRIES.validate_json(written, strict=True)


def _key(of: object, first: Sequence[float]) -> str:
    return _hash(json.dumps([of, [each.hex() for each in first]]))


def _mark(of: object) -> str:
    return _hash(json.dumps(of))


def _hash(said: str) -> str:
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
