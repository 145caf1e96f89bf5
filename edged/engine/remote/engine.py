"""An engine elsewhere: the same tasks by an OpenAI-compatible server (llama-server, vLLM, Ollama). Implements
`ports.Engine`.

Labels are scored as they are here: a completion prompt with solved cases, of which the server gives the
log-probabilities of the next token. A server that gives none is held to one of the labels by a JSON Schema instead;
the scores are 1 and 0 then. Replies are chat completions, streamed.

Source: platform.openai.com/docs/api-reference (completions, chat); the differences are noted where they matter.
"""

import contextlib
import functools
import json
import math
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog

from edged.engine.remote.answers import ChatCompletion, Chunk, Completion, Models
from edged.engine.remote.connection import Connection, Form, Malformed, Refused, Retry
from edged.engine.reply_text import reply_text
from edged.errors import (
    Cancelled,
    EdgedError,
    Expired,
    ModelError,
    ModelUnavailable,
    RequestError,
    ShuttingDown,
    TooLong,
)
from edged.models.presets import preset_sampling
from edged.ports.engine import (
    NO_USAGE,
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
from edged.settings.schema import ModelSettings, Settings
from edged.tasks.conversation import Turn, trim
from edged.tasks.outputs import FinishReason
from edged.tasks.specs import (
    ClassifyPrompt,
    ClassifySpec,
    Sampling,
    Tasks,
    TextSpec,
    completion_prompt,
    sampling_of,
)
from edged.tasks.text import LANGUAGES, Language, normalise

log = structlog.get_logger(__name__)

Emit = Callable[[WorkEvent], None]
T = TypeVar("T")

_TOP = 20  # log-probabilities asked for: the most that vLLM gives by default
_STOPS = 4  # stop strings that OpenAI takes; the others are looked for here
_DEPTH = 8  # tokens at most by which two labels may begin alike
_BYTES_PER_TOKEN = 3.0  # a cautious guess, for servers that tokenize elsewhere; English has 4 to 5, Chinese about 4
_PAUSE_S = 0.2  # before the first retry; doubled with each
_START_PAUSE_S = 5.0  # between two attempts to find the server at the start
_AWAY_AFTER = 3  # failures in a row, each after its retries
_AGAIN_MS = 5000  # after which a caller may try again


class _Away(ModelError):
    """The server is at fault, and not what it was asked."""


@dataclass(slots=True)
class _Open:
    """Work in hand."""

    work: Work
    emit: Emit
    submitted: float
    admitted: float | None = None
    first: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    connection: Connection | None = None


@dataclass(slots=True)
class _Counts:
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    last_token_at: float | None = None
    failures: int = 0  # in a row, for which the server is at fault
    failure: str = ""  # the last of them


class RemoteEngine:
    """See `edged.ports.StoppableEngine`. Events come in threads of its own, those of one piece of work in one."""

    def __init__(self, settings: Settings, *, tasks: Tasks, clock: Callable[[], float] = time.monotonic) -> None:
        """Assign; `start` looks for the server. `engine.max_batch` requests are open at a time."""
        self._model: ModelSettings = settings.model
        self._limits = settings.engine
        self._half_width = settings.half_width
        self._tasks = tasks
        self._clock = clock
        self._pool = ThreadPoolExecutor(self._limits.max_batch, thread_name_prefix="remote")
        self._own = threading.local()  # each thread's connection
        self._lock = threading.Lock()  # guards the next three, and which work has which connection
        self._connections: list[Connection] = []
        self._open: dict[str, _Open] = {}
        self._counts = _Counts()
        self._priors: dict[tuple[str, Language], dict[str, float]] = {}
        self._has_log_probabilities = True
        self._takes_extensions = True  # of sampling, beyond OpenAI's own
        self._info: ModelInfo | None = None
        self._failure: EdgedError | None = None
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._starter = threading.Thread(target=self._begin, name="engine", daemon=True)

    # ------------------------------------------------------------------------------------------------ the engine

    def start(self) -> None:
        self._starter.start()

    def wait_ready(self, timeout: float | None = None) -> bool:
        if not self._settled.wait(timeout):
            return False
        if self._failure is not None:
            raise self._failure
        return True

    def stop(self, timeout: float = 10.0) -> None:
        self._stopping.set()
        with self._lock:
            for mine in self._open.values():
                mine.cancelled.set()
            for connection in self._connections:
                connection.cut()
        if self._starter.ident is not None:
            self._starter.join(timeout)
        self._pool.shutdown(wait=False)
        until = self._clock() + timeout
        while self._open and self._clock() < until:
            time.sleep(0.01)
        for connection in self._connections:
            connection.close()

    def submit(self, work: Work, on_event: Emit) -> None:
        mine = _Open(work, on_event, self._clock())
        with self._lock:
            self._open[work.key] = mine
        try:
            self._pool.submit(self._run, mine)
        except RuntimeError:  # after `stop`
            self._end(mine, Failed(key=work.key, error=ShuttingDown("the daemon is shutting down")))

    def cancel(self, key: str) -> None:
        with self._lock:  # so that the connection is not another's by now
            mine = self._open.get(key)
            if mine is not None:
                mine.cancelled.set()
                if mine.connection is not None:
                    mine.connection.cut()

    def state(self) -> EngineState:
        with self._lock:
            running = sum(each.admitted is not None for each in self._open.values())
            waiting = len(self._open) - running
            counts = replace(self._counts)
        return EngineState(
            waiting=waiting,
            running=running,
            last_token_at=counts.last_token_at,
            last_progress=self._clock(),  # no thread waits longer than `model.timeout`; the probe tells how it goes
            prompt_tokens=counts.prompt_tokens,
            cached_tokens=counts.cached_tokens,
            completion_tokens=counts.completion_tokens,
            steps=counts.steps,
            step_rows=counts.steps,
            cache_hits=0,
            cache_misses=0,
            cache_bytes=0,
            cache_capacity=0,
            fault=None,
            away=counts.failure if counts.failures >= _AWAY_AFTER else None,
        )

    @property
    def model(self) -> ModelInfo:
        if self._info is None:
            raise ModelError("the server was not found yet")
        return self._info

    # ------------------------------------------------------------------------------------------------- the start

    def _begin(self) -> None:
        begin = self._clock()
        try:
            name = self._patiently(self._find_model)
            self._info = ModelInfo(
                id=name,
                architecture="remote",
                format="remote",
                device=urlsplit(str(self._model.url)).hostname or "",
                threads=0,
                parameters=0,
                weight_bytes=0,
                load_s=self._clock() - begin,
                max_context_tokens=self._limits.max_context_tokens,
                max_new_tokens=self._limits.max_new_tokens,
            )
            self._has_log_probabilities = self._patiently(self._tells_log_probabilities)
            for spec in {part.name: part for name in self._tasks.names for part in self._tasks.parts(name)}.values():
                if isinstance(spec, ClassifySpec):
                    for language in LANGUAGES:
                        for opinion in spec.opinions(language):
                            self._patiently(functools.partial(self._learn_prior, opinion, language))
        except RequestError as error:
            self._failure = ModelUnavailable(f"{self._model.url}: {error}")
        except EdgedError as error:
            self._failure = error
        except Exception as error:
            # The top of the thread: whoever waits must learn of it.
            log.exception("remote_start_failed")
            self._failure = ModelUnavailable(f"{self._model.url}: {type(error).__name__}: {error}")
        finally:
            self._settled.set()

    def _patiently(self, step: Callable[[], T]) -> T:
        """Take a step of the start; a server that is away, or busy, is asked until it answers.

        Raises:
            ShuttingDown: stopped first.
        """
        told = ""
        while not self._stopping.is_set():
            try:
                return step()
            except (Retry, _Away) as error:
                if str(error) != told:
                    log.warning("remote_not_there", url=self._model.url, reason=str(error))
                told = str(error)
                self._stopping.wait(_START_PAUSE_S)
        raise ShuttingDown("the daemon is shutting down")

    def _find_model(self) -> str:
        """The model to ask for.

        Raises:
            ModelUnavailable: the server does not take us, or has no such model.
        """
        names = self._ask(None, "models", None, Models).ids
        wanted = self._model.id
        if wanted in names or not names:
            return wanted
        if "id" in self._model.model_fields_set:
            raise ModelUnavailable(
                f"{self._model.url} has no model {wanted}; set EDGED_MODEL__ID to one of: {', '.join(names[:10])}"
            )
        return names[0]

    def _tells_log_probabilities(self) -> bool:
        body = {"model": self.model.id, "prompt": "One, two, three,", "max_tokens": 1, "logprobs": _TOP}
        try:
            answer = self._ask(None, "completions", body, Completion)
        except (RequestError, Malformed) as error:
            log.info("remote_completes_no_text", reason=str(error))
            return False
        tells = bool(answer.next_tokens)
        if not tells:
            log.info("remote_tells_no_log_probabilities", url=self._model.url)
        return tells

    def _learn_prior(self, spec: ClassifySpec, language: Language) -> None:
        """The prompt's own leaning; see `ClassifyPrompt.neutral_texts`."""
        self._priors[spec.name, language] = dict.fromkeys((label.canonical for label in spec.labels), 0.0)
        sums = dict(self._priors[spec.name, language])
        texts = spec.prompts[language].neutral_texts
        for text in texts if self._has_log_probabilities else ():
            mine = _Open(Work(key="warm-up", spec=spec, text=text, language=language), lambda _: None, self._clock())
            for label, value in self._label_evidence(mine, spec)[0].items():
                sums[label] += value / len(texts)
        self._priors[spec.name, language] = sums

    # -------------------------------------------------------------------------------------------------- the work

    def _run(self, mine: _Open) -> None:
        key = mine.work.key
        event: WorkEvent
        connection = self._connection()
        with self._lock:
            mine.connection = connection
        try:
            self._check(mine)
            mine.admitted = self._clock()
            spec = mine.work.spec
            event = self._classify(mine, spec) if isinstance(spec, ClassifySpec) else self._generate(mine, spec)
        except RequestError as error:
            event = Failed(key=key, error=error)
        except ModelUnavailable as error:
            event = Failed(key=key, error=ModelError(str(error)))
        except Exception as error:
            # One piece of work that brings out a fault of ours must have its end all the same.
            log.exception("remote_work_failed", key=key)
            event = Failed(key=key, error=ModelError(f"a fault of the daemon: {type(error).__name__}"))
        self._end(mine, event)

    def _end(self, mine: _Open, event: WorkEvent) -> None:
        with self._lock:
            self._open.pop(mine.work.key, None)
            mine.connection = None
            if isinstance(event, Failed) and isinstance(event.error, _Away):
                self._counts.failures += 1
                self._counts.failure = event.error.message
            if isinstance(event, Classified | Generated):
                self._counts.failures = 0
                self._counts.steps += 1
                self._counts.last_token_at = self._clock()
                self._counts.prompt_tokens += event.usage.prompt_tokens
                self._counts.cached_tokens += event.usage.cached_tokens
                self._counts.completion_tokens += event.usage.completion_tokens
        mine.emit(event)

    def _check(self, mine: _Open) -> None:
        """Raise if nobody wants the answer any more."""
        if self._stopping.is_set():
            raise ShuttingDown("the daemon is shutting down")
        if mine.cancelled.is_set():
            raise Cancelled("the request was cancelled before there was an answer")
        if mine.work.deadline is not None and self._clock() >= mine.work.deadline:
            raise Expired("the deadline passed before there was an answer")

    # labels

    def _classify(self, mine: _Open, spec: ClassifySpec) -> Classified:
        if self._has_log_probabilities:
            scores, usage = self._score(mine, spec)
        else:
            chosen, usage = self._choose(mine, spec)
            scores = {label.canonical: float(label.canonical == chosen) for label in spec.labels}
        mine.first = self._clock()
        return Classified(key=mine.work.key, scores=scores, usage=usage, timings=self._timings(mine))

    def _score(self, mine: _Open, spec: ClassifySpec) -> tuple[dict[str, float], Usage]:
        """Label probabilities by the task's prompt, in doubt by its further ones too."""
        evidence = dict.fromkeys((label.canonical for label in spec.labels), 0.0)
        scores, usage = evidence, NO_USAGE
        for asked, opinion in enumerate(spec.opinions(mine.work.language), start=1):
            found, spent = self._label_evidence(mine, opinion)
            prior = self._priors[opinion.name, mine.work.language]
            evidence = {label: value + found[label] - prior[label] for label, value in evidence.items()}
            scores = _softmax({label: value / asked for label, value in evidence.items()})
            usage += spent
            if not spec.is_in_doubt(scores.values()):
                break
        return scores, usage

    def _label_evidence(self, mine: _Open, spec: ClassifySpec) -> tuple[dict[str, float], Usage]:
        """Log-probability of each label, summed over the readings."""
        language = mine.work.language
        text = normalise(mine.work.text, half_width=self._half_width)
        prompt = completion_prompt(spec, text=text, language=language)
        words = [label.words(language) for label in spec.labels]
        flat = [f"{prompt.space}{word}" for each in words for word in each]
        usage = [NO_USAGE]
        found = self._word_log_probabilities(mine, prompt.text, flat, usage, depth=0)
        evidence = dict.fromkeys((label.canonical for label in spec.labels), 0.0)
        for reading in zip(*words, strict=True):
            values = [found[f"{prompt.space}{word}"] for word in reading]
            total = _log_sum(values)
            for label, value in zip(spec.labels, values, strict=True):
                evidence[label.canonical] += value - total
        return evidence, usage[0]

    def _word_log_probabilities(
        self, mine: _Open, prompt: str, words: Sequence[str], usage: list[Usage], depth: int
    ) -> dict[str, float]:
        """How probable each of `words` is after `prompt`, as far as is needed to tell them apart.

        A word that is not among the most probable tokens gets the probability of the least of these: it is at most
        that.
        """
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": _TOP}
        answer = self._post(mine, "completions", body, Completion)
        usage[0] += answer.usage
        top = answer.next_tokens
        if not top:  # llama.cpp, where the text would end here
            return dict.fromkeys(words, 0.0)
        floor = min(top.values())
        found: dict[str, list[float]] = {word: [] for word in words}
        for token, value in top.items():
            meant = [word for word in words if token.strip() and (word.startswith(token) or token.startswith(word))]
            if len(meant) == 1 or depth >= _DEPTH:
                for word in meant:
                    found[word].append(value)
            elif meant:
                rests = [word[len(token) :] or "\n" for word in meant]
                deeper = self._word_log_probabilities(mine, prompt + token, rests, usage, depth + 1)
                for word, rest in zip(meant, rests, strict=True):
                    found[word].append(value + deeper.get(rest, 0.0))
        return {word: _log_sum(values) if values else floor for word, values in found.items()}

    def _choose(self, mine: _Open, spec: ClassifySpec) -> tuple[str, Usage]:
        """Have the server write one of the labels, held to them by a schema."""
        language = mine.work.language
        by_word = {label.words(language)[0]: label.canonical for label in spec.labels}
        prompt: ClassifyPrompt = spec.prompts[language]
        messages = [{"role": "system", "content": f"{prompt.role.strip()} {' / '.join(by_word)}"}]
        for example in prompt.examples:
            word = next(word for word, label in by_word.items() if label == example.label)
            messages += [
                {"role": "user", "content": example.text},
                {"role": "assistant", "content": json.dumps(word, ensure_ascii=False)},
            ]
        messages.append({"role": "user", "content": normalise(mine.work.text, half_width=self._half_width)})
        schema = {"type": "string", "enum": [*by_word]}
        body = {
            "messages": messages,
            "max_tokens": 16,
            "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": {"name": spec.name, "schema": schema}},
        }
        answer = self._post(mine, "chat/completions", body, ChatCompletion)
        said = answer.text.strip().strip('"')
        if said not in by_word:
            raise ModelError("the server did not keep to the labels of the task")
        return by_word[said], answer.usage

    # text

    def _generate(self, mine: _Open, spec: TextSpec) -> Generated:
        work, params = mine.work, mine.work.params
        limit = self._limits.max_new_tokens
        wanted = min(params.max_tokens or spec.max_tokens or limit, limit)
        sampling = sampling_of(Sampling(), preset_sampling(self.model.id), spec.sampling, params)
        penalty = sampling.repetition_penalty
        # The first is llama.cpp's and Ollama's name for it, the second vLLM's.
        extensions: dict[str, Any] = {"repeat_penalty": penalty, "repetition_penalty": penalty}
        extensions["top_k"] = sampling.top_k
        extensions["chat_template_kwargs"] = {"enable_thinking": False}  # Qwen3, as the model here has it
        body: dict[str, Any] = {
            "messages": self._messages(work, spec, wanted),
            "max_tokens": wanted,
            "seed": (params.seed if params.seed is not None else work.seed) % (1 << 32),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **(extensions if self._takes_extensions else {}),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if stops := [*spec.stop, *params.stop] if spec.schema is None else []:
            body["stop"] = stops[:_STOPS]  # `ReplyText` knows all
        if spec.schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": spec.name, "schema": dict(spec.schema)},
            }
        return self._stream(mine, spec, body, [*extensions])

    def _messages(self, work: Work, spec: TextSpec, max_tokens: int) -> list[dict[str, str]]:
        def clean(text: str) -> str:
            return normalise(text, half_width=self._half_width)

        def count(turn: Turn) -> int:
            return 8 + math.ceil(len(turn.content.encode()) / _BYTES_PER_TOKEN)

        asked = Turn(role="user", content=clean(work.text))
        system = Turn(role="system", content=spec.system[work.language])
        budget = self._limits.max_context_tokens - max_tokens - count(asked) - count(system)
        turns = trim([replace(turn, content=clean(turn.content)) for turn in work.turns], count=count, budget=budget)
        return [{"role": turn.role, "content": turn.content} for turn in (system, *turns, asked)]

    def _stream(self, mine: _Open, spec: TextSpec, body: dict[str, Any], extensions: Sequence[str]) -> Generated:
        """Take the text as it comes.

        A request that nothing came of is tried again; after the first words the server's silence is the end.
        """
        text = reply_text(spec, mine.work.params)
        finish, usage = "stop", NO_USAGE
        early: FinishReason | None = None
        try:
            with contextlib.closing(self._chunks(mine, body, extensions)) as chunks:
                for chunk in chunks:
                    usage = chunk.usage if chunk.usage != NO_USAGE else usage
                    for choice in chunk.choices:
                        finish = choice.finish_reason or finish
                        if choice.text:
                            mine.first = mine.first or self._clock()
                            _show(mine, text.add(choice.text))
                    if text.stopped:
                        finish = "stop"
                        break  # which closes the response, so that the server writes no more
        except (Cancelled, Expired) as error:
            if not text.has_begun or spec.schema is not None:
                raise
            early = "cancelled" if isinstance(error, Cancelled) else "deadline"
        reason: FinishReason = early or ("length" if finish == "length" else "stop")
        _show(mine, text.finish(is_cut=reason in {"length", "deadline"}))
        if not text.text and "stop" not in body:
            raise ModelError("the model's server wrote nothing")
        if spec.schema is not None:
            _check_json(text.text, finish)
        completion = usage.completion_tokens or max(1, round(len(text.text.encode()) / _BYTES_PER_TOKEN))
        return Generated(
            key=mine.work.key,
            text=text.text,
            finish_reason=reason,
            usage=replace(usage, completion_tokens=completion),
            timings=self._timings(mine),
        )

    def _chunks(self, mine: _Open, body: dict[str, Any], extensions: Sequence[str]) -> Generator[Chunk, None, None]:
        """The chunks of the answer, asked for until there is one; what has begun is not asked for again."""
        while True:
            try:
                yield from self._chunks_of(mine, body)
            except Refused as refused:
                if not (set(extensions) & body.keys() and any(name in refused.message for name in extensions)):
                    raise refused.as_request_error() from None
                self._takes_extensions = False
                body = {name: value for name, value in body.items() if name not in extensions}
            else:
                return

    def _chunks_of(self, mine: _Open, body: Mapping[str, Any]) -> Iterator[Chunk]:
        has_begun = False
        asked = {"model": self.model.id, **body}
        for pause in self._pauses():
            self._check(mine)
            patience = self._patience(mine.work.deadline)
            chunks = self._connection().events(
                "chat/completions", asked, patience=patience, is_wanted=self._wants(mine)
            )
            try:
                with contextlib.closing(chunks):
                    for chunk in chunks:
                        self._check(mine)
                        has_begun = True
                        yield chunk
            except Retry as error:
                self._rest(mine, None if has_begun else pause, error)
            else:
                return

    def _pauses(self) -> Iterator[float | None]:
        """Seconds to wait after each attempt; None after the last."""
        for attempt in range(self._model.retries):
            yield _PAUSE_S * 2**attempt * random.uniform(0.5, 1.5)
        yield None

    def _rest(self, mine: _Open, pause: float | None, fault: Retry) -> None:
        """Wait before the next attempt, as long as the server wants.

        Raises:
            RequestError: there is to be no other.
        """
        self._check(mine)  # what `cancel` has cut ends like a fault
        if pause is None or fault.after > self._model.timeout:
            raise _Away(f"the model's server: {fault}", retry_after_ms=round(1000 * fault.after) or _AGAIN_MS) from None
        pause = max(pause, fault.after)
        deadline = mine.work.deadline
        mine.cancelled.wait(pause if deadline is None else min(pause, max(0.0, deadline - self._clock())))

    # ------------------------------------------------------------------------------------------------ the server

    def _connection(self) -> Connection:
        """This thread's own."""
        if not hasattr(self._own, "connection"):
            key = self._model.api_key
            self._own.connection = Connection(
                str(self._model.url), api_key=None if key is None else key.get_secret_value()
            )
            with self._lock:
                self._connections.append(self._own.connection)
        own: Connection = self._own.connection
        return own

    def _wants(self, mine: _Open | None) -> Callable[[], bool]:
        return lambda: not (self._stopping.is_set() or (mine is not None and mine.cancelled.is_set()))

    def _patience(self, deadline: float | None) -> float:
        """Seconds that the server may be silent."""
        left = math.inf if deadline is None else deadline - self._clock()
        return max(0.05, min(self._model.timeout, left))

    def _post(self, mine: _Open, path: str, body: Mapping[str, Any], form: type[Form]) -> Form:
        """Ask, and ask again where that may help.

        Raises:
            RequestError: there is no answer.
        """
        for pause in self._pauses():
            self._check(mine)
            try:
                return self._ask(mine, path, {"model": self.model.id, **body}, form)
            except Retry as error:
                self._rest(mine, pause, error)
        raise AssertionError("the last attempt returns or raises")

    def _ask(self, mine: _Open | None, path: str, body: Mapping[str, Any] | None, form: type[Form]) -> Form:
        patience = self._patience(None if mine is None else mine.work.deadline)
        try:
            return self._connection().ask(path, body, form=form, patience=patience, is_wanted=self._wants(mine))
        except Refused as refused:
            raise refused.as_request_error() from None

    def _timings(self, mine: _Open) -> Timings:
        now = self._clock()
        admitted = mine.admitted or now
        first = mine.first or now
        return Timings(
            queue_ms=1000 * (admitted - mine.submitted),
            prefill_ms=1000 * (first - admitted),
            decode_ms=1000 * (now - first),
            first_token_ms=1000 * (first - mine.submitted),
            total_ms=1000 * (now - mine.submitted),
        )


def _show(mine: _Open, piece: str) -> None:
    if piece and mine.work.stream:
        mine.emit(TextDelta(key=mine.work.key, text=piece))


def _check_json(text: str, finish: str) -> None:
    if finish == "length":
        raise TooLong("the JSON is not complete at the length limit; ask about less, or raise max_tokens of the task")
    try:
        json.loads(text)
    except ValueError:
        raise ModelError("the server did not keep to the schema of the task") from None


def _log_sum(values: Sequence[float]) -> float:
    most = max(values)
    return most + math.log(sum(math.exp(value - most) for value in values))


def _softmax(evidence: Mapping[str, float]) -> dict[str, float]:
    total = _log_sum([*evidence.values()])
    return {label: math.exp(value - total) for label, value in evidence.items()}
