"""The step: which sequences run next, one run of the model for all of them, and what they make of the logits.

A step that fails is tried again sequence by sequence, so that only the sequence at fault gets the error. Knows no
thread and no task; for the engine's thread alone.
"""

from collections.abc import Callable, Sequence
from typing import Generic

import structlog

from edged.engine.counting import Counts
from edged.engine.decoders.interface import K, Logits, Span
from edged.engine.loaded import Loaded
from edged.engine.memory import SequenceMemory
from edged.engine.scheduler import admit, plan
from edged.engine.sequence import Running
from edged.errors import ModelError, RequestError

log = structlog.get_logger(__name__)


class Stepper(Generic[K]):
    """The sequences that wait and those that run, on one model."""

    def __init__(self, loaded: Loaded[K], clock: Callable[[], float]) -> None:
        """Begin with no sequence."""
        self._model = loaded.model
        self._limits = loaded.limits
        self._clock = clock
        self._waiting: dict[str, Running[K]] = {}
        self._running: dict[str, Running[K]] = {}
        self.memory = SequenceMemory(loaded)
        self.counts = Counts()

    @property
    def waiting(self) -> int:
        """How many sequences wait for a place."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many sequences have their keys and values."""
        return len(self._running)

    @property
    def is_idle(self) -> bool:
        """Whether there is no sequence."""
        return not self._waiting and not self._running

    def add(self, sequence: Running[K]) -> None:
        """Take a sequence in; it runs when there is room."""
        self._waiting[sequence.key] = sequence

    def cancel(self, key: str) -> None:
        """End a sequence early, if it is still here."""
        sequence = self._waiting.pop(key, None) or self._running.get(key)
        if sequence is not None:
            sequence.stop_early("cancelled", self._clock())
            self._drop_done()

    def forget(self, conversation: str) -> None:
        """Drop what was computed of a conversation; what runs of it is not kept either."""
        for sequence in (*self._waiting.values(), *self._running.values()):
            sequence.work = sequence.work.without(conversation)
        self.memory.cache.forget(conversation)

    def fail_all(self, error: RequestError) -> None:
        """End every sequence with this error."""
        for sequence in (*self._waiting.values(), *self._running.values()):
            sequence.fail(error)
        self._waiting.clear()
        self._running.clear()

    def step(self) -> None:
        """Run one step of every sequence that is ready: schedule, run, postprocess."""
        if batch := self._schedule():
            self._postprocess(self._run(batch))

    def _schedule(self) -> list[tuple[Running[K], Span[K]]]:
        """End sequences past their deadline, admit others; gives the running sequences and their next rows."""
        now = self._clock()
        self._expire(now)
        self._admit(now)
        rows = plan(
            [each.candidate() for each in self._running.values()],
            prefill_tokens=self._limits.prefill_chunk_tokens,
            classify_tokens=self._limits.classify_chunk_tokens,
        )
        return [(sequence := self._running[key], sequence.span(count)) for key, count in rows.items()]

    def _run(self, batch: Sequence[tuple[Running[K], Span[K]]]) -> list[tuple[Running[K], Logits]]:
        """Run the spans in one step; gives the logits of the wanted rows of each sequence."""
        try:
            return self._forward(batch)
        except Exception as error:  # noqa: BLE001 - a decoder may raise anything; the request is answered
            log.warning("step_failed", sequences=len(batch), error=str(error))
        self.memory.cache.clear()
        return self._run_one_by_one(batch)

    def _run_one_by_one(self, batch: Sequence[tuple[Running[K], Span[K]]]) -> list[tuple[Running[K], Logits]]:
        """Run each span of a failed step alone; a sequence whose span fails again gets the error."""
        results: list[tuple[Running[K], Logits]] = []
        for sequence, span in batch:
            try:
                # A copy: a model may write the next step's logits to the same place.
                results += [(sequence, logits.copy()) for _, logits in self._forward([(sequence, span)])]
            except Exception as error:
                # As in _run: whatever was raised, this request has an answer and the others go on.
                log.exception("request_failed", key=sequence.key)
                sequence.fail(_model_failed(error))
        return results

    def _forward(self, batch: Sequence[tuple[Running[K], Span[K]]]) -> list[tuple[Running[K], Logits]]:
        logits = self._model.forward([span for _, span in batch])
        results = []
        first = 0
        for sequence, span in batch:
            behind = first + len(span.wanted)
            results.append((sequence, logits[first:behind]))
            first = behind
            self.counts.step_rows += len(span.tokens)
        self.counts.steps += 1
        if first:
            self.counts.last_token_at = self._clock()
        return results

    def _postprocess(self, results: Sequence[tuple[Running[K], Logits]]) -> None:
        """Let each sequence take its logits, and let go of those that are done."""
        now = self._clock()
        for sequence, logits in results:
            try:
                sequence.accept(logits, now)
            except RequestError as error:
                sequence.fail(error)
            except Exception as error:
                # An error of one sequence in handling its logits must not end the loop for all.
                log.exception("request_failed", key=sequence.key)
                sequence.fail(_model_failed(error))
            if sequence.memory is None and not sequence.done:  # it asks another prompt
                self._give_memory(sequence)
        self._drop_done()

    def _expire(self, now: float) -> None:
        for sequence in (*self._waiting.values(), *self._running.values()):
            if sequence.work.deadline is not None and now >= sequence.work.deadline:
                sequence.stop_early("deadline", now)
        self._drop_done()

    def _admit(self, now: float) -> None:
        if not self._waiting:
            return
        keys = admit(
            [each.candidate() for each in self._waiting.values()],
            running=[each.candidate() for each in self._running.values()],
            max_batch=self._limits.max_batch,
            max_bytes=self._limits.kv_bytes,
        )
        for key in keys:
            sequence = self._waiting.pop(key)
            self._running[key] = sequence
            sequence.times.admitted = now
            self._give_memory(sequence)
        self._drop_done()

    def _give_memory(self, sequence: Running[K]) -> None:
        """Give a sequence its keys and values; where memory is short, those of the prefix cache are given up for it."""
        try:
            self.memory.give(sequence)
        except Exception as error:  # noqa: BLE001 - a decoder may raise anything; the request is answered
            log.warning("no_memory", key=sequence.key, error=str(error), instead="the prefix cache is given up")
            self.memory.cache.clear()
            try:
                self.memory.give(sequence)
            except Exception as again:
                # As above: this request has an answer, and the others go on.
                log.exception("request_failed", key=sequence.key)
                sequence.fail(_model_failed(again))
                return
        self.counts.prompt_tokens += len(sequence.prompt)
        self.counts.cached_tokens += sequence.cached

    def _drop_done(self) -> None:
        for key in [key for key, sequence in self._waiting.items() if sequence.done]:
            del self._waiting[key]
        for key in [key for key, sequence in self._running.items() if sequence.done]:
            sequence = self._running.pop(key)
            self.counts.completion_tokens += sequence.completion_tokens
            self.memory.keep(sequence, self._clock())


def _model_failed(error: Exception) -> ModelError:
    if isinstance(error, MemoryError):
        return ModelError("there is no memory for this request now; ask again later, or ask about less")
    return ModelError(f"the model failed on this request: {type(error).__name__}")
