"""OpenAI's API in this process: the real server and worker, with an engine by rule and a link without a broker."""

import time
from dataclasses import dataclass, field
from typing import Any

import openai

from edged.contract.requests import Contract
from edged.contract.status import State
from edged.contract.topics import Topics
from edged.http.app import Sources, application
from edged.http.server import HttpServer
from edged.monitoring.metrics import Metrics
from edged.ports.engine import TextDelta, Work
from edged.serving.languages import LanguageRule
from edged.serving.worker import Worker
from edged.tasks.built_in import BUILT_IN
from edged.testing import FakeLink, MemoryJournal, ScriptedEngine
from tests.support.broker import free_port
from tests.support.waiting import TIMEOUT, eventually

PAYLOAD_BYTES = 65_536


@dataclass(slots=True)
class Door:
    """The server with all that is behind it.

    Attributes:
        state: what the daemon's state is said to be.
    """

    token: str | None = None
    auto: bool = True
    capacity: int = 64
    state: State = State.READY
    port: int = field(default_factory=free_port)
    engine: ScriptedEngine = field(init=False)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    worker: Worker = field(init=False)
    _server: HttpServer = field(init=False)
    _clients: list[openai.OpenAI] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine = ScriptedEngine(auto=self.auto, clock=time.monotonic)
        contract = Contract(
            topics=Topics(prefix="edged", node="box"),
            tasks=BUILT_IN,
            reply_topics=("edged/#",),
            payload_bytes=PAYLOAD_BYTES,
            text_chars=60_000,
        )
        self.worker = Worker(
            contract=contract,
            engine=self.engine,
            link=FakeLink(),
            journal=self.journal,
            metrics=Metrics(),
            capacity=self.capacity,
            languages=LanguageRule(),
            on_control=lambda *_: None,
        )
        sources = Sources(
            worker=self.worker,
            contract=lambda: contract,
            model=lambda: "scripted",
            state=lambda: self.state,
            metrics=lambda: b"edged_up 1\n",
            node="box",
            token=self.token,
        )
        self._server = HttpServer(application(sources), host="127.0.0.1", port=self.port)

    def start(self) -> None:
        self.worker.start()
        self._server.start()

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self._server.stop()
        self.worker.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **more: Any) -> openai.OpenAI:
        """A client that is closed when the server stops."""
        self._clients.append(openai.OpenAI(**self.how(more)))
        return self._clients[-1]

    def async_client(self, **more: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**self.how(more))

    def how(self, more: dict[str, Any]) -> dict[str, Any]:
        key = self.token or "none"
        return {"base_url": f"{self.url}/v1", "api_key": key, "max_retries": 0, "timeout": TIMEOUT, **more}

    def wait_jobs(self, number: int) -> None:
        """Wait until so many requests are in hand, and the engine has work if there is any."""
        eventually(
            lambda: self.worker.state().jobs == number and bool(self.engine.state().running) == bool(number),
            f"{number} jobs",
        )

    def begun(self) -> Work:
        """The oldest work that the engine has; for `auto=False`."""
        eventually(lambda: self.engine.state().running > 0, "work")
        return next(iter(self.engine._open.values()))[0]

    def say(self, text: str) -> None:
        """Let the engine stream a piece of the oldest work's text."""
        work = self.begun()
        self.engine._open[work.key][1](TextDelta(key=work.key, text=text))
