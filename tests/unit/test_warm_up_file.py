"""What the warm-up computed is found by the next start, and only if it is whole and of the same model and kernels."""

from pathlib import Path

import pytest

from edged.engine.kv_file import mark_of
from edged.engine.warm_up_file import WarmUpFile, file_of, read
from edged.models.bundle import MANIFEST, WEIGHTS
from tests.support.kv import KV, Model, kv

TOKENS = (1, 2, 3)
OTHER = (4, 5)
PROMPTS = [(1, 2, 3, 9), (1, 2, 3, 8)]
PRIOR = [-0.5, -0.25]


def opened(path: Path, made_of: str = "this") -> WarmUpFile[KV]:
    return WarmUpFile(
        path=path, bundle=path.parent / path.stem, made_of=made_of, model=Model(), kept=read(path, made_of)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that a first start has left."""
    path = tmp_path / "store" / "a.safetensors"
    first = opened(path)
    assert first.prefix(TOKENS) is None
    assert first.prior(PROMPTS, 7) is None
    first.note_prior(PROMPTS, 7, prior=PRIOR)
    assert not first.is_complete
    assert first.write({TOKENS: kv(TOKENS), OTHER: kv(OTHER)})
    return path


def test_the_next_start_finds_all_of_it(path: Path) -> None:
    file = opened(path)
    found = file.prefix(TOKENS)
    assert found is not None
    assert (found.keys.tolist(), found.values.tolist(), found.length) == ([1, 2, 3], [[101], [102], [103]], 3)
    assert file.prefix(OTHER) is not None
    assert file.prior(PROMPTS, 7) == PRIOR
    assert file.is_complete


def test_what_is_put_away_takes_no_memory_and_is_read_again(tmp_path: Path) -> None:
    path, tokens = tmp_path / "large.safetensors", tuple(range(1 << 16))
    assert opened(path).write({tokens: kv(tokens)})
    file = opened(path)
    found = file.prefix(tokens)
    assert found is not None
    before = (found.keys.tolist(), resident_kb(path))
    file.put_away()
    assert resident_kb(path) < before[1]
    assert found.keys.tolist() == before[0]


def resident_kb(path: Path) -> int:
    """How much of a mapped file counts as this process's memory."""
    mappings = Path("/proc/self/smaps").read_text().split(f" {path}\n")[1:]
    return sum(int(each.partition("\nRss:")[2].split()[0]) for each in mappings)


def test_what_is_not_in_it_is_missed(path: Path) -> None:
    file = opened(path)
    assert file.prefix((1, 2)) is None
    assert not file.is_complete
    file = opened(path)
    assert file.prior(PROMPTS, 8) is None
    assert not file.is_complete


def test_other_weights_or_other_kernels_find_nothing(path: Path) -> None:
    file = opened(path, made_of="that")
    assert file.prefix(TOKENS) is None
    assert file.prior(PROMPTS, 7) is None


def test_every_damage_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found = opened(path).prefix(TOKENS)  # a flipped bit of the filling in the header changes nothing
        assert found is None or (found.keys.tolist(), found.values.tolist()) == ([1, 2, 3], [[101], [102], [103]]), at
        path.write_bytes(whole[:at])
        assert opened(path).prefix(TOKENS) is None, at


def test_keys_and_values_of_other_sizes_are_not_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "kv_shapes", lambda _, length: ((length, 2), (length, 1)))
    assert opened(path).prefix(TOKENS) is None


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = opened(tmp_path / "file" / "a.safetensors")
    assert not file.write({TOKENS: kv(TOKENS)})


def test_it_leaves_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 15})
    monkeypatch.setattr("edged.engine.kv_file.shutil.disk_usage", lambda _: usage)
    path = tmp_path / "a.safetensors"
    assert not opened(path).write({TOKENS: kv(TOKENS)})
    assert not path.exists()


def test_a_bundle_that_changes_and_other_kernels_have_other_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / MANIFEST).write_text("{}")
    (bundle / WEIGHTS).write_text("weights")

    def mark(library: str = "/kernels/edged-avx2-1.so", *, half_width: bool = True) -> str:
        return mark_of(bundle, Path(library), half_width=half_width)

    first = mark()
    assert first == mark("/elsewhere/edged-avx2-1.so")
    assert first not in {mark("/kernels/edged-avx512-1.so"), mark(half_width=False)}
    monkeypatch.setattr("edged.engine.kv_file.__version__", "0.0.0")
    assert first != mark()
    monkeypatch.undo()
    (bundle / MANIFEST).write_text("{ }")
    assert first != mark()
    assert file_of(tmp_path, bundle) != file_of(tmp_path, tmp_path / "other")


def test_the_file_of_a_bundle_that_is_no_more_goes_when_another_is_written(path: Path) -> None:
    damaged = path.with_name("damaged.safetensors")
    damaged.write_bytes(b"")
    other = path.with_name("b.safetensors")
    there = path.parent / "b"
    there.mkdir()
    (there / MANIFEST).write_text("{}")
    assert opened(other).write({TOKENS: kv(TOKENS)})
    assert not path.exists()
    assert opened(path).write({TOKENS: kv(TOKENS)})
    assert other.exists()
    assert damaged.exists()
