"""The report of `edged bench`: its figures, its JSON form and its table. Pure: measures nothing and knows no engine.

The JSON is for scripts that compare boxes and versions: names and units stay as they are within a `schema_version`;
`edged bench --schema` prints its JSON Schema. What was not measured is null or an empty list.
"""

import statistics
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

History = Literal["new", "known"]
HISTORIES: tuple[History, ...] = ("new", "known")
_DIGITS = 4  # significant digits; more would be noise


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Figure(_Record):
    """One quantity over all rounds."""

    median: float
    low: float = Field(description="The lowest round.")
    high: float = Field(description="The highest round.")


class ModelReport(_Record):
    """What was measured."""

    id: str
    architecture: str
    format: str
    device: str
    threads: int
    parameters: int
    weight_bytes: int


class BoxReport(_Record):
    """Where it was measured."""

    cpu: str
    cores: int = Field(description="Logical processors.")
    memory_mb: int


class StartReport(_Record):
    """A fresh process, timed from its spawn by the process that spawned it."""

    import_s: Figure | None = Field(
        description="Until a bare Python has run `import torch, transformers`, for comparison; null where they are not "
        "installed."
    )
    load_s: Figure = Field(description="The part of `ready_s` that the engine took to load the model.")
    ready_s: Figure = Field(description="Until the engine is warm and answers at full speed; imports included.")
    first_token_s: Figure = Field(description="Until the first token of a reply to a text of 30 tokens.")
    ready_per_import: float | None = Field(description="ready_s / import_s.")
    ready_memory_mb: Figure = Field(description="Peak resident memory (MiB) of the process when it was ready.")
    peak_memory_mb: Figure = Field(description="The same after 8 `message` jobs, side by side where they fit.")


class PrefillReport(_Record):
    """A prompt of which nothing is cached."""

    tokens: int = Field(description="The length that the prompt should have.")
    prefilled_tokens: int = Field(
        description="Tokens that were computed: the prompt's tokens without the cached ones; median."
    )
    tokens_per_s: Figure = Field(description="Computed tokens over the time from admission to the first new token.")


class DecodeReport(_Record):
    """Greedy decoding of several sequences side by side, all of them together."""

    batch: int
    context_tokens: int = Field(description="Length of each prompt; median.")
    new_tokens: int = Field(description="Tokens decoded after the first, of the shortest sequence of all rounds.")
    side_by_side: float = Field(
        description="Share of the decoding time in which all sequences were decoding, of the worst round; well below 1 "
        "the figure is not that of a full batch."
    )
    tokens_per_s: Figure


class LatencyReport(_Record):
    """Single requests, one after the other, on a box that is otherwise idle."""

    p50_ms: float
    p95_ms: float
    samples: int
    prefilled_tokens: int = Field(description="Prompt tokens computed for one request; median.")


class MessageReport(_Record):
    """`message` jobs: sentiment and reply of one text of 30 tokens after three turns of history.

    Every job has a history of its own.
    """

    concurrency: int = Field(description="Jobs that run at the same time.")
    history: History = Field(
        description="new: nothing but the tasks' own prompts is cached; known: the turns before were run just now."
    )
    jobs: int = Field(description="Jobs of one round.")
    prefilled_tokens: int = Field(description="Prompt tokens computed for one job, both parts; median.")
    new_tokens: float = Field(description="Reply tokens of one job, at most 64; mean.")
    jobs_per_min: Figure = Field(
        description="Jobs of 64 reply tokens; a reply that the model ended after n tokens counts as n/64 of a job."
    )


class BandwidthReport(_Record):
    """How much of the memory's speed single-stream decoding uses."""

    read_gb_s: Figure = Field(description="Read bandwidth of this box with the engine's threads, 10^9 bytes/s.")
    weight_share: float | None = Field(
        description="Bytes of weights x decoded tokens/s at batch 1 / read bandwidth; null where batch 1 was not run."
    )


class Report(_Record):
    """The whole report."""

    schema_version: Literal[1] = 1
    edged: str = Field(description="Version of edged.")
    time: str = Field(description="When it began; UTC, RFC 3339.")
    rounds: int
    model: ModelReport
    box: BoxReport
    start: StartReport | None = None
    prefill: tuple[PrefillReport, ...] = ()
    decode: tuple[DecodeReport, ...] = ()
    first_token: LatencyReport | None = Field(None, description="From submission; text of 30 tokens, no history.")
    sentiment: LatencyReport | None = Field(None, description="From submission to the answer; text of 30 tokens.")
    message: tuple[MessageReport, ...] = ()
    bandwidth: BandwidthReport | None = None
    notes: tuple[str, ...] = Field((), description="What was not measured, and why.")


# ------------------------------------------------------------------------------------------------------ statistics


def figure(samples: Sequence[float]) -> Figure:
    """Give the median and the range of at least one sample."""
    return Figure(median=rounded(statistics.median(samples)), low=rounded(min(samples)), high=rounded(max(samples)))


def percentile(samples: Sequence[float], percent: int) -> float:
    """Give the sample that `percent` % of the samples do not exceed (nearest rank)."""
    ranked = sorted(samples)
    return ranked[max(0, -(-percent * len(ranked) // 100) - 1)]


def latency(samples_ms: Sequence[float], prefilled: Sequence[int]) -> LatencyReport:
    """Summarise the latencies of single requests, and the prompt tokens that each of them computed."""
    return LatencyReport(
        p50_ms=rounded(percentile(samples_ms, 50)),
        p95_ms=rounded(percentile(samples_ms, 95)),
        samples=len(samples_ms),
        prefilled_tokens=round(statistics.median(prefilled)),
    )


def rounded(value: float) -> float:
    """Keep four significant digits."""
    return float(f"{value:.{_DIGITS}g}")


# ------------------------------------------------------------------------------------------------------- the table

_Row = tuple[str, str, str, str]  # what, median, range, remark


def table(report: Report) -> str:
    """Lay the report out for a terminal."""
    model, box = report.model, report.box
    head = [
        f"edged {report.edged}, {model.id}, {model.format} on {model.device}, {model.threads} threads",
        f"{box.cpu}, {box.cores} cores, {box.memory_mb} MiB; median and range of {report.rounds} rounds",
        "",
    ]
    rows = list(_rows(report))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    lines = [
        f"{what:<{widths[0]}}  {value:>{widths[1]}}  {span:>{widths[2]}}  {remark}"
        for what, value, span, remark in rows
    ]
    notes = [f"note: {each}" for each in report.notes]
    return "\n".join(line.rstrip() for line in [*head, *lines, *notes])


def _rows(report: Report) -> Iterator[_Row]:
    yield from _start_rows(report.start)
    for prefill in report.prefill:
        remark = f"{prefill.prefilled_tokens} tokens computed"
        yield _row(f"prefill {prefill.tokens}", prefill.tokens_per_s, "tokens/s", remark)
    for decode in report.decode:
        remark = f"{decode.new_tokens} tokens each after {decode.context_tokens}"
        if decode.side_by_side < _FULL:
            remark += f"; side by side {decode.side_by_side:.0%} of the time"
        yield _row(f"decode, batch {decode.batch}", decode.tokens_per_s, "tokens/s", remark)
    yield from _latency_rows("time to first token", report.first_token)
    yield from _latency_rows("sentiment", report.sentiment)
    for message in report.message:
        remark = f"{message.prefilled_tokens} tokens computed, {message.new_tokens:g} new"
        yield _row(
            f"message, {message.concurrency} at a time, history {message.history}",
            message.jobs_per_min,
            "jobs/min",
            remark,
        )
    if report.bandwidth is not None:
        share = report.bandwidth.weight_share
        remark = "" if share is None else f"decoding alone reads its weights at {share:.0%} of it"
        yield _row("memory read bandwidth", report.bandwidth.read_gb_s, "GB/s", remark)


_FULL = 0.9  # below this share the table says that a batch was not always full


def _start_rows(start: StartReport | None) -> Iterator[_Row]:
    if start is None:
        return
    if start.import_s is not None:
        yield _row("import torch, transformers", start.import_s, "s")
    yield _row("load", start.load_s, "s")
    remark = "" if start.ready_per_import is None else f"{start.ready_per_import:.2f} x the import"
    yield _row("process to ready", start.ready_s, "s", remark)
    yield _row("process to first token", start.first_token_s, "s")
    yield _row("peak memory, ready", start.ready_memory_mb, "MiB")
    yield _row("peak memory, after 8 messages", start.peak_memory_mb, "MiB")


def _latency_rows(what: str, latency: LatencyReport | None) -> Iterator[_Row]:
    if latency is not None:
        remark = f"{latency.prefilled_tokens} tokens computed; {latency.samples} requests"
        yield what, f"{_short(latency.p50_ms)} ms", f"p95 {_short(latency.p95_ms)}", remark


def _row(what: str, value: Figure, unit: str, remark: str = "") -> _Row:
    return what, f"{_short(value.median)} {unit}", f"{_short(value.low)} - {_short(value.high)}", remark


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
