"""The file of what `edged calibrate` learned, in the folder of the models; see `tasks/own_calibration.py`."""

from collections.abc import Mapping
from pathlib import Path

from edged.state_files import StateFile
from edged.tasks.own_calibration import OwnCalibration

OwnCalibrations = Mapping[str, OwnCalibration]  # by the mark of task, prompts and model, see `judge_of`


class OwnCalibrationFile:
    """What was learned for each task, prompt and model."""

    def __init__(self, folder: Path) -> None:
        self._file = StateFile(folder / "own_calibration.json", dict[str, OwnCalibration], kind="own calibration")

    def read(self) -> dict[str, OwnCalibration]:
        """All of it; empty where nothing was learned, or the file cannot be read, which is logged."""
        return self._file.read() or {}

    def put(self, learned: OwnCalibrations) -> None:
        """Add what was learned, instead of what was learned for the same before."""
        self._file.write(self.read() | dict(learned))
