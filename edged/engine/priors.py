"""Priors of prompts, kept in the model store: a start computes one of their texts, and the rest only if it must.

What was computed for the first text is the key to the others: if the model, its format, the kernels or the prompt are
not the same to the bit, it is not found.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter

from edged.state_files import StateFile

_MAX_ENTRIES = 1000  # when it is full, it is begun anew, so that it does not grow for ever
_Entries = dict[str, list[FiniteFloat]]
_ENTRIES: TypeAdapter[_Entries] = TypeAdapter(_Entries)


class PriorStore:
    """A state file; without a path nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file = None if path is None else StateFile(path, _Entries, kind="priors", earlier=_earlier_entries)
        self._entries: _Entries | None = None

    def find(self, prompts: Sequence[Sequence[int]], first: Sequence[float]) -> list[float] | None:
        """The prior of a prompt.

        Args:
            prompts: the tokens of the prompt with each of its neutral texts.
            first: log-probabilities of the labels for the first of these, as this model gives them.
        """
        return self._read().get(_key(prompts, first))

    def keep(self, prompts: Sequence[Sequence[int]], first: Sequence[float], prior: Sequence[float]) -> None:
        """Remember a prior for the next start."""
        if self._path is None or self._file is None:
            return
        entries = self._read()
        if len(entries) >= _MAX_ENTRIES:
            entries.clear()
        entries[_key(prompts, first)] = list(prior)
        with contextlib.suppress(OSError):  # then the write fails too, and is told
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file.write(entries)

    def _read(self) -> _Entries:
        if self._entries is None:
            self._entries = (None if self._file is None else self._file.read()) or {}
        return self._entries


def _earlier_entries(written: bytes) -> _Entries:
    """The entries as they were without kind and version."""
    return _ENTRIES.validate_json(written, strict=True)


def _key(prompts: Sequence[Sequence[int]], first: Sequence[float]) -> str:
    said = json.dumps([[list(each) for each in prompts], [each.hex() for each in first]])
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
