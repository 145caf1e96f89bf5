"""The workloads of `edged bench`, on an engine that only counts: what is reported is what was really run."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.bench import workloads
from edged.bench.workloads import DECODE_TOKENS, REPLY_TOKENS, TEXT_TOKENS, Ended, Workloads, decoded, words_for
from edged.errors import Busy, ModelError
from edged.ports.engine import (
    Classified,
    EngineState,
    Failed,
    Generated,
    ModelInfo,
    TextDelta,
    Timings,
    Usage,
    Work,
    WorkEvent,
)
from edged.tasks.built_in import REPLY
from edged.tasks.specs import ClassifySpec
from edged.testing import ScriptedEngine

TEMPLATE = 20  # tokens around the words
CACHED = 7
STEP_MS = 10.0


@dataclass
class Counting:
    """An engine whose tokens are words. Every prompt takes 100 ms, every further token 10 ms.

    Attributes:
        lengths: tokens after which the model ends the next replies; after them, none ends by itself.
        held: work is answered at once when so much of it is open.
        open: work that has no answer yet.
        most: the most work that was open at a time.
    """

    lengths: list[int] = field(default_factory=list)
    held: int = 1
    fault: str | None = None
    error: Busy | None = None
    submitted: list[Work] = field(default_factory=list)
    most: int = 0
    open: list[tuple[Work, Callable[[WorkEvent], None]]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def forget(self, conversation: str) -> None:
        """Nothing is kept."""

    def submit(self, work: Work, on_event: Callable[[WorkEvent], None]) -> None:
        self.submitted.append(work)
        with self.changed:
            self.open.append((work, on_event))
            self.most = max(self.most, len(self.open))
            self.changed.notify()
        while self.fault is None and len(self.open) >= self.held:
            self.answer(*self.open.pop(0))

    def holds(self, count: int) -> bool:
        return len(self.open) == count

    def cancel(self, key: str) -> None:
        raise NotImplementedError

    def state(self) -> EngineState:
        return replace(ScriptedEngine().state(), fault=self.fault)

    @property
    def model(self) -> ModelInfo:
        return ScriptedEngine().model

    def answer(self, work: Work, on_event: Callable[[WorkEvent], None]) -> None:
        if self.error is not None:
            on_event(Failed(key=work.key, error=self.error))
            return
        system = "" if isinstance(work.spec, ClassifySpec) else work.spec.system["en"]
        words = [*system.split(), *work.text.split(), *(word for turn in work.turns for word in turn.content.split())]
        wanted = 0 if isinstance(work.spec, ClassifySpec) else work.params.max_tokens or 0
        count = min(wanted, self.lengths.pop(0)) if self.lengths and wanted > 1 else wanted
        usage = Usage(prompt_tokens=TEMPLATE + len(words), cached_tokens=CACHED, completion_tokens=count)
        decode_ms = max(count - 1, 0) * STEP_MS
        timings = Timings(
            queue_ms=5.0, prefill_ms=100.0, decode_ms=decode_ms, first_token_ms=105.0, total_ms=105.0 + decode_ms
        )
        if not wanted:
            on_event(Classified(key=work.key, scores={}, usage=usage, timings=timings))
            return
        on_event(TextDelta(key=work.key, text="a"))
        on_event(Generated(key=work.key, text="a", finish_reason="length", usage=usage, timings=timings))


@given(st.integers(0, 25), st.integers(1, 4), st.integers(30, 600))
def test_a_text_of_so_many_tokens_is_found(template: int, per_word: int, tokens: int) -> None:
    words = words_for(tokens, lambda words: template + per_word * words)
    assert abs(template + per_word * words - tokens) < per_word


def test_a_text_is_found_where_a_tokenizer_is_no_straight_line() -> None:
    words = words_for(100, lambda words: 10 + words + words // 7)
    assert abs(10 + words + words // 7 - 100) <= 1


@pytest.mark.parametrize("tokens", [128, 512])
def test_prefill_counts_the_tokens_that_no_cache_had(tokens: int) -> None:
    engine = Counting()
    found = Workloads(engine).prefill(tokens)
    assert (found.tokens, found.tokens_per_s) == (tokens, tokens / 0.1)


def test_no_prompt_is_asked_twice() -> None:
    engine = Counting()
    workloads = Workloads(engine)
    for _ in range(5):
        workloads.prefill(128)
        workloads.sentiment()
        workloads.first_token()
    asked = [(work.spec, work.text) for work in engine.submitted if work.text]
    assert len({repr(each) for each in asked}) == len(asked)


@pytest.mark.parametrize("batch", [1, 4])
def test_decoding_side_by_side_adds_up(batch: int) -> None:
    found = Workloads(Counting()).decode(batch)
    assert (found.context_tokens, found.new_tokens) == (128, DECODE_TOKENS)
    assert found.tokens_per_s == pytest.approx(batch * 1000 / STEP_MS)


def test_what_is_decoded_was_prefilled_and_kept_before() -> None:
    engine = Counting()
    Workloads(engine).decode(3)
    kept, timed = engine.submitted[-6:-3], engine.submitted[-3:]
    assert [work.spec for work in kept] == [work.spec for work in timed]
    assert all(work.continues for work in kept)


def test_a_reply_that_ends_early_is_tried_again() -> None:
    engine = Counting(lengths=[11])
    assert Workloads(engine).decode(1).new_tokens == DECODE_TOKENS


def test_where_every_reply_ends_early_the_real_tokens_count() -> None:
    found = Workloads(Counting(lengths=[11, 21, 6])).decode(1)
    assert found.new_tokens == 20
    assert found.tokens_per_s == pytest.approx(1000 / STEP_MS)


def ended(*, submitted: float, first_ms: float, ended: float, tokens: int) -> Ended:
    decode_ms = 1000 * (ended - submitted) - first_ms
    timings = Timings(
        queue_ms=0.0, prefill_ms=first_ms, decode_ms=decode_ms, first_token_ms=first_ms, total_ms=first_ms + decode_ms
    )
    usage = Usage(prompt_tokens=128, cached_tokens=0, completion_tokens=tokens)
    event = Generated(key="any", text="", finish_reason="length", usage=usage, timings=timings)
    return Ended(submitted=submitted, ended=ended, event=event)


@pytest.mark.parametrize(
    ("late", "share"),
    [
        (ended(submitted=0.0, first_ms=1000, ended=3.0, tokens=21), 1.0),
        (ended(submitted=0.0, first_ms=2000, ended=3.0, tokens=11), 0.5),
        (ended(submitted=0.0, first_ms=4000, ended=5.0, tokens=11), 0.0),
    ],
    ids=["together", "half", "never"],
)
def test_how_long_a_batch_was_full_is_told(late: Ended, share: float) -> None:
    found = decoded([ended(submitted=0.0, first_ms=1000, ended=3.0, tokens=21), late])
    assert found.side_by_side == pytest.approx(share)
    assert found.tokens_per_s == pytest.approx(20.0)  # ten a second each
    assert found.new_tokens == late.decoded


def test_a_reply_without_a_second_token_has_no_speed() -> None:
    found = decoded([ended(submitted=0.0, first_ms=1000, ended=1.0, tokens=1)])
    assert (found.new_tokens, found.tokens_per_s) == (0, 0.0)


def test_the_first_token_counts_from_submission() -> None:
    assert Workloads(Counting()).first_token().milliseconds == 105.0


def test_sentiment_is_timed_from_outside() -> None:
    times = iter(range(1000))
    assert Workloads(Counting(), clock=lambda: float(next(times))).sentiment().milliseconds == 1000.0


def test_a_message_is_sentiment_and_reply_of_one_text_after_three_turns() -> None:
    engine = Counting()
    workloads = Workloads(engine)
    workloads.sentiment()  # finds the length of a text
    engine.submitted.clear()
    found = workloads.messages(1, 2)
    assert [work.spec.name for work in engine.submitted] == ["sentiment", "reply"] * 2
    for sentiment, reply in zip(engine.submitted[::2], engine.submitted[1::2], strict=True):
        assert sentiment.text == reply.text
        assert len(reply.text.split()) == TEXT_TOKENS
        assert [turn.role for turn in reply.turns] == ["user", "assistant"] * 3
    assert found.new_tokens == (REPLY_TOKENS, REPLY_TOKENS)
    system = len(REPLY.system["en"].split())
    assert found.prefilled == ((TEMPLATE - CACHED) * 2 + system + 8 * TEXT_TOKENS,) * 2


def test_a_known_history_was_run_before_the_clock_starts() -> None:
    engine = Counting()
    workloads = Workloads(engine)
    workloads.sentiment()
    engine.submitted.clear()
    found = workloads.messages(2, 2, knows_history=True)
    earlier, work = engine.submitted[:2], engine.submitted[2:]
    assert [each.spec.name for each in work] == ["sentiment", "reply"] * 2
    assert [each.turns for each in earlier] == [each.turns for each in work[1::2]]
    assert all(each.continues for each in earlier)
    assert not {each.text for each in earlier} & {each.text for each in work}
    assert len(found.new_tokens) == 2


@pytest.mark.parametrize(("concurrency", "jobs"), [(1, 3), (3, 7), (8, 8), (8, 2)])
def test_so_many_jobs_are_in_hand_and_no_more(concurrency: int, jobs: int) -> None:
    engine = Counting()
    workloads = Workloads(engine)
    workloads.sentiment()
    places = 2 * min(concurrency, jobs)
    with late(engine, places=places, in_all=2 * jobs):
        found = workloads.messages(concurrency, jobs)
    assert len(found.new_tokens) == jobs
    assert engine.most == places


@contextlib.contextmanager
def late(engine: Counting, *, places: int, in_all: int) -> Iterator[None]:
    """Answer in a thread of its own, the oldest job each time that all places are taken or nothing more can come."""

    def answer() -> None:
        for left in range(in_all, 0, -2):
            with engine.changed:
                assert engine.changed.wait_for(functools.partial(engine.holds, min(places, left)), timeout=30)
                job, engine.open[:] = engine.open[:2], engine.open[2:]
            for each in job:
                engine.answer(*each)

    engine.held, engine.most = in_all + 1, 0
    thread = threading.Thread(target=answer)
    thread.start()
    yield
    thread.join()


def test_a_short_reply_is_a_part_of_a_job() -> None:
    engine = Counting()
    workloads = Workloads(engine, clock=lambda: 0.0)
    workloads.sentiment()
    engine.lengths = [REPLY_TOKENS // 4, REPLY_TOKENS // 4]
    found = replace(workloads.messages(2, 4), seconds=60.0)
    assert found.jobs_per_min == pytest.approx(2.5)


def test_a_request_without_an_answer_ends_the_measurement() -> None:
    with pytest.raises(Busy):
        Workloads(Counting(error=Busy("no room"))).sentiment()


def test_an_engine_that_died_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "_POLL_S", 0.01)
    with pytest.raises(ModelError, match="the engine stopped"):
        Workloads(Counting(fault="the engine stopped: out of luck")).sentiment()
