"""`edged run`: the daemon."""

import argparse
import sys
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from edged.commands.options import add_command, flags_of, settings_of
from edged.commands.quick_imports import quick_imports
from edged.errors import BrokerUnavailable, EdgedError, ExitCode, ModelUnavailable, NameTaken, SettingsError

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

    from edged.ports.engine import StoppableEngine
    from edged.settings.load import ReadSettings
    from edged.settings.schema import Settings
    from edged.tasks.specs import Tasks

_AT_TERMINAL_S = 1.5  # between lines that say that the model is being loaded
_IN_LOG_S = 15.0


def add(commands: Any) -> None:
    """Add the command to the parser."""
    example = "EDGED_NODE=kitchen edged run --config /etc/edged/edged.toml"
    add_command(commands, "run", _run, "serve until SIGTERM", example)


def _run(options: argparse.Namespace) -> ExitCode:
    with quick_imports():
        import structlog

        from edged import logs
        from edged.settings import load

    warnings: list[str] = []
    settings = settings_of(options, warn=warnings.append)
    logs.configure(settings.log.level, settings.log.format)
    log: BoundLogger = structlog.get_logger(__name__)
    for each in warnings:
        log.warning("settings", warning=each)
    loading = _Loading(log, settings.model.id)
    loading.start()
    try:
        read = partial(load.load_with_sources, flags=flags_of(options), config_file=options.config)
        return _serve(settings, read, loading)
    finally:
        loading.end()


def _serve(settings: "Settings", read_settings: "ReadSettings", loading: "_Loading") -> ExitCode:
    with quick_imports():
        from edged import build
        from edged.daemon import Daemon
        from edged.serving.model_trial import ModelTrial
        from edged.settings import load

    if missing := build.missing_extras(settings):
        raise SettingsError("\n".join(missing))

    def make_engine(settings: "Settings", tasks: "Tasks") -> "StoppableEngine":
        with quick_imports():
            engine = build.make_engine(settings, tasks, keeps_conversations=True)
        loading.watch(engine)
        return engine

    trial = ModelTrial(settings.state_dir, wall_clock=time.time)
    if trial.process_begins(settings.model.id):
        settings = read_settings().settings
    try:
        code = Daemon(settings, load.systemd(), read_settings=read_settings, make_engine=make_engine).run()
    except ModelUnavailable as error:
        if not trial.take_back(str(error)):
            raise
        loading.engine = None  # the model before is loaded now, and watched
        settings = read_settings().settings
        code = Daemon(settings, load.systemd(), read_settings=read_settings, make_engine=make_engine).run()
    except (BrokerUnavailable, NameTaken, SettingsError):  # not by the model's fault
        trial.process_ends()
        raise
    trial.process_ends()
    return code


class _Loading:
    """Logs again and again that the model is being loaded, in a thread, until it is or cannot be."""

    def __init__(self, log: "BoundLogger", model: str) -> None:
        self.engine: weakref.ref[StoppableEngine] | None = None  # its memory must not be kept by this
        self._log = log
        self._model = model
        self._ended = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self.tell, name="loading", daemon=True).start()

    def watch(self, engine: "StoppableEngine") -> None:
        """Tell of this engine, unless it is of another one."""
        if self.engine is None:
            self.engine = weakref.ref(engine)

    def end(self) -> None:
        self._ended.set()

    def tell(self) -> None:
        """Log until the model is there; for the thread."""
        begin = time.monotonic()
        interval = _AT_TERMINAL_S if sys.stderr.isatty() else _IN_LOG_S
        while not self._ended.wait(interval):
            try:
                engine = None if self.engine is None else self.engine()
                if engine is not None and engine.wait_ready(0.0):
                    return
            except EdgedError:  # the daemon waits for the engine too, and logs the reason
                return
            self._log.info("loading", model=self._model, seconds=round(time.monotonic() - begin))
