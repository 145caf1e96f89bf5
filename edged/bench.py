"""How fast this box is with one model: `edged bench`. Figures, never a verdict.

The token workloads (prefill of 128 and 512, decoding behind prompts of 128 tokens) call the model itself, so that they
compare with other engines'; the rest goes through the engine as the daemon's requests do. Medians of several rounds.
"""

import json
import queue
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from edged import __version__
from edged.conversation import Turn
from edged.daemon import plan_of
from edged.engine import loading
from edged.engine.engine import Engine, Loaded
from edged.engine.model import Span
from edged.engine.prompt import Prompter
from edged.errors import ModelError
from edged.settings import Settings
from edged.tasks import BUILT_IN, ClassifySpec
from edged.work import Classified, Failed, Generated, Params, Work, WorkEvent

PREFILLS = (128, 512)
BATCHES = (1, 4, 8)
NEW_TOKENS = 64  # of a reply
_PROMPT = 128
_DECODED = 48
_SENTIMENTS = 20
_BUFFER_BYTES = 512 << 20  # much more than any cache
# About 30 tokens; the number makes every text another, so that no answer comes from the prefix cache.
_TEXT = (
    "No. {}: the parcel came two days late again and nobody answers, but the thing itself works well and looks good."
)


def run(settings: Settings, *, rounds: int, show_progress: bool) -> dict[str, Any]:
    """Measure everything; the table's rows by name.

    Args:
        settings: model and engine, as the daemon would run them.
        rounds: how often each figure is taken; the median counts.
        show_progress: a bar on standard error.

    Raises:
        ModelUnavailable: the model cannot be loaded.
    """
    parts: dict[str, Any] = {"edged": __version__, "start": start_of(settings)}
    loaded = loading.load(plan_of(settings))
    info = loaded.info
    parts |= {
        "model": info.id,
        "format": info.format,
        "device": info.device,
        "threads": info.threads,
        "cpu": cpu_name(),
        "weight_mb": round(info.weight_bytes / 1e6, 1),
    }
    measured: list[tuple[str, Callable[[], float]]] = [
        *((f"prefill_{count}", lambda n=count: prefill(loaded, n)) for count in PREFILLS),
        *((f"decode_{count}", lambda n=count: decode(loaded, n)) for count in BATCHES),
        ("read_gb_per_s", lambda: read_bandwidth(info.threads)),
    ]
    with tqdm(total=rounds * len(measured) + 3, disable=not show_progress or None, unit="") as bar:
        taken: dict[str, list[float]] = {name: [] for name, _ in measured}
        for _ in range(rounds):  # in turn: a moment of noise falls on one round, not on one figure
            for name, measure in measured:
                bar.set_description(name)
                taken[name].append(measure())
                bar.update()
        medians = {name: statistics.median(values) for name, values in taken.items()}
        bar.set_description("requests")
        requests = through_engine(loaded, bar.update)
    share = medians["decode_1"] * info.weight_bytes / 1e9 / medians["read_gb_per_s"]
    return parts | medians | {"weights_read_share": share} | requests


def start_of(settings: Settings) -> dict[str, float]:
    """Start a process as the daemon starts: seconds of loading and to `ready`, imports included; its peak memory.

    Raises:
        ModelError: it ended with an error, which is quoted.
    """
    begin = time.time()
    measured = _child("import sys; from edged import bench; bench.child(sys.argv[1])", settings.model_dump_json())
    imports = _child("import time; t = time.time(); import torch, transformers; print(time.time() - t)")
    return {
        "ready_s": measured["ready_at"] - begin,
        "load_s": measured["load_s"],
        "import_torch_transformers_s": imports,
        "peak_mb": measured["peak_mb"],
    }


def _child(code: str, *arguments: str) -> Any:
    """What a fresh Python prints last, read as JSON."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise ModelError(f"a fresh process fails: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def child(settings_json: str) -> None:
    """What `start_of` runs."""
    settings = Settings.model_validate_json(settings_json)
    engine = Engine(lambda: loading.load(plan_of(settings)), tasks=BUILT_IN)
    engine.start()
    engine.wait_ready()
    ready_at = time.time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ready_at": ready_at, "load_s": engine.model.load_s, "peak_mb": peak}))
    engine.stop()


def prefill(loaded: Loaded[Any], count: int) -> float:
    """Tokens a second of one prompt of `count` tokens that shares nothing with another."""
    begin = time.perf_counter()
    _start(loaded, count, 0)
    return count / (time.perf_counter() - begin)


def decode(loaded: Loaded[Any], batch: int) -> float:
    """Tokens a second of `batch` sequences together, greedy, each behind a prompt of its own."""
    model = loaded.model
    sequences = [_start(loaded, _PROMPT, index, room=_DECODED) for index in range(batch)]
    begin = time.perf_counter()
    for _ in range(_DECODED):
        logits = model.forward([Span(kv=kv, tokens=[token], wanted=(0,)) for kv, token in sequences])
        sequences = [(kv, int(row.argmax())) for (kv, _), row in zip(sequences, logits, strict=True)]
    return batch * _DECODED / (time.perf_counter() - begin)


def _start(loaded: Loaded[Any], count: int, index: int, *, room: int = 0) -> tuple[Any, int]:
    """Compute a prompt of `count` tokens in one step; its keys and values, and the next token."""
    model = loaded.model
    kv = model.allocate(count + room)
    tokens = [(1000 + 7 * place + index) % model.vocab_size for place in range(count)]
    logits = model.forward([Span(kv=kv, tokens=tokens, wanted=(count - 1,))])
    return kv, int(logits[0].argmax())


def read_bandwidth(threads: int) -> float:
    """GB/s at which all threads together read a buffer that no cache holds; the best of three readings."""
    parts = np.array_split(np.ones(_BUFFER_BYTES // 8, dtype=np.int64), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            begin = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))  # numpy lets go of Python's lock meanwhile
            best = max(best, _BUFFER_BYTES / 1e9 / (time.perf_counter() - begin))
    return best


# -------------------------------------------------------------------------------------------- through the engine


class _Endless:
    """A prompter whose replies have no end of their own, so that each has the length that was asked for."""

    def __init__(self, prompter: Prompter) -> None:
        self._prompter = prompter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prompter, name)

    def end_tokens(self) -> frozenset[int]:
        return frozenset()

    def banned_tokens(self, vocab_size: int) -> frozenset[int]:
        return self._prompter.banned_tokens(vocab_size) | self._prompter.end_tokens()


def through_engine(loaded: Loaded[Any], done: Callable[[], object]) -> dict[str, float]:
    """Sentiment, time to the first token, and whole messages as the daemon runs them."""
    endless: Any = _Endless(loaded.prompter)
    engine = Engine(lambda: replace(loaded, prompter=endless), tasks=BUILT_IN)
    engine.start()
    engine.wait_ready()
    try:
        sentiments = [_ask(engine, _sentiment(index)) for index in range(_SENTIMENTS)]
        done()
        one = _messages(engine, count=4, concurrency=1)
        done()
        eight = _messages(engine, count=24, concurrency=8)
        done()
    finally:
        engine.stop()
    waits = sorted(event.timings.total_ms for event in sentiments)
    firsts = [event.timings.first_token_ms for event in one.events if isinstance(event, Generated)]
    return {
        "sentiment_p50_ms": statistics.median(waits),
        "sentiment_p95_ms": waits[int(0.95 * (len(waits) - 1))],
        "sentiment_new_tokens": statistics.median(
            event.usage.prompt_tokens - event.usage.cached_tokens for event in sentiments
        ),
        "first_token_ms": statistics.median(firsts),
        "messages_per_min_1": one.per_minute,
        "messages_per_min_8": eight.per_minute,
    }


class _Messages:
    def __init__(self, events: list[Classified | Generated], seconds: float) -> None:
        self.events = events
        tokens = sum(event.usage.completion_tokens for event in events if isinstance(event, Generated))
        self.per_minute = tokens / NEW_TOKENS * 60 / seconds  # as many as real tokens make


def _messages(engine: Engine[Any], *, count: int, concurrency: int) -> _Messages:
    """Messages of sentiment and reply, `concurrency` in hand at any time."""
    answers: queue.SimpleQueue[WorkEvent] = queue.SimpleQueue()
    open_parts: dict[int, int] = {}
    events: list[Classified | Generated] = []
    begin = time.perf_counter()
    started = 0
    while started < count or open_parts:
        while started < count and len(open_parts) < concurrency:
            for work in (_sentiment(1000 * concurrency + started), _reply(1000 * concurrency + started)):
                engine.submit(work, answers.put)
            open_parts[1000 * concurrency + started] = 2
            started += 1
        event = _checked(answers.get())
        events.append(event)
        number = int(event.key.split("-")[1])
        open_parts[number] -= 1
        if not open_parts[number]:
            del open_parts[number]
    return _Messages(events, time.perf_counter() - begin)


def _ask(engine: Engine[Any], work: Work) -> Classified | Generated:
    answers: queue.SimpleQueue[WorkEvent] = queue.SimpleQueue()
    engine.submit(work, answers.put)
    return _checked(answers.get())


def _checked(event: WorkEvent) -> Classified | Generated:
    if isinstance(event, Failed):
        raise event.error
    if not isinstance(event, Classified | Generated):
        raise ModelError(f"an answer that was not asked for: {event}")
    return event


def _sentiment(number: int) -> Work:
    (spec,) = (part for part in BUILT_IN.parts("message") if isinstance(part, ClassifySpec))
    return Work(key=f"sentiment-{number}", spec=spec, text=_TEXT.format(number), language="en")


def _reply(number: int) -> Work:
    """A reply of 64 tokens after three turns of a conversation that no other request shares."""
    (spec,) = (part for part in BUILT_IN.parts("message") if not isinstance(part, ClassifySpec))
    turns = tuple(
        Turn(role="assistant" if index % 2 else "user", content=_TEXT.format(100 * number + index))
        for index in range(6)
    )
    return Work(
        key=f"reply-{number}",
        spec=spec,
        text=_TEXT.format(number),
        language="en",
        turns=turns,
        params=Params(max_tokens=NEW_TOKENS),
        seed=number,
    )


# ------------------------------------------------------------------------------------------------------ the table


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as the kernel has it."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return "unknown"
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(named, "unknown")


_ROWS: Sequence[tuple[str, str, str]] = (
    ("load", "start.load_s", "{:.1f} s"),
    ("to ready, with imports", "start.ready_s", "{:.1f} s"),
    ("of which import torch, transformers", "start.import_torch_transformers_s", "{:.1f} s"),
    ("peak memory", "start.peak_mb", "{:.0f} MB"),
    *((f"prefill {count}", f"prefill_{count}", "{:.0f} tokens/s") for count in PREFILLS),
    *((f"decode, batch {count}", f"decode_{count}", "{:.1f} tokens/s") for count in BATCHES),
    ("first token of a reply", "first_token_ms", "{:.0f} ms"),
    ("sentiment p50", "sentiment_p50_ms", "{:.0f} ms"),
    ("sentiment p95", "sentiment_p95_ms", "{:.0f} ms"),
    ("messages, one at a time", "messages_per_min_1", "{:.0f} /min"),
    ("messages, eight at a time", "messages_per_min_8", "{:.0f} /min"),
    ("memory read at most", "read_gb_per_s", "{:.1f} GB/s"),
    ("of which decoding reads weights", "weights_read_share", "{:.0%}"),
)


def table(measured: Mapping[str, Any]) -> str:
    """The figures for people."""
    flat = {**measured, **{f"start.{name}": value for name, value in measured["start"].items()}}
    head = "{model}, {format}, {device}, {threads} threads, {weight_mb:.0f} MB of weights, {cpu}".format(**measured)
    width = max(len(name) for name, _, _ in _ROWS)
    return "\n".join([head, "", *(f"{name:<{width}}  {form.format(flat[key]):>14}" for name, key, form in _ROWS)])
