"""A daemon's engine, settings and models, without its worker: for the tests of changing the model."""

import threading
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from edged.build import contract_of
from edged.contract.commands import ModelOrder
from edged.contract.model_report import ModelReport
from edged.errors import ModelUnavailable, NotEnoughMemory
from edged.models.bundle_source import BundleSource
from edged.ports.engine import ModelInfo, Work, WorkEvent
from edged.serving.live_settings import LiveSettings
from edged.serving.model_trial import ModelTrial
from edged.serving.models import Models
from edged.serving.switchable import SwitchableEngine
from edged.settings.load import load_with_sources
from edged.settings.options import options_file
from edged.settings.schema import Settings
from edged.tasks.built_in import REPLY, SENTIMENT
from edged.tasks.canary import CANARY
from edged.tasks.specs import Tasks
from edged.testing import ScriptedEngine
from tests.support.waiting import eventually


class Memory:
    """Has room for so many models."""

    def __init__(self) -> None:
        self.room = 1000
        self.holders: set[int] = set()

    def take(self, model: "Model") -> None:
        if len(self.holders) >= self.room:
            raise NotEnoughMemory("the weights need more memory than is free", missing_bytes=1)
        self.holders.add(id(model))


class Model(ScriptedEngine):
    """A model by its name: `good…` labels all texts of the canary rightly, `poor…` half of them, `broken…` fails."""

    def __init__(self, name: str, *, auto: bool = True, memory: Memory | None = None) -> None:
        super().__init__(auto=auto)
        self.name = name
        self._memory = memory or Memory()
        self.is_stopped = False

    @property
    def model(self) -> ModelInfo:
        return replace(super().model, id=self.name, weight_bytes=1)

    def wait_ready(self, timeout: float | None = None) -> bool:
        if self.name.startswith("broken"):
            raise ModelUnavailable("the memory is too small")
        self._memory.take(self)
        return super().wait_ready(timeout)

    def stop(self, timeout: float = 10.0) -> None:
        super().stop(timeout)
        self.is_stopped = True
        self._memory.holders.discard(id(self))

    def submit(self, work: Work, on_event: Callable[[WorkEvent], None]) -> None:
        is_bad = any(text == work.text and label == "negative" for cases in CANARY.values() for text, label in cases)
        if work.key.startswith("canary/") and is_bad and self.name.startswith("good"):
            work = Work(key=work.key, spec=work.spec, text="bad", language=work.language)
        super().submit(work, on_event)
        if work.key.startswith("canary/") and not self.auto:
            self.finish(work.key)


class Store:
    """Models that are there, by name."""

    def __init__(self) -> None:
        self.fetched: list[tuple[BundleSource, str | None]] = []

    def pull(self, model_id: str, revision: str | None = None, *, show_progress: bool = True) -> object:
        assert not show_progress
        if model_id == "nowhere":
            raise ModelUnavailable("the hub has no such model")
        return revision

    def path(self, model_id: str, revision: str | None = None) -> object:
        if model_id == "nowhere":
            raise ModelUnavailable("the model nowhere is not here")
        return revision

    def fetch_bundle(
        self, source: BundleSource, name: str | None = None, *, check: Callable[[Path], object], show_progress: bool
    ) -> str:
        assert not show_progress
        check(Path())
        self.fetched.append((source, name))
        return name or source.name


class Box:
    """A daemon's engine, settings and models."""

    def __init__(self, folder: Path, *, auto: bool = True) -> None:
        self.folder = folder
        self.file = folder / "edged.toml"
        self.file.write_text("[model]\nid = 'good-1'\n")
        self.auto = auto
        self.wall = 1_700_000_000.0
        self.posted: list[Callable[[], None]] = []
        self.lock = threading.Lock()
        self.reports: list[ModelReport] = []
        self.made: list[Model] = []
        self.before_made: Callable[[], None] = lambda: None
        self.memory = Memory()
        self.store = Store()
        self.held: list[bool] = []
        self.told = 0
        self.start()

    def start(self) -> None:
        read = partial(load_with_sources, flags={"node": "box", "state_dir": str(self.folder)}, config_file=self.file)
        settings = read().settings
        self.memory.holders.clear()  # a process before this one has ended
        self.trial = ModelTrial(self.folder, wall_clock=lambda: self.wall)
        self.engine = SwitchableEngine(self.make(settings, Tasks([SENTIMENT, REPLY])))
        self.live = LiveSettings(
            settings, read=read, contract_of=contract_of, prepare=self.engine.prepare, post=self.post
        )
        self.engine.wait_ready()
        self.live.parts = (lambda _: setattr(self, "told", self.told + 1),)
        self.models = Models(
            engine=self.engine,
            live=self.live,
            make_engine=self.make,
            store=lambda _: self.store,
            try_out=lambda _, __: None,
            trial=self.trial,
            publish=self.reports.append,
            hold=self.held.append,
            post=self.post,
            clock=lambda: 0.0,
        )

    def make(self, settings: Settings, _: Tasks) -> Model:
        self.before_made()
        model = Model(settings.model.id, auto=self.auto or bool(self.made), memory=self.memory)
        model.reads = settings.model.reads or ()
        self.made.append(model)
        return model

    def post(self, function: Callable[[], None]) -> None:
        with self.lock:
            self.posted.append(function)

    def turn(self) -> None:
        while self.posted:
            with self.lock:
                function = self.posted.pop(0)
            function()

    def obey(self, action: str, model: str | None = None, **more: str) -> dict[str, Any]:
        answers: list[Any] = []
        self.models.obey(ModelOrder(action=action, id=model, **more), answers.append)
        return dict(answers[0])

    def until_done(self) -> ModelReport:
        def is_done() -> bool:
            self.turn()
            return not self.models.report().in_progress

        eventually(is_done)
        return self.reports[-1]

    def switch(self, model: str) -> ModelReport:
        assert self.obey("switch", model) == {"started": "switch", "id": model}
        return self.until_done()

    @property
    def kept(self) -> Mapping[str, Any]:
        path = options_file(self.folder)
        return tomllib.loads(path.read_text()) if path.exists() else {}
