"""Power cuts and full disks while the model and the options change: what is left is whole, whenever they come."""

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.model_box import Box

CALLS = ("open", "fsync", "replace", "rename", "unlink", "mkdir")
TEXTS = "I love it.\tpositive\nI hate it: bad.\tnegative\n"


class Cut(BaseException):
    """The power is cut."""


class Disk:
    """Counts the changes below a folder; one of them, and all after it, fail.

    Attributes:
        fails_at: the number of the first change that fails; None: none does.
        is_done: whether that one is done all the same, before the failure is told.
        fault: makes what is raised.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.changes = 0
        self.fails_at: int | None = None
        self.is_done = False
        self.fault: Callable[[], BaseException] = Cut

    @contextmanager
    def watched(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._watching(getattr(os, name)))
            yield

    def _watching(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*given: Any, **named: Any) -> Any:
            if not self._is_change(call.__name__, given):
                return call(*given, **named)
            number, self.changes = self.changes, self.changes + 1
            if self.fails_at is None or number < self.fails_at:
                return call(*given, **named)
            if number == self.fails_at and self.is_done:
                call(*given, **named)
            raise self.fault()

        return watching

    def _is_change(self, name: str, given: tuple[Any, ...]) -> bool:
        if name == "fsync":
            return True
        if name == "open" and not (len(given) > 1 and given[1] & os.O_CREAT):
            return False
        return str(given[0]).startswith(self.folder)


def new_box(folder: Path) -> Box:
    folder.mkdir()
    (folder / "texts.tsv").write_text(TEXTS)
    box = Box(folder)
    box.file.write_text(f"[model]\nid = 'good-1'\n[models]\ncanary = '{folder / 'texts.tsv'}'\ncanary_margin = 1.0\n")
    box.start()
    return box


def change_options(box: Box, patch: Mapping[str, Any]) -> None:
    box.live.change_options(patch, lambda _: None)
    box.turn()


STEPS: tuple[Callable[[Box], object], ...] = (
    lambda box: box.switch("good-2"),
    lambda box: change_options(box, {"limits": {"text_chars": 7}}),
    lambda box: box.switch("broken"),
    lambda box: box.switch("good-3"),
    lambda box: change_options(box, {"limits": {"text_chars": None}, "language": "en"}),
    lambda box: (box.obey("rollback"), box.until_done()),
)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Mapping[str, Any]], int]:
    """The options after each step, and the number of changes on the disk."""
    box = new_box(tmp_path_factory.mktemp("whole") / "box")
    disk, options = Disk(box.folder), [box.kept]
    with disk.watched():
        for step in STEPS:
            step(box)
            options.append(box.kept)
    assert [each.get("model", {}).get("id") for each in options] == [
        None, "good-2", "good-2", "good-2", "good-3", "good-3", "good-2",
    ]  # fmt: skip
    assert disk.changes > 20
    return options, disk.changes


def test_after_a_power_cut_at_any_step_there_is_one_whole_model_and_one_whole_set_of_options(
    known: tuple[list[Mapping[str, Any]], int], tmp_path: Path
) -> None:
    options, changes = known
    draw = random.Random(22)
    for n in range(50):
        box = new_box(tmp_path / str(n))
        disk = Disk(box.folder)
        disk.fails_at, disk.is_done = draw.randrange(changes), draw.random() < 0.5
        at = 0
        with disk.watched(), suppress(Cut):
            for at, step in enumerate(STEPS):  # noqa: B007 - read below
                step(box)
        box.start()
        model = box.live.settings.model.id
        assert box.kept in options[at : at + 2]
        assert model == box.kept.get("model", {}).get("id", "good-1")
        assert not box.trial.process_begins(model)
        trial = box.trial.running
        if trial is not None:  # two bad starts take it back to what was before
            assert trial.id == model
            assert box.trial.process_begins(model)
            box.start()
            assert box.live.settings.model.id == trial.previous
            assert {**box.kept, "model": None} == {**options[at], "model": None} or at in {1, 4}
        shutil.rmtree(box.folder)


def test_a_full_disk_at_any_step_leaves_what_is_in_use_as_it_is_kept(
    known: tuple[list[Mapping[str, Any]], int], tmp_path: Path
) -> None:
    options, changes = known
    for n in range(changes):
        box = new_box(tmp_path / str(n))
        disk = Disk(box.folder)
        disk.fails_at, disk.fault = n, lambda: OSError(errno.ENOSPC, "No space left on device")
        with disk.watched():
            for step in STEPS[:-1]:
                step(box)
        model = box.kept.get("model", {}).get("id", "good-1")
        assert (box.engine.model.id, box.live.settings.model.id) == (model, model)
        assert box.kept in options
        assert box.live.settings.limits.text_chars == box.kept.get("limits", {}).get("text_chars", 8000)
        box.switch("good-9")  # there is room again
        assert box.kept["model"] == {"id": "good-9"}
        shutil.rmtree(box.folder)
