"""An engine whose model is behind an OpenAI-compatible server (llama-server, vLLM, Ollama). Implements
`ports.StoppableEngine`.

It takes work in, runs it on a pool of threads and emits its events. `labels` scores labels, `replies` has text written,
`start` finds the server and checks it later.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import assert_never
from urllib.parse import urlsplit

import structlog

from edged.engine.remote.chat import Chat
from edged.engine.remote.connection import Refused
from edged.engine.remote.labels import LabelScorer
from edged.engine.remote.replies import ReplyWriter
from edged.engine.remote.server import Away, ModelServer
from edged.engine.remote.server_health import ServerHealth
from edged.engine.remote.start import Start
from edged.engine.remote.work import Emit, OpenWork
from edged.errors import EdgedError, ModelError, ModelUnavailable, RequestError, ShuttingDown
from edged.ports.engine import (
    NO_USAGE,
    Classified,
    EngineState,
    Failed,
    Generated,
    ModelInfo,
    Work,
    WorkEvent,
)
from edged.settings.schema import Settings
from edged.tasks.specs import ClassifySpec, ExtractSpec, GenerateSpec, Tasks

log = structlog.get_logger(__name__)


class RemoteEngine:
    """See `edged.ports.StoppableEngine`. Events come in the pool's threads, those of one piece of work in one."""

    def __init__(self, settings: Settings, *, tasks: Tasks, clock: Callable[[], float] = time.monotonic) -> None:
        """Assign; `start` looks for the server. `engine.max_batch` requests are open at a time."""
        self._limits = settings.engine
        self._clock = clock
        self._server = ModelServer(settings.model, clock=clock)
        self._standing = ServerHealth()
        chat = Chat(self._server)
        self._labels = LabelScorer(self._server, chat, half_width=settings.half_width, clock=clock)
        self._replies = ReplyWriter(
            self._server, chat, limits=settings.engine, half_width=settings.half_width, clock=clock
        )
        self._start = Start(
            settings.model,
            tasks,
            server=self._server,
            labels=self._labels,
            chat=chat,
            standing=self._standing,
        )
        self._pool = ThreadPoolExecutor(self._limits.max_batch, thread_name_prefix="remote")
        self._starter = threading.Thread(target=self._run_start, name="engine", daemon=True)
        self._lock = threading.Lock()  # guards the next four, and which work has which connection
        self._open: dict[str, OpenWork] = {}
        self._usage = NO_USAGE
        self._answers = 0
        self._last_token_at: float | None = None
        self._info: ModelInfo | None = None

    # ------------------------------------------------------------------------------------------- start and stop

    def start(self) -> None:
        self._starter.start()

    def _run_start(self) -> None:
        begin = self._clock()
        self._start.run(lambda name: self._found(name, self._clock() - begin))

    def _found(self, name: str, load_s: float) -> None:
        self._server.model = name
        self._info = ModelInfo(
            id=name,
            architecture="remote",
            format="remote",
            device=urlsplit(self._server.url).hostname or "",
            threads=0,
            parameters=0,
            weight_bytes=0,
            load_s=load_s,
            max_context_tokens=self._limits.max_context_tokens,
            max_new_tokens=self._limits.max_new_tokens,
        )

    def wait_ready(self, timeout: float | None = None) -> bool:
        if not self._start.settled.wait(timeout):
            return False
        if self._start.failure is not None:
            raise self._start.failure
        return True

    @property
    def waits_for(self) -> str:
        """Why the start waits for the server, in words; empty if there was no fault."""
        return self._start.waits_for

    def stop(self, timeout: float = 10.0) -> None:
        self._server.stopping.set()
        with self._lock:
            for work in self._open.values():
                work.cancelled.set()
        self._server.stop()
        self._start.stop()
        if self._starter.ident is not None:
            self._starter.join(timeout)
        self._pool.shutdown(wait=False)
        until = self._clock() + timeout
        while self._open and self._clock() < until:
            time.sleep(0.01)
        self._server.close()

    # -------------------------------------------------------------------------------------------------- the work

    def submit(self, work: Work, on_event: Emit) -> None:
        mine = OpenWork(work, on_event, self._clock())
        with self._lock:
            self._open[work.key] = mine
        try:
            self._pool.submit(self._run, mine)
        except RuntimeError:  # after `stop`
            self._end(mine, Failed(key=work.key, error=ShuttingDown("the daemon is shutting down")))

    def prepare(self, tasks: Tasks, on_done: Callable[[EdgedError | None], None]) -> None:
        def learn() -> None:
            error: EdgedError | None = None
            try:
                self._start.learn(tasks)
            except EdgedError as caught:
                error = caught
            except Refused as refused:
                error = refused.as_request_error()
            except Exception as caught:
                # A bug that a prompt brings out; the tasks before go on.
                log.exception("tasks_failed")
                error = ModelError(f"the server fails on the tasks: {type(caught).__name__}")
            on_done(error)

        try:
            self._pool.submit(learn)
        except RuntimeError:  # after `stop`
            on_done(ShuttingDown("the daemon is shutting down"))

    def forget(self, conversation: str) -> None:
        """Nothing is kept of a conversation here."""

    def keep_conversations(self) -> None:
        """Nothing is kept of a conversation here."""

    def cancel(self, key: str) -> None:
        with self._lock:  # so that the connection does not pass to other work meanwhile
            mine = self._open.get(key)
            if mine is not None:
                mine.cancelled.set()
                if mine.connection is not None:
                    mine.connection.cut()

    def _run(self, mine: OpenWork) -> None:
        connection = self._server.connection()
        with self._lock:
            mine.connection = connection
        endpoint, answer = self._how(mine)
        event: WorkEvent
        try:
            self._server.check(mine)
            mine.admitted = self._clock()
            event = answer()
        except Refused as refused:
            event = Failed(key=mine.work.key, error=refused.as_request_error())
        except RequestError as error:
            event = Failed(key=mine.work.key, error=error)
        except ModelUnavailable as error:
            event = Failed(key=mine.work.key, error=ModelError(str(error)))
        except Exception as error:
            # A bug that one piece of work brings out must not leave it without an end.
            log.exception("remote_work_failed", key=mine.work.key)
            event = Failed(key=mine.work.key, error=ModelError(f"a fault of the daemon: {type(error).__name__}"))
        self._judge(endpoint, event)
        self._end(mine, event)

    def _how(self, mine: OpenWork) -> tuple[str, Callable[[], WorkEvent]]:
        """The endpoint that the work needs, and the function that does it. No other function tests the kind of task."""
        match mine.work.spec:
            case ClassifySpec() as spec:
                return self._labels.endpoint, lambda: self._labels.classify(mine, spec)
            case GenerateSpec() | ExtractSpec() as spec:
                return self._replies.endpoint, lambda: self._replies.write(mine, spec)
            case spec:
                assert_never(spec)

    def _judge(self, endpoint: str, event: WorkEvent) -> None:
        """Note what the end of work tells about the server."""
        if isinstance(event, Classified | Generated):
            self._standing.answered(endpoint)
        elif isinstance(event, Failed) and isinstance(event.error, ModelError):
            if isinstance(event.error, Away):
                self._standing.failed(endpoint, event.error.message)
            self._start.look_again()

    def _end(self, mine: OpenWork, event: WorkEvent) -> None:
        with self._lock:
            self._open.pop(mine.work.key, None)
            mine.connection = None
            if isinstance(event, Classified | Generated):
                self._answers += 1
                self._last_token_at = self._clock()
                self._usage += event.usage
        mine.emit(event)

    # ------------------------------------------------------------------------------------------------- the state

    def state(self) -> EngineState:
        with self._lock:
            running = sum(each.admitted is not None for each in self._open.values())
            waiting = len(self._open) - running
            usage, answers, last_token_at = self._usage, self._answers, self._last_token_at
        return EngineState(
            waiting=waiting,
            running=running,
            last_token_at=last_token_at,
            last_progress=self._clock(),  # no thread waits longer than `model.timeout`; the probe shows how it goes
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            steps=answers,
            step_rows=answers,
            cache_hits=0,
            cache_misses=0,
            cache_bytes=0,
            cache_capacity=0,
            fault=None,
            away=self._standing.away,
        )

    @property
    def model(self) -> ModelInfo:
        if self._info is None:
            raise ModelError("the server was not found yet")
        return self._info
