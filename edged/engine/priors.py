"""Priors of prompts, kept in a file from one start to the next, so that a start need not compute them all again.

The key of a prior is the tokens of the prompt and the result for the first neutral text, which each start computes. If
the model, its format, the kernels or the prompt has changed, that result differs and no prior is found.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter

from edged.state_files import StateFile

_MAX_ENTRIES = 1000  # a file with so many is emptied, so that it does not grow for ever
_Entries = dict[str, list[FiniteFloat]]
_ENTRIES: TypeAdapter[_Entries] = TypeAdapter(_Entries)


class PriorStore:
    """The file of priors. Without a path nothing is kept; a file that cannot be read counts as empty."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file = None if path is None else StateFile(path, _Entries, kind="priors", earlier=_earlier_entries)
        self._entries: _Entries | None = None

    def find(self, prompts: Sequence[Sequence[int]], first: Sequence[float]) -> list[float] | None:
        """The prior of a prompt, if it was kept.

        Args:
            prompts: the tokens of the prompt with each of its neutral texts.
            first: the log-probabilities of the labels for the first of these texts, as this model gives them.
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
