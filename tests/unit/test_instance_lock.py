"""One daemon of a name in a state folder: the second is refused, the end of the first is seen."""

import contextlib
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edged.contract.status import Identity
from edged.errors import BrokerUnavailable, FatalError, NameTaken
from edged.fleet.instance_lock import Instance, InstanceLock


def lock_of(folder: Path, *, root: str = "edged/box", boot_id: str = "one") -> InstanceLock:
    identity = Identity(boot_id=boot_id, started="1970-01-01T00:00:00.000Z", version="1", client="c")
    return InstanceLock(folder, root=root, identity=identity)


def run(folder: Path, boot_id: str, *, ends: Exception | None = None) -> Instance | None:
    """A process from its start to its end; gives what it found of the one before."""
    lock = lock_of(folder, boot_id=boot_id)
    found = None
    with contextlib.suppress(Exception), lock.held():
        lock.note()
        found, lock.unended = lock.unended, None  # it was told
        if ends is not None:
            raise ends
    return found


def test_a_second_one_is_refused_and_the_first_keeps_the_name(tmp_path: Path) -> None:
    first, second = lock_of(tmp_path), lock_of(tmp_path, boot_id="two")
    with first.held():
        first.note()
        with pytest.raises(NameTaken, match=f"process {os.getpid()}"):
            second.acquire()
        with pytest.raises(NameTaken):
            second.acquire()
    second.acquire()
    assert second.unended is None
    second.release(in_order=True)


def test_other_names_and_other_folders_are_free(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with lock_of(tmp_path).held(), lock_of(tmp_path, root="edged/box2").held(), lock_of(tmp_path / "other").held():
        pass


def test_an_end_without_order_is_found_once(tmp_path: Path) -> None:
    assert run(tmp_path, "one") is None
    assert run(tmp_path, "two", ends=RuntimeError("a bug")) is None
    found = run(tmp_path, "three")
    assert found is not None
    assert (found.boot_id, found.started) == ("two", "1970-01-01T00:00:00.000Z")
    assert run(tmp_path, "four") is None


@pytest.mark.parametrize(
    ("error", "is_found"), [(FatalError("a thread stands still"), True), (BrokerUnavailable("refused"), False)]
)
def test_a_part_that_died_is_no_end_in_order(tmp_path: Path, error: FatalError, is_found: bool) -> None:
    run(tmp_path, "one", ends=error)
    assert (run(tmp_path, "two") is not None) is is_found


def test_a_process_that_was_refused_leaves_the_unclean_end_to_the_next(tmp_path: Path) -> None:
    run(tmp_path, "one", ends=RuntimeError("a bug"))
    refused = lock_of(tmp_path, boot_id="two")
    with pytest.raises(NameTaken), refused.held():
        raise NameTaken("a daemon of this name lives")
    found = run(tmp_path, "three")
    assert found is not None
    assert found.boot_id == "one"


@pytest.mark.parametrize("text", [b"{", b"[1]", b'{"boot_id": 5}', b"\xff", b"[" * 4000, b"0" * 10_000])
def test_a_file_that_cannot_be_read_is_an_unclean_end_of_nobody_in_particular(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "edged%2Fbox.lock").write_bytes(text)
    lock = lock_of(tmp_path)
    lock.acquire()
    assert lock.unended == Instance()
    lock.release(in_order=True)


def test_where_no_lock_can_be_taken_the_daemon_goes_on(tmp_path: Path) -> None:
    lock = lock_of(tmp_path / "missing")
    with capture_logs() as logged, lock.held():
        lock.note()
    assert [each["event"] for each in logged] == ["instance_lock"]


def test_a_file_is_private_and_its_name_is_one_level(tmp_path: Path) -> None:
    with lock_of(tmp_path, root="a/../b").held():
        [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
