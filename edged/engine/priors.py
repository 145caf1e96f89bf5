"""Priors of prompts, kept in a file from one start to the next, so that a start need not compute them all again.

The key of a prior is the tokens of the prompt and the result for the first neutral text, which each start computes. If
the model, its format, the kernels or the prompt has changed, that result differs and no prior is found.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_MAX_ENTRIES = 1000  # a file with so many is emptied, so that it does not grow for ever


class PriorStore:
    """The file of priors. Without a path nothing is kept; a file that cannot be read counts as empty."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries: dict[str, list[float]] | None = None

    def find(self, prompts: Sequence[Sequence[int]], first: Sequence[float]) -> list[float] | None:
        """The prior of a prompt, if it was kept.

        Args:
            prompts: the tokens of the prompt with each of its neutral texts.
            first: the log-probabilities of the labels for the first of these texts, as this model gives them.
        """
        return self._read().get(_key(prompts, first))

    def keep(self, prompts: Sequence[Sequence[int]], first: Sequence[float], prior: Sequence[float]) -> None:
        """Remember a prior for the next start."""
        if self._path is None:
            return
        entries = self._read()
        if len(entries) >= _MAX_ENTRIES:
            entries.clear()
        entries[_key(prompts, first)] = list(prior)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False, encoding="utf-8") as file:
                json.dump(entries, file)
            Path(file.name).replace(self._path)  # in one step: the file is never half written
        except OSError as error:
            log.info("priors_not_kept", path=str(self._path), reason=error.strerror)

    def _read(self) -> dict[str, list[float]]:
        if self._entries is None:
            self._entries = {}
            try:
                found = json.loads(self._path.read_text(encoding="utf-8")) if self._path is not None else {}
            except (OSError, ValueError):
                found = {}
            if isinstance(found, dict):
                self._entries = {key: each for key, each in found.items() if _is_prior(each)}
        return self._entries


def _is_prior(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, float) for each in value)


def _key(prompts: Sequence[Sequence[int]], first: Sequence[float]) -> str:
    said = json.dumps([[list(each) for each in prompts], [each.hex() for each in first]])
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
