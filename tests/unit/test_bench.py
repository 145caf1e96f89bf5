"""Which measurements `edged bench` runs, and in which order. No engine runs here."""

from dataclasses import replace

import pytest

from edged.bench import cold_start
from edged.bench.cold_start import ColdStart
from edged.bench.parts import PARTS
from edged.bench.run import Measurement, plan, run, take_turns
from edged.bench.workloads import Workloads
from edged.settings.schema import EngineSettings, Settings
from edged.testing import ScriptedEngine

ENGINE = ScriptedEngine()
ALL = [
    "prefill 128",
    "prefill 512",
    "decode 1",
    "decode 4",
    "decode 8",
    "first_token",
    "sentiment",
    "message 1 new",
    "message 1 known",
    "message 8 new",
    "message 8 known",
    "bandwidth",
]


def planned(
    *parts: str, max_batch: int = 8, context: int = 2048, device: str = "cpu"
) -> tuple[list[str], tuple[str, ...]]:
    info = replace(ENGINE.model, max_context_tokens=context, device=device)
    settings = Settings(engine=EngineSettings(max_batch=max_batch))
    found, notes = plan(settings, info, Workloads(ENGINE), parts or PARTS)
    return [each.name for each in found], tuple(notes)


def test_everything_is_measured_where_there_is_room() -> None:
    assert planned() == (ALL, ())


@pytest.mark.parametrize("part", [part for part in PARTS if part != "start"])
def test_a_part_alone(part: str) -> None:
    names, _ = planned(part)
    assert names == [name for name in ALL if name.split()[0] == part]


@pytest.mark.parametrize(
    ("wish", "left_out", "reason"),
    [
        ({"max_batch": 4}, {"decode 8"}, "decode 8 was not measured: engine.max_batch is 4"),
        ({"context": 512}, {"prefill 512"}, "prefill 512 was not measured: the context is 512 tokens long"),
        ({"device": "cuda:0"}, {"bandwidth"}, "bandwidth was not measured: the weights are on cuda:0"),
    ],
)
def test_what_has_no_room_is_named(wish: dict[str, object], left_out: set[str], reason: str) -> None:
    names, notes = planned(**wish)  # type: ignore[arg-type]
    assert set(ALL) - set(names) == left_out
    assert notes == (reason,)


def test_what_was_not_asked_for_is_no_note() -> None:
    assert planned("sentiment", max_batch=1, context=128, device="cuda:0") == (["sentiment"], ())


def test_the_start_alone_is_measured_without_an_engine_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedEngine().model
    start = ColdStart(
        import_s=1.0, load_s=2.0, ready_s=3.0, first_token_s=4.0, ready_memory_mb=5.0, peak_memory_mb=6.0, model=model
    )
    monkeypatch.setattr(cold_start, "measure", lambda _: start)

    def no_engine(*_: object) -> ScriptedEngine:
        raise AssertionError("an engine was made")

    report = run(Settings(), rounds=2, parts=["start"], say=lambda _: None, make_engine=no_engine)
    assert report.start is not None
    assert report.start.ready_s.median == 3.0
    assert report.model.id == model.id


def test_measurements_take_turns() -> None:
    numbers = iter(range(10))
    lines: list[str] = []
    measurements = [
        Measurement(name=name, run=lambda: next(numbers), show=lambda sample: f"<{sample}>") for name in ("a", "b")
    ]
    assert take_turns(measurements, 3, lines.append) == {"a": [0, 2, 4], "b": [1, 3, 5]}
    assert [line.split("  (")[0] for line in lines[:3]] == [
        "round 1/3  a: <0>",
        "round 1/3  b: <1>",
        "round 2/3  a: <2>",
    ]
