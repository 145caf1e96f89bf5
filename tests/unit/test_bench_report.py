"""The report of `edged bench`: figures by definition, JSON that scripts can rely on, a table with a line for each."""

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edged.bench.report import (
    BandwidthReport,
    BoxReport,
    DecodeReport,
    Figure,
    LatencyReport,
    MessageReport,
    ModelReport,
    PrefillReport,
    Report,
    StartReport,
    figure,
    latency,
    percentile,
    rounded,
    table,
)

SAMPLES = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50)
THREE = {"median": 2.0, "low": 1.0, "high": 4.0}
FIGURE = Figure(**THREE)
EMPTY = Report(
    edged="1.2.3",
    time="2026-01-02T03:04:05Z",
    rounds=3,
    model=ModelReport(
        id="some/model",
        architecture="Qwen2ForCausalLM",
        format="bf16",
        device="cpu",
        threads=2,
        parameters=100,
        weight_bytes=200,
    ),
    box=BoxReport(cpu="Some CPU", cores=4, memory_mb=8000),
)
FULL = EMPTY.model_copy(
    update={
        "start": StartReport(
            import_s=FIGURE,
            load_s=FIGURE,
            ready_s=FIGURE,
            first_token_s=FIGURE,
            ready_per_import=1.0,
            ready_memory_mb=FIGURE,
            peak_memory_mb=FIGURE,
        ),
        "prefill": (PrefillReport(tokens=128, prefilled_tokens=127, tokens_per_s=FIGURE),),
        "decode": (
            DecodeReport(batch=1, context_tokens=128, new_tokens=48, side_by_side=1.0, tokens_per_s=FIGURE),
            DecodeReport(batch=8, context_tokens=128, new_tokens=20, side_by_side=0.4, tokens_per_s=FIGURE),
        ),
        "first_token": LatencyReport(p50_ms=20.5, p95_ms=30.0, samples=30, prefilled_tokens=36),
        "sentiment": LatencyReport(p50_ms=10.0, p95_ms=11.0, samples=30, prefilled_tokens=34),
        "message": (
            MessageReport(
                concurrency=8, history="new", jobs=16, prefilled_tokens=283, new_tokens=63.5, jobs_per_min=FIGURE
            ),
        ),
        "bandwidth": BandwidthReport(read_gb_s=FIGURE, weight_share=0.8),
        "notes": ("decode 4 was not measured: no room",),
    }
)


@given(SAMPLES)
def test_a_figure_is_median_and_range(samples: list[float]) -> None:
    found = figure(samples)
    assert found.median == pytest.approx(statistics.median(samples), rel=1e-3)
    assert found.low == pytest.approx(min(samples), rel=1e-3)
    assert found.high == pytest.approx(max(samples), rel=1e-3)


@given(SAMPLES, st.integers(1, 100))
def test_a_percentile_is_the_lowest_sample_that_so_many_do_not_exceed(samples: list[float], percent: int) -> None:
    found = percentile(samples, percent)
    not_above = sum(each <= found for each in samples)
    below = sum(each < found for each in samples)
    assert found in samples
    assert not_above * 100 >= percent * len(samples) > below * 100


def test_latency_of_single_requests() -> None:
    assert latency([float(n) for n in range(1, 21)], [30, 31, 36]) == LatencyReport(
        p50_ms=10.0, p95_ms=19.0, samples=20, prefilled_tokens=31
    )


@pytest.mark.parametrize(("value", "kept"), [(123456.0, 123500.0), (0.000123456, 0.0001235), (0.0, 0.0), (7.0, 7.0)])
def test_four_digits_are_kept(value: float, kept: float) -> None:
    assert rounded(value) == kept


def test_the_json_has_the_names_that_scripts_rely_on() -> None:
    latencies = {"samples": 30}
    assert json.loads(FULL.model_dump_json()) == {
        "schema_version": 1,
        "edged": "1.2.3",
        "time": "2026-01-02T03:04:05Z",
        "rounds": 3,
        "model": {
            "id": "some/model",
            "architecture": "Qwen2ForCausalLM",
            "format": "bf16",
            "device": "cpu",
            "threads": 2,
            "parameters": 100,
            "weight_bytes": 200,
        },
        "box": {"cpu": "Some CPU", "cores": 4, "memory_mb": 8000},
        "start": {
            "import_s": THREE,
            "load_s": THREE,
            "ready_s": THREE,
            "first_token_s": THREE,
            "ready_per_import": 1.0,
            "ready_memory_mb": THREE,
            "peak_memory_mb": THREE,
        },
        "prefill": [{"tokens": 128, "prefilled_tokens": 127, "tokens_per_s": THREE}],
        "decode": [
            {"batch": 1, "context_tokens": 128, "new_tokens": 48, "side_by_side": 1.0, "tokens_per_s": THREE},
            {"batch": 8, "context_tokens": 128, "new_tokens": 20, "side_by_side": 0.4, "tokens_per_s": THREE},
        ],
        "first_token": {"p50_ms": 20.5, "p95_ms": 30.0, "prefilled_tokens": 36, **latencies},
        "sentiment": {"p50_ms": 10.0, "p95_ms": 11.0, "prefilled_tokens": 34, **latencies},
        "message": [
            {
                "concurrency": 8,
                "history": "new",
                "jobs": 16,
                "prefilled_tokens": 283,
                "new_tokens": 63.5,
                "jobs_per_min": THREE,
            }
        ],
        "bandwidth": {"read_gb_s": THREE, "weight_share": 0.8},
        "notes": ["decode 4 was not measured: no room"],
    }


@pytest.mark.parametrize("report", [EMPTY, FULL], ids=["empty", "full"])
def test_json_can_be_read_back(report: Report) -> None:
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_figure_that_is_no_number_is_no_report() -> None:
    with pytest.raises(ValidationError):
        Figure(median=float("nan"), low=1.0, high=1.0)


def test_the_table_has_a_line_for_all_that_was_measured() -> None:
    lines = table(FULL).splitlines()
    assert lines[:2] == [
        "edged 1.2.3, some/model, bf16 on cpu, 2 threads",
        "Some CPU, 4 cores, 8000 MiB; median and range of 3 rounds",
    ]
    text = "\n".join(" ".join(line.split()) for line in lines)
    for expected in (
        "process to ready 2 s 1 - 4 1.00 x the import",
        "prefill 128 2 tokens/s 1 - 4 127 tokens computed",
        "decode, batch 1 2 tokens/s 1 - 4 48 tokens each after 128\n",
        "decode, batch 8 2 tokens/s 1 - 4 20 tokens each after 128; side by side 40% of the time\n",
        "time to first token 20.5 ms p95 30 36 tokens computed; 30 requests",
        "sentiment 10 ms p95 11 34 tokens computed; 30 requests",
        "message, 8 at a time, history new 2 jobs/min 1 - 4 283 tokens computed, 63.5 new",
        "memory read bandwidth 2 GB/s 1 - 4 decoding alone reads its weights at 80% of it",
        "note: decode 4 was not measured: no room",
    ):
        assert expected in text


def test_the_table_says_nothing_of_what_was_not_measured() -> None:
    assert len(table(EMPTY).splitlines()) == 2
