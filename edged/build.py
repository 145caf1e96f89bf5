"""Makes the parts that the settings ask for: engine, journal, link, topics, contract, health and metrics."""

import contextlib
import hashlib
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from edged import __version__, extras, logs
from edged.contract.health import HealthReport
from edged.contract.owners import OwnerRule
from edged.contract.requests import Contract
from edged.contract.results import encode, rfc3339
from edged.contract.senders import SenderRule
from edged.contract.status import Identity, client_mark
from edged.contract.topics import Topics
from edged.engine import conversation_place
from edged.engine.conversation_place import Place
from edged.errors import SettingsError
from edged.journal.sqlite import SqliteJournal
from edged.models.store import Store
from edged.monitoring import system
from edged.monitoring.health import Health
from edged.monitoring.home_assistant import Discovery, births
from edged.monitoring.home_assistant import describe as describe_device
from edged.monitoring.metrics import Metrics
from edged.monitoring.parts import Parts
from edged.monitoring.probe import Prober, Probing
from edged.monitoring.prometheus import Exporter, exposition
from edged.monitoring.report import Reporter
from edged.mqtt.link import Link
from edged.ports.engine import Engine, StoppableEngine
from edged.ports.journal import JournalLimits
from edged.ports.link import Delivery, LinkState, Publication
from edged.settings.routes import rules_of
from edged.settings.schema import Settings
from edged.tasks.specs import Tasks

if TYPE_CHECKING:
    from edged.engine import loading
    from edged.engine.loaded import Loaded
    from edged.http.app import Answering
    from edged.http.server import HttpServer
    from edged.journal.redis import RedisJournal


_WHY_HTTP = "http.port needs the library uvicorn"
_WHY_FLEET = "journal.url needs the library redis"
_OVERSIZE = 16 << 20  # a payload that is too large by up to so many bytes is read, to answer with an error


def wanted_extras(settings: Settings) -> dict[extras.Extra, str]:
    """Name the optional libraries that these settings need, and which setting needs each."""
    extracting = [name for name, task in settings.tasks.items() if task.kind == "extract"]
    wanted: dict[extras.Extra, str] = {}
    if extracting and settings.model.backend == "local":
        wanted["extract"] = f"tasks.{extracting[0]} extracts, which needs the library llguidance"
    if settings.metrics.port:
        wanted["metrics"] = "metrics.port needs the library prometheus-client"
    if settings.http.port:
        wanted["http"] = _WHY_HTTP
    if settings.journal.url is not None:
        wanted["fleet"] = _WHY_FLEET
    return wanted


def missing_extras(settings: Settings) -> list[str]:
    """Name the libraries of `wanted_extras` that are missing: a line for each, with the command that installs it."""
    wanted = wanted_extras(settings)
    return [f"{why}: {extras.how_to_install(each)}" for each, why in wanted.items() if extras.is_missing(each)]


def topics_of(settings: Settings) -> Topics:
    """Make the topics of these settings."""
    return Topics(
        prefix=settings.prefix,
        node=settings.node,
        group=settings.mqtt.share_group,
        shards=settings.mqtt.shards,
        births=births(settings.homeassistant),
        rules=rules_of(settings.routes),
    )


def contract_of(settings: Settings, tasks: Tasks) -> Contract:
    """Make the limits that requests are checked against."""
    return Contract(
        topics=topics_of(settings),
        tasks=tasks,
        reply_topics=settings.reply_topics,
        payload_bytes=settings.limits.payload_bytes,
        text_chars=settings.limits.text_chars,
        sender=SenderRule.parse(settings.limits.sender),
        owners=OwnerRule(kind=settings.sessions.owner, name=settings.sessions.owner_property),
        requests_per_minute=settings.limits.requests_per_minute,
        tokens_per_day=settings.limits.tokens_per_day,
        hide_senders=settings.limits.hide_senders,
    )


def make_engine(settings: Settings, tasks: Tasks, *, keeps_conversations: bool = False) -> StoppableEngine:
    """Make the engine: with a model on this box, or with the model of a server.

    `keeps_conversations` is for the daemon alone: it takes the conversations that the daemon before it left.
    """
    if settings.model.backend == "remote":
        from edged.engine.remote.engine import RemoteEngine  # noqa: PLC0415 - brings an HTTP client

        return RemoteEngine(settings, tasks=tasks)
    # Imported here: torch takes seconds to import, and an engine that the caller brings does not need it.
    from edged.engine import loading  # noqa: PLC0415
    from edged.engine.cooling import Cooling  # noqa: PLC0415
    from edged.engine.engine import Engine  # noqa: PLC0415

    logs.take_over_libraries()

    def load() -> "Loaded[Any]":
        plan = plan_of(settings)
        return loading.load(replace(plan, conversations=conversations_of(settings)) if keeps_conversations else plan)

    limit = settings.engine.max_temperature
    cooling = None if limit is None else Cooling(limit, system.temperature)
    return Engine(load, tasks=tasks, cooling=cooling)


def try_out_bundle(settings: Settings, folder: Path) -> None:
    """See that the bundle in a folder can be served on this box.

    Raises:
        ModelUnavailable: it cannot.
    """
    from edged.engine import bundled  # noqa: PLC0415 - see make_engine

    bundled.refuse_without_kernels(settings.model_dir / "kernels")
    bundled.try_out(folder)


def plan_of(settings: Settings) -> "loading.Plan":
    """Read which model, format and device the settings choose.

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
        uses_own_calibration=settings.calibration == "own",
    )


def conversations_of(settings: Settings) -> Place | None:
    """Where conversations outlive the process; None where they do not.

    They do not where no text may be kept, nor where another box of a group could be told to forget them.
    """
    journal, most = settings.journal, settings.engine.keep_cache_mb
    if settings.model.backend == "remote" or not most or not journal.keep_text or journal.url is not None:
        return None
    return Place(
        path=settings.state_dir / conversation_place.NAME,
        most_bytes=most << 20,
        most_age_s=3600 * journal.session_hours,
    )


def discard_conversations(settings: Settings) -> None:
    """Delete what an earlier process kept of conversations, if that is not wanted any more."""
    if conversations_of(settings) is None:
        conversation_place.discard(settings.state_dir / conversation_place.NAME)


def route_filters(settings: Settings) -> tuple[str, ...]:
    """What the routes subscribe to, each filter once."""
    return tuple(dict.fromkeys(each for route in settings.routes.values() for each in route.subscribe))


def lossy_filters(settings: Settings) -> tuple[str, ...]:
    """Those of `route_filters` that no route wants at QoS 1."""
    kept = {each for route in settings.routes.values() if route.subscribe_qos for each in route.subscribe}
    return tuple(each for each in route_filters(settings) if each not in kept)


def journal_of(settings: Settings, clock: Callable[[], float]) -> "SqliteJournal | RedisJournal":
    limits = JournalLimits(
        **settings.journal.model_dump(include={"keep_hours", "session_hours", "max_mb", "keep_text"})
    )
    if settings.journal.url is None or settings.mqtt.share_group is None:
        return SqliteJournal(settings.state_dir / "journal.db", limits, sync=settings.journal.sync)
    return shared_journal(settings, limits, clock)


def shared_journal(settings: Settings, limits: JournalLimits, clock: Callable[[], float]) -> "RedisJournal":
    """Make the journal of the group, at `journal.url`.

    Raises:
        SettingsError: the URL cannot be read, or the library for it is not installed.
    """
    url = settings.journal.url or SecretStr("")
    try:
        from edged.journal.redis import RedisJournal  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise SettingsError(f"{_WHY_FLEET}: {extras.how_to_install('fleet')}") from error
    return RedisJournal(
        url.get_secret_value(),
        limits,
        group=f"{settings.prefix}/{settings.mqtt.share_group}",
        node=settings.node,
        clock=clock,
    )


def identity_of(settings: Settings) -> Identity:
    """Make the identity of a new start of the daemon."""
    return Identity(
        boot_id=uuid.uuid4().hex[:12],
        started=rfc3339(time.time()),
        version=__version__,
        client=client_mark(settings.client_id),
    )


def link_of(
    settings: Settings,
    topics: Topics,
    *,
    subscriptions: tuple[str, ...],
    identity: Identity,
    on_delivery: Callable[[Delivery], None],
    on_change: Callable[[LinkState], None],
) -> Link:
    """Make the daemon's connection to the broker, with its last will."""
    return Link(
        settings=settings.mqtt,
        client_id=settings.client_id,
        subscriptions=subscriptions,
        temporary=(topics.controls, *topics.members),
        at_qos_0=topics.members,  # a busy box must still receive the reports of the others
        shared=topics.shared,
        will=Publication(topic=topics.status, payload=encode(identity.last_will().body()), qos=1, retain=True),
        receive_maximum=settings.queue_capacity,
        maximum_packet_size=settings.limits.payload_bytes + _OVERSIZE,
        on_delivery=on_delivery,
        on_change=on_change,
    )


def discovery_of(
    settings: Settings,
    contract: Callable[[], Contract],
    *,
    link: Link,
    engine: Engine,
    report: Callable[[], HealthReport],
) -> Discovery:
    """Make the part that announces this box to Home Assistant; `contract` gives the one in force."""

    def device() -> dict[str, Any]:
        return describe_device(
            topics=contract().topics,
            tasks=contract().tasks,
            model=engine.model.id,
            version=__version__,
            report=report(),
        )

    return Discovery(
        settings=settings.homeassistant,
        topics=contract().topics,
        link=link,
        record=settings.state_dir / "homeassistant",
        describe=device,
    )


def health_of(
    settings: Settings,
    topics: Topics,
    identity: Identity,
    *,
    parts: Parts,
    metrics: Metrics,
    prober: Prober,
    group: Callable[[], Mapping[str, Any] | None],
    started: float,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
) -> Health:
    """Make the part that watches the others and publishes their state; `started` in monotonic seconds."""
    stall_after = settings.health.stall_after
    probing = Probing(prober, interval=settings.health.probe_interval, give_up_after=stall_after, clock=clock)
    reporter = Reporter(
        identity=identity,
        parts=parts,
        metrics=metrics,
        probing=probing,
        system=lambda: system.read(settings.state_dir),
        group=group,
        started=started,
        clock=clock,
        wall_clock=wall_clock,
    )
    return Health(
        topics=topics,
        identity=identity,
        parts=parts,
        probing=probing,
        reporter=reporter,
        stall_after=stall_after,
        interval=settings.health.interval,
        clock=clock,
        wall_clock=wall_clock,
    )


def listen(
    settings: Settings, *, contract: Callable[[], Contract], worker: "Answering", engine: Engine, health: Health
) -> contextlib.ExitStack:
    """Listen at the ports of the settings, for Prometheus and programs that speak OpenAI's API; health watches both.

    Returns:
        What ends that when it is closed.

    Raises:
        SettingsError: a library is missing, or it is not possible to listen there.
    """
    with contextlib.ExitStack() as opened:
        if settings.metrics.port:
            metrics = settings.metrics
            exporter = Exporter(host=metrics.host, port=metrics.port, node=settings.node, snapshot=health.snapshot)
            health.watch(exporter.fault)
            opened.callback(exporter.stop)
        if settings.http.port:
            server = _http_server(settings, contract=contract, worker=worker, engine=engine, health=health)
            server.start()
            health.watch(server.fault)
            opened.callback(server.stop)
        return opened.pop_all()


def _http_server(
    settings: Settings, *, contract: Callable[[], Contract], worker: "Answering", engine: Engine, health: Health
) -> "HttpServer":
    try:
        from edged.http.app import Sources, application  # noqa: PLC0415 - an extra
        from edged.http.server import HttpServer  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise SettingsError(f"{_WHY_HTTP}: {extras.how_to_install('http')}; or set http.port to 0") from error
    token = settings.http.token
    sources = Sources(
        worker=worker,
        contract=contract,
        model=lambda: engine.model.id,
        state=lambda: health.state,
        metrics=lambda: exposition(health.snapshot(), node=settings.node),
        node=settings.node,
        token=None if token is None else token.get_secret_value(),
    )
    return HttpServer(application(sources), host=settings.http.host, port=settings.http.port)


def speed_mark(settings: Settings) -> str:
    """Make a hash of all settings on which the speed of this box depends."""
    model = settings.model
    what = (model.backend, model.url, model.id, model.revision, model.format, model.device)
    return hashlib.sha256(repr((what, settings.engine.model_dump_json())).encode()).hexdigest()[:16]
