"""A model on trial: what the next process must know to take a new model back that makes the daemon crash.

The chosen model is the option `model.id`, in the options file like all options. Beside it, for the first hour, a record
says which model was before, and how many processes have begun on the new one without ending in order.
"""

from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict

from edged import state_files
from edged.errors import SettingsError
from edged.settings.load import read_options
from edged.settings.options import options_file, options_text, patched
from edged.state_files import StateFile

log = structlog.get_logger(__name__)

HOUR_S = 3600.0
_MAX_STARTS = 2  # processes that may end badly


class Trial(BaseModel):
    """A new model, and what was before it.

    Attributes:
        previous: the model before.
        had_option: whether `previous` was an option too; else it comes from the other settings.
        at: wall-clock seconds of the switch.
        starts: processes that began on it and did not end in order; the present one counts.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    id: str
    previous: str
    had_option: bool
    at: float
    starts: int


class ModelTrial:
    """The record, and taking a model back by it."""

    def __init__(self, state_dir: Path, *, wall_clock: Callable[[], float]) -> None:
        self._state_dir = state_dir
        self._file = StateFile(state_dir / "model", Trial, kind="model trial")
        self._wall_clock = wall_clock

    @property
    def running(self) -> Trial | None:
        """The trial that goes on; None if there is none, or its hour is over."""
        trial = self._file.read()
        if trial is None or not 0 <= self._wall_clock() - trial.at < HOUR_S:
            return None
        return trial

    def previous_of(self, model: str) -> str | None:
        """The model before this one, also when its trial is over; None if that is not known."""
        trial = self._file.read()
        return None if trial is None or trial.id != model else trial.previous

    def begin(self, model: str, *, previous: str) -> None:
        """Note a new model. To be called before it becomes the option.

        Raises:
            SettingsError: the options cannot be read.
        """
        had_option = "id" in read_options(self._state_dir).get("model", {})
        trial = Trial(id=model, previous=previous, had_option=had_option, at=self._wall_clock(), starts=1)
        self._file.write(trial)

    def end(self) -> None:
        """Forget the trial: the model has stood it, or was taken back."""
        self._file.delete()

    def process_begins(self, model: str) -> bool:
        """Note that a process begins with this model; True: it was taken back, so read the settings again."""
        known, trial = self._file.read(), self.running
        if known is not None and known.id != model:
            self.end()  # a switch that a power cut ended, or the settings name another model now
            return False
        if trial is None:
            return False
        if trial.starts >= _MAX_STARTS:
            return self.take_back(f"{trial.starts} processes ended badly within its first hour")
        self._file.write(trial.model_copy(update={"starts": trial.starts + 1}))
        return False

    def process_ends(self) -> None:
        """Note that this process ends in order."""
        trial = self.running
        if trial is not None:
            self._file.write(trial.model_copy(update={"starts": max(trial.starts - 1, 0)}))

    def take_back(self, reason: str) -> bool:
        """Make the model before the option again; False if there is no trial, or the disk takes no file."""
        trial = self.running
        if trial is None:
            return False
        patch = {"model": {"id": trial.previous if trial.had_option else None, "reads": None}}
        try:
            options = patched(read_options(self._state_dir), patch)
            state_files.replace(options_file(self._state_dir), options_text(options).encode())
        except (OSError, SettingsError, ValueError) as error:
            log.error("model_not_taken_back", id=trial.id, reason=str(error))  # noqa: TRY400 - the reason says it all
            return False
        log.warning("model_taken_back", id=trial.id, previous=trial.previous, reason=reason)
        self.end()
        return True
