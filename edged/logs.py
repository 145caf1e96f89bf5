"""Configures logging, once: one event per line, JSON for machines, colour for people. Other modules only log.

Tracebacks are written without the values of variables, which may hold what users wrote, or a password.
"""

import logging
import sys
from collections.abc import Iterator
from typing import IO, Literal

import structlog
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SELF_WILLED = {"transformers", "huggingface_hub", "torch"}  # libraries that write to standard error by themselves
_MAX_FRAMES = 30

Level = Literal["debug", "info", "warning", "error"]


def configure(level: Level, form: Literal["auto", "json", "console"], stream: IO[str] | None = None) -> None:
    """Send all logs to `stream` (standard error): ours, those of the libraries, and Python's warnings.

    `auto` is colour on a terminal and JSON elsewhere. Of libraries that are imported later, see `take_over_libraries`.
    """
    out = stream or sys.stderr
    as_json = form == "json" or (form == "auto" and not out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                ProcessorFormatter.remove_processors_meta,
                *(_for_machines(out) if as_json else _for_people(colors=out.isatty())),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak only when something is wrong; their info lines may hold what users wrote.
    root.setLevel(logging.WARNING)
    take_over_libraries()
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    set_level(level)


def take_over_libraries() -> None:
    """Take their own streams from the libraries imported so far; to be called again when more have been."""
    for logger in _loggers_of(_SELF_WILLED):
        logger.handlers.clear()
        logger.propagate = True


def add_handler(handler: logging.Handler) -> None:
    """Have a further handler get our own events, from the level of `set_level` on; its records' `msg` is the event."""
    logging.getLogger("edged").addHandler(handler)


def remove_handler(handler: logging.Handler) -> None:
    """Take a handler away."""
    logging.getLogger("edged").removeHandler(handler)


def set_level(level: str) -> None:
    """Change the level of our own logs while running.

    Raises:
        ValueError: there is no such level; the message names those there are.
    """
    if level not in _LEVELS:
        raise ValueError(f"there is no level {level!r}; there are: {', '.join(_LEVELS)}")
    logging.getLogger("edged").setLevel(_LEVELS[level])


def _for_machines(out: IO[str]) -> list[Processor]:
    frames = ExceptionDictTransformer(show_locals=False, max_frames=_MAX_FRAMES)
    is_utf8 = (getattr(out, "encoding", None) or "utf-8").lower() == "utf-8"
    return [ExceptionRenderer(frames), JSONRenderer(ensure_ascii=not is_utf8)]


def _for_people(*, colors: bool) -> list[Processor]:
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]


def _loggers_of(libraries: set[str]) -> Iterator[logging.Logger]:
    """The loggers of `libraries` that have a stream of their own."""
    for logger in logging.root.manager.loggerDict.values():
        if not isinstance(logger, logging.Logger) or logger.name.partition(".")[0] not in libraries:
            continue
        # Not of a subclass: some of those only pass records to tools, with very low levels.
        if any(type(handler) is logging.StreamHandler for handler in logger.handlers):
            yield logger
