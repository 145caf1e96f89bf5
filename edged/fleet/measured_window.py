"""Keeps the measured number of requests that this box can use at a time, in a file for the next process."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveInt

from edged.state_files import StateFile


class _Record(BaseModel):
    """The number, and the settings with which it was measured."""

    model_config = ConfigDict(strict=True, frozen=True)

    of: str
    requests: PositiveInt


class MeasuredWindow:
    """The number of requests in a state file."""

    def __init__(self, file: Path, *, of: str) -> None:
        """`of` is a hash of the model and its settings. A number that was measured with others is not used."""
        self._file = StateFile(file, _Record, kind="pace", earlier=_Record.model_validate_json)
        self._of = of

    def recall(self, *, at_most: int) -> int | None:
        """The number that was noted last, or `at_most` if that is smaller; None if none is known."""
        record = self._file.read()
        if record is None or record.of != self._of:
            return None
        return min(record.requests, at_most)

    def note(self, requests: int) -> None:
        """Keep the number for the next process."""
        self._file.write(_Record(of=self._of, requests=requests))
