"""Settings → parts: which engine, journal, topics and contract the settings ask for."""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from edged import logs
from edged.contract.requests import Contract
from edged.contract.topics import Topics
from edged.errors import SettingsError
from edged.journal.sqlite import SqliteJournal
from edged.models.store import Store
from edged.ports.engine import StoppableEngine
from edged.ports.journal import JournalLimits
from edged.settings.schema import Settings
from edged.tasks.specs import Tasks

if TYPE_CHECKING:
    from edged.engine import loading
    from edged.engine.loaded import Loaded
    from edged.journal.redis import RedisJournal


def topics_of(settings: Settings) -> Topics:
    """Where everything is on the broker by these settings."""
    return Topics(
        prefix=settings.prefix, node=settings.node, group=settings.mqtt.share_group, shards=settings.mqtt.shards
    )


def contract_of(settings: Settings, tasks: Tasks) -> Contract:
    """The contract with the outside that these settings make."""
    return Contract(
        topics=topics_of(settings),
        tasks=tasks,
        reply_topics=settings.mqtt.reply_topics,
        payload_bytes=settings.limits.payload_bytes,
        text_chars=settings.limits.text_chars,
    )


def make_engine(settings: Settings, tasks: Tasks) -> StoppableEngine:
    """The engine of the settings: on a model here, or on a server's."""
    if settings.model.backend == "remote":
        from edged.engine.remote.engine import RemoteEngine  # noqa: PLC0415 - brings an HTTP client

        return RemoteEngine(settings, tasks=tasks)
    # torch takes seconds to import, and an engine that is handed in needs none of it.
    from edged.engine import loading  # noqa: PLC0415
    from edged.engine.engine import Engine  # noqa: PLC0415

    logs.take_over_libraries()

    def load() -> "Loaded[Any]":
        return loading.load(plan_of(settings))

    return Engine(load, tasks=tasks)


def plan_of(settings: Settings) -> "loading.Plan":
    """What the settings say of the model.

    Raises:
        ModelUnavailable: it is not here.
    """
    from edged.engine import loading  # noqa: PLC0415 - see make_engine

    return loading.Plan(
        path=Store(settings.model_dir).path(settings.model.id, settings.model.revision),
        model=settings.model,
        engine=settings.engine,
        half_width=settings.half_width,
        cache_dir=settings.model_dir,
    )


def journal_of(settings: Settings, clock: Callable[[], float]) -> "SqliteJournal | RedisJournal":
    limits = JournalLimits(**settings.journal.model_dump(exclude={"url"}))
    if settings.journal.url is None or settings.mqtt.share_group is None:
        return SqliteJournal(settings.state_dir / "journal.db", limits)
    return shared_journal(settings, limits, clock)


def shared_journal(settings: Settings, limits: JournalLimits, clock: Callable[[], float]) -> "RedisJournal":
    """The journal of the group, at `journal.url`.

    Raises:
        SettingsError: that cannot be read, or what reads it is not installed.
    """
    url = settings.journal.url or SecretStr("")
    try:
        from edged.journal.redis import RedisJournal  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise SettingsError("journal.url needs the extra fleet: pip install 'edged[fleet]'") from error
    return RedisJournal(
        url.get_secret_value(),
        limits,
        group=f"{settings.prefix}/{settings.mqtt.share_group}",
        node=settings.node,
        clock=clock,
    )


def speed_mark(settings: Settings) -> str:
    """A mark of what it depends on how fast this box answers."""
    model = settings.model
    what = (model.backend, model.url, model.id, model.revision, model.format, model.device)
    return hashlib.sha256(repr((what, settings.engine.model_dump_json())).encode()).hexdigest()[:16]
