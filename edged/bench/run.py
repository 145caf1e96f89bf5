"""`edged bench`: runs the measurements in order, on the daemon's own engine, and makes the report of their samples.

First the starts are measured, in other processes, while this one is still small. Then one engine is loaded, and each
round runs every other measurement once: if the box gets slower or faster meanwhile, this affects all of them alike.
"""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil

from edged import __version__, build, progress
from edged.bench import bandwidth
from edged.bench import cold_start as coldstart
from edged.bench.cold_start import ColdStart
from edged.bench.parts import PARTS
from edged.bench.report import (
    HISTORIES,
    BandwidthReport,
    BoxReport,
    DecodeReport,
    History,
    MessageReport,
    ModelReport,
    PrefillReport,
    Report,
    StartReport,
    figure,
    latency,
    rounded,
)
from edged.bench.workloads import CONTEXT_TOKENS, DECODE_TOKENS, Answered, Decoded, Messages, Prefilled, Workloads
from edged.monitoring import system
from edged.ports.engine import ModelInfo, StoppableEngine
from edged.settings.schema import Settings
from edged.tasks.built_in import BUILT_IN
from edged.tasks.specs import Tasks

PREFILL_TOKENS = (128, 512)
BATCHES = (1, 4, 8)
CONCURRENCY = (1, 8)
_JOBS_PER_PLACE = 2  # `message` jobs in a round, for each job that runs at the same time
_REQUESTS = 10  # single requests of a round
_MIB = 1 << 20

Say = Callable[[str], None]
MakeEngine = Callable[[Settings, Tasks], StoppableEngine]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One thing that is measured once in each round; `show` makes a sample a text, for the progress lines."""

    name: str
    run: Callable[[], Any]
    show: Callable[[Any], str]


def run(
    settings: Settings,
    *,
    rounds: int,
    parts: Collection[str] = PARTS,
    say: Say,
    make_engine: MakeEngine = build.make_engine,
) -> Report:
    """Measure; takes minutes. `say` gets lines about the progress.

    Raises:
        ModelUnavailable: the model cannot be started.
        RequestError: the engine failed on a workload.
    """
    began = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    starts = _starts(settings, rounds, say) if "start" in parts else []
    if starts and set(parts) == {"start"}:  # nothing needs an engine in this process
        return _report(began=began, rounds=rounds, info=starts[-1].model, starts=starts, samples={}, notes=[])
    engine = make_engine(settings, BUILT_IN)
    try:
        with progress.waiting("loading the model"):
            engine.start()
            engine.wait_ready()
        planned, notes = plan(settings, engine.model, Workloads(engine), parts)
        samples = take_turns(planned, rounds, say)
        return _report(began=began, rounds=rounds, info=engine.model, starts=starts, samples=samples, notes=notes)
    finally:
        engine.stop()


# ------------------------------------------------------------------------------------------------------ measuring


def _starts(settings: Settings, rounds: int, say: Say) -> list[ColdStart]:
    begin = Measurement(
        name="start",
        run=functools.partial(coldstart.measure, settings),
        show=lambda each: f"ready in {each.ready_s:.2f} s",
    )
    return take_turns([begin], rounds, say)["start"]


def plan(
    settings: Settings, info: ModelInfo, workloads: Workloads, parts: Collection[str]
) -> tuple[list[Measurement], list[str]]:
    """Choose the measurements that this engine has room for; the notes name the others."""
    planned: list[Measurement] = []
    notes: list[str] = []

    def add(part: str, name: str, measure: Callable[[], Any], show: Callable[[Any], str], obstacle: str = "") -> None:
        if part not in parts:
            return
        if obstacle:
            notes.append(f"{name} was not measured: {obstacle}")
        else:
            planned.append(Measurement(name=name, run=measure, show=show))

    speed: Callable[[Any], str] = lambda each: f"{each.tokens_per_s:.1f} tokens/s"  # noqa: E731
    delay: Callable[[Any], str] = lambda some: f"{statistics.median(_ms(some)):.1f} ms"  # noqa: E731
    for tokens in PREFILL_TOKENS:
        add(
            "prefill",
            f"prefill {tokens}",
            functools.partial(workloads.prefill, tokens),
            speed,
            _too_short(info, tokens + 1),
        )
    for batch in BATCHES:
        too_small = "" if batch <= settings.engine.max_batch else f"engine.max_batch is {settings.engine.max_batch}"
        too_short = _too_short(info, CONTEXT_TOKENS + DECODE_TOKENS + 1)
        add("decode", f"decode {batch}", functools.partial(workloads.decode, batch), speed, too_small or too_short)
    add("first_token", "first_token", lambda: [workloads.first_token() for _ in range(_REQUESTS)], delay)
    add("sentiment", "sentiment", lambda: [workloads.sentiment() for _ in range(_REQUESTS)], delay)
    for places, history in itertools.product(CONCURRENCY, HISTORIES):
        jobs = functools.partial(workloads.messages, places, _JOBS_PER_PLACE * places, knows_history=history == "known")
        add("message", f"message {places} {history}", jobs, lambda each: f"{each.jobs_per_min:.1f} jobs/min")
    add(
        "bandwidth",
        "bandwidth",
        lambda: bandwidth.read_bandwidth(info.threads),
        lambda each: f"{each / 1e9:.1f} GB/s",
        "" if info.device == "cpu" else f"the weights are on {info.device}",
    )
    return planned, notes


def _too_short(info: ModelInfo, tokens: int) -> str:
    return "" if tokens <= info.max_context_tokens else f"the context is {info.max_context_tokens} tokens long"


def _ms(answers: Sequence[Answered]) -> list[float]:
    return [each.milliseconds for each in answers]


def take_turns(measurements: Sequence[Measurement], rounds: int, say: Say) -> dict[str, list[Any]]:
    """Run every measurement once in each round; return the samples by the measurement's name."""
    samples: dict[str, list[Any]] = {each.name: [] for each in measurements}
    for number in range(1, rounds + 1):
        for each in measurements:
            begin = time.monotonic()
            with progress.waiting(f"round {number}/{rounds}  {each.name}", lines=False):
                sample = each.run()
            samples[each.name].append(sample)
            say(f"round {number}/{rounds}  {each.name}: {each.show(sample)}  ({time.monotonic() - begin:.1f} s)")
    return samples


# ------------------------------------------------------------------------------------------------------ adding up


def _report(
    *,
    began: str,
    rounds: int,
    info: ModelInfo,
    starts: Sequence[ColdStart],
    samples: dict[str, list[Any]],
    notes: Sequence[str],
) -> Report:
    decode = tuple(_decode(batch, samples[f"decode {batch}"]) for batch in BATCHES if f"decode {batch}" in samples)
    return Report(
        edged=__version__,
        time=began,
        rounds=rounds,
        model=ModelReport(
            id=info.id,
            architecture=info.architecture,
            format=info.format,
            device=info.device,
            threads=info.threads,
            parameters=info.parameters,
            weight_bytes=info.weight_bytes,
        ),
        box=BoxReport(
            cpu=system.cpu_name(),
            cores=psutil.cpu_count() or 1,
            memory_mb=psutil.virtual_memory().total // _MIB,
        ),
        start=_start(starts) if starts else None,
        prefill=tuple(
            _prefill(tokens, samples[f"prefill {tokens}"])
            for tokens in PREFILL_TOKENS
            if f"prefill {tokens}" in samples
        ),
        decode=decode,
        first_token=_latency(samples.get("first_token")),
        sentiment=_latency(samples.get("sentiment")),
        message=tuple(
            _message(places, history, samples[f"message {places} {history}"])
            for places, history in itertools.product(CONCURRENCY, HISTORIES)
            if f"message {places} {history}" in samples
        ),
        bandwidth=_bandwidth(samples.get("bandwidth"), decode, info.weight_bytes),
        notes=tuple(notes),
    )


def _start(starts: Sequence[ColdStart]) -> StartReport:
    imports = [each.import_s for each in starts if each.import_s is not None]
    import_s, ready_s = figure(imports) if imports else None, figure([each.ready_s for each in starts])
    return StartReport(
        import_s=import_s,
        load_s=figure([each.load_s for each in starts]),
        ready_s=ready_s,
        first_token_s=figure([each.first_token_s for each in starts]),
        ready_per_import=None if import_s is None else rounded(ready_s.median / import_s.median),
        ready_memory_mb=figure([each.ready_memory_mb for each in starts]),
        peak_memory_mb=figure([each.peak_memory_mb for each in starts]),
    )


def _prefill(tokens: int, samples: Sequence[Prefilled]) -> PrefillReport:
    return PrefillReport(
        tokens=tokens,
        prefilled_tokens=round(statistics.median(each.tokens for each in samples)),
        tokens_per_s=figure([each.tokens_per_s for each in samples]),
    )


def _decode(batch: int, samples: Sequence[Decoded]) -> DecodeReport:
    return DecodeReport(
        batch=batch,
        context_tokens=round(statistics.median(each.context_tokens for each in samples)),
        new_tokens=min(each.new_tokens for each in samples),
        side_by_side=rounded(min(each.side_by_side for each in samples)),
        tokens_per_s=figure([each.tokens_per_s for each in samples]),
    )


def _latency(samples: Sequence[Sequence[Answered]] | None) -> Any:
    if samples is None:
        return None
    answers = [each for some in samples for each in some]
    return latency(_ms(answers), [each.prefilled for each in answers])


def _message(places: int, history: History, samples: Sequence[Messages]) -> MessageReport:
    prefilled = [each for sample in samples for each in sample.prefilled]
    new_tokens = [each for sample in samples for each in sample.new_tokens]
    return MessageReport(
        concurrency=places,
        history=history,
        jobs=_JOBS_PER_PLACE * places,
        prefilled_tokens=round(statistics.median(prefilled)),
        new_tokens=rounded(statistics.fmean(new_tokens)),
        jobs_per_min=figure([each.jobs_per_min for each in samples]),
    )


def _bandwidth(
    samples: Sequence[float] | None, decode: Sequence[DecodeReport], weight_bytes: int
) -> BandwidthReport | None:
    if samples is None:
        return None
    alone = next((each.tokens_per_s.median for each in decode if each.batch == 1), None)
    share = None if alone is None else rounded(weight_bytes * alone / statistics.median(samples))
    return BandwidthReport(read_gb_s=figure([each / 1e9 for each in samples]), weight_share=share)
