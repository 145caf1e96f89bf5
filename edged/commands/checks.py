"""The checks of `edged check`: each tries one thing that a daemon needs, and says what to fix. Nothing is changed."""

import contextlib
import os
import queue
import shutil
import time
import uuid
from collections.abc import Callable

import psutil

from edged import extras, progress, state_files
from edged.build import plan_of, shared_journal, topics_of, wanted_extras
from edged.client import Client, wait_connected
from edged.commands import broker_check
from edged.errors import (
    BrokerUnavailable,
    EdgedError,
    ExitCode,
    FatalError,
    JournalFault,
    ModelUnavailable,
    SettingsError,
)
from edged.fleet.membership import nothing_shared
from edged.models.store import Store
from edged.monitoring import prometheus, system
from edged.mqtt.faults import address_of
from edged.mqtt.link import Link
from edged.ports.journal import Entry, JournalLimits
from edged.ports.link import Delivery, LinkState, Publication
from edged.settings.schema import Settings
from edged.tasks.built_in import SMALL
from edged.tasks.own import tasks_of

Say = Callable[[str], None]

_MIB = 1 << 20
_MIN_DISK_MB = 200
_RELEASED = 1767225600.0  # 2026-01-01: this release is newer, so a clock with an earlier time is wrong
_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.07, "int4": 0.59, "auto": 1.07}  # of a weight, with scales
_TRIED_H = 10 / 3600  # how long a trial entry stays in the journal
_CONNECT_S = 5.0
_STATUS_S = 0.5  # to wait for a daemon's retained status
_ANSWER_S = 60.0  # for the answer of a running daemon: on a slow box the queue may be long
_TORCH_MB = 350  # a process with torch and transformers in it


class _Warning(Exception):
    """The checked thing works, but not as well as it could; the message says why."""


def run(settings: Settings, *, timeout: float | None, say: Say) -> ExitCode:
    """Check clock, disk, CPU, model, memory, broker and one answer; for a group also the broker's and journal's
    sharing.

    Gives the exit code of the first fault.

    Args:
        settings: of the daemon in question.
        timeout: seconds for each connection, and for the answer; None: as long as it is likely to take.
        say: gets a line for each check.
    """
    say(f"ok    settings: node {settings.node}, prefix {settings.prefix}, broker {settings.mqtt.host}")
    here: tuple[tuple[str, Callable[[], str]], ...] = (
        ("cpu", lambda: _cpu(settings)),
        ("model", lambda: _model(settings)),
    )
    elsewhere = (("model", lambda: _server(settings, timeout or _ANSWER_S)),)
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("clock", _clock),
        ("disk", lambda: _disk(settings)),
        *(here if settings.model.backend == "local" else elsewhere),
    )
    wanted = wanted_extras(settings)
    if "extract" in wanted:
        checks += (("tasks", lambda: _extra("extract", wanted["extract"])),)
    if "metrics" in wanted:
        checks += (("metrics", lambda: _metrics(settings, wanted["metrics"])),)
    if "http" in wanted:
        checks += (("http", lambda: _http(settings, wanted["http"])),)
    if settings.journal.url is not None:
        checks += (("journal", lambda: _journal(settings)),)
    codes = [_try(name, check, say) for name, check in checks]
    codes.append(_broker(settings, timeout, say))
    return next(filter(None, codes), ExitCode.DONE)


def _try(name: str, check: Callable[[], str], say: Say) -> ExitCode:
    try:
        with progress.waiting(f"checking: {name}", lines=False):
            found = check()
        say(f"ok    {name}: {found}")
    except _Warning as warning:
        say(f"warn  {name}: {warning}")
    except FatalError as error:
        say(f"FAIL  {name}: {error}")
        return error.exit_code
    except EdgedError as error:
        say(f"FAIL  {name}: {error}")
        return ExitCode.BUG
    return ExitCode.DONE


def _clock() -> str:
    now = time.time()
    told = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < _RELEASED:
        raise SettingsError(
            f"it says {told}: certificates count as not yet valid, and results get a wrong time; let the box set it "
            "(timedatectl set-ntp true)"
        )
    return told


def _disk(settings: Settings) -> str:
    """Room for the journal, in a folder that can be written."""
    folder = settings.state_dir
    if fault := state_files.fault_of(folder):
        raise SettingsError(fault)
    free_mb = shutil.disk_usage(state_files.nearest(folder)).free // _MIB
    if free_mb < _MIN_DISK_MB:
        raise SettingsError(f"{folder} has {free_mb} MiB free; the journal may need {settings.journal.max_mb} MiB")
    return f"{folder}, {free_mb} MiB free"


def _user() -> str:
    return psutil.Process().username()


def _cpu(settings: Settings) -> str:
    """The threads, and the kernels that int8 and int4 run by."""
    from edged.engine import cores
    from edged.engine.decoders import native_library

    name = system.cpu_name()
    faults = []
    if cores.saves_power():
        faults.append("the governor powersave keeps it at its lowest frequency (cpupower frequency-set -g schedutil)")
    if settings.engine.max_temperature is not None and system.temperature() is None:
        faults.append("it does not tell its temperature, so engine.max_temperature has no effect")
    chosen = cores.choose(cores.read(), wanted=settings.engine.threads)
    told = f"{name}, {chosen.threads} threads ({chosen.reason})"
    if settings.engine.kernels == "torch":
        told += ", by torch's kernels (engine.kernels)"
    else:
        try:
            found = native_library.prospect(settings.model_dir / "kernels", kernels=settings.engine.kernels)
            told += f", by kernels for {found}"
        except native_library.NotBuilt as reason:
            faults.append(f"{reason}; int8 and int4 run by torch's kernels, several times slower")
    if faults:
        raise _Warning(f"{told}: {'; '.join(faults)}")
    return told


def _model(settings: Settings) -> str:
    """A model that can be opened, and the memory to hold it."""
    path = Store(settings.model_dir).path(settings.model.id, settings.model.revision)
    if not path.exists():
        raise ModelUnavailable(f"{path} does not exist")
    if not os.access(path, os.R_OK):
        raise ModelUnavailable(f"{path} may not be read by user {_user()}")
    from edged.engine.inspection import inspect

    found = inspect(plan_of(settings), tasks_of(settings.tasks, settings.languages))
    if found.memory is None:  # a model that transformers runs
        needed_mb, parts = round(found.parameters * _BYTES[settings.model.format] / _MIB) + _TORCH_MB, ""
    else:
        needed_mb, parts = round(found.memory.total / _MIB), f" ({found.memory})"
    free_mb = psutil.virtual_memory().available // _MIB
    told = (
        f"{settings.model.id} at {path}, {found.parameters / 1e6:.0f} million parameters{limits_of(found.parameters)}"
    )
    if needed_mb > free_mb:
        raise _Warning(
            f"{told}: needs up to {needed_mb} MiB of memory{parts}, and {free_mb} MiB are free (if its daemon runs, "
            "that has it already); a smaller model, EDGED_MODEL__FORMAT=int8 or EDGED_ENGINE__MEMORY_MB needs less"
        )
    return f"{told}, needs up to {needed_mb} MiB of {free_mb} MiB free{parts}"


def limits_of(parameters: int) -> str:
    """What a model of this size cannot do, in words to add to its name; nothing for a larger one."""
    if parameters >= SMALL:
        return ""
    return (
        " (so few give labels well, but only short, general replies: no facts to rely on, no long talk; "
        "edged eval measures your own tasks)"
    )


def _extra(extra: extras.Extra, why: str) -> str:
    """The library of an extra that a setting asks for."""
    if extras.is_missing(extra):
        raise SettingsError(f"{why}: {extras.how_to_install(extra)}")
    return f"the extra {extra} is installed: {why}"


def _metrics(settings: Settings, why: str) -> str:
    """A free port for `/metrics`, or one that the daemon of this name has already."""
    host, port = settings.metrics.host, settings.metrics.port
    told = _extra("metrics", why)
    try:
        prometheus.try_to_listen(host, port)
    except SettingsError:
        if not prometheus.is_served(host, port, node=settings.node):
            raise
        return f"{told}; the daemon serves {host}:{port}"
    return f"{told}; {host}:{port} is free"


def _http(settings: Settings, why: str) -> str:
    """A free port for OpenAI's API, or one that the daemon of this name has already."""
    host, port = settings.http.host, settings.http.port
    told = _extra("http", why)
    from edged.http import server

    try:
        server.listen(host, port).close()
    except SettingsError:
        if not server.is_served(host, port, node=settings.node):
            raise
        return f"{told}; the daemon serves {host}:{port}"
    return f"{told}; {host}:{port} is free"


def _server(settings: Settings, timeout: float) -> str:
    """A server that answers, and has the model."""
    from edged.engine.remote.server_check import try_server

    return try_server(settings, timeout=timeout)


def _broker(settings: Settings, timeout: float | None, say: Say) -> ExitCode:
    """The way to the broker, and one real answer through it."""
    with contextlib.ExitStack() as stack:

        def connect() -> str:
            client = stack.enter_context(Client(settings, timeout=timeout or _CONNECT_S))
            asking.append(client)
            user = f" as {settings.mqtt.username}" if settings.mqtt.username else ""
            return f"{client.where}, MQTT {client.protocol}{', TLS' if settings.mqtt.tls.is_on else ''}{user}"

        asking: list[Client] = []
        if code := _try("broker", connect, say):
            return code
        codes = (
            [_try("group", lambda: _group(settings, timeout or _CONNECT_S), say)] if settings.mqtt.share_group else []
        )
        is_served = asking[0].is_served(_STATUS_S)
        codes.append(_try("features", lambda: _features(settings, timeout or _CONNECT_S, is_served=is_served), say))
        patience = timeout or (_ANSWER_S if is_served else _CONNECT_S)
        say(f"wait  daemon: asked for one answer, for {patience:g} s at most")
        codes.append(_try("daemon", lambda: _answer(asking[0], patience), say))
        return next(filter(None, codes), ExitCode.DONE)


def _features(settings: Settings, timeout: float, *, is_served: bool) -> str:
    """What this broker can do of what the daemon uses."""
    found = broker_check.features(settings, timeout=timeout, is_served=is_served)
    if found.lacks:
        raise _Warning(f"the broker has {'; '.join(found.lacks)}")
    if found.in_flight is None:
        return "nothing that the broker lacks, as far as this user may try"
    return f"nothing that the broker lacks; {found.in_flight} messages without an ack"


def _group(settings: Settings, timeout: float) -> str:
    """A broker that shares: a message to a shared subscription comes back."""
    topics = topics_of(settings)
    name = f"edged-check-{uuid.uuid4().hex[:12]}"
    came: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    changes: queue.SimpleQueue[LinkState] = queue.SimpleQueue()
    link = Link(
        settings=settings.mqtt,
        client_id=name,
        subscriptions=(f"$share/{name}/{topics.probe}",),  # of nobody else: a box at work has its own
        will=None,
        receive_maximum=10,
        on_delivery=came.put,
        on_change=changes.put,
        ephemeral=True,
    )
    link.start()
    try:
        wait_connected(link, changes, where=address_of(settings.mqtt), timeout=timeout)
        link.publish(Publication(topic=topics.probe, payload=b"{}"))
        came.get(timeout=timeout)
        if link.state().protocol == "3.1.1":
            raise _Warning(
                f"{settings.mqtt.share_group}: MQTT 3.1.1 knows no session expiry, so the broker deals work to a dead "
                "box for as long as it keeps its session; a group wants a broker with MQTT 5"
            )
    except queue.Empty:
        raise nothing_shared(topics) from None
    finally:
        link.stop(None, 1.0)
    return f"{settings.mqtt.share_group}, a message by a shared subscription came back"


def _journal(settings: Settings) -> str:
    """The journal of the group: something is written to it and read, and is gone after a moment."""
    limits = JournalLimits(keep_hours=_TRIED_H, session_hours=_TRIED_H, max_mb=settings.journal.max_mb, keep_text=True)
    journal = shared_journal(settings, limits, time.monotonic)
    name, payload = f"edged-check-{uuid.uuid4().hex[:12]}", b"{}"
    entry = Entry(
        request_id=name, fingerprint=name, packet_id=None, payload=payload, session=None, turns=(), at=time.time()
    )
    begin = time.monotonic()
    try:
        journal.open()
        journal.record([entry])
        found = journal.find(name, name)
    except JournalFault as fault:
        raise SettingsError(
            f"{fault}; is journal.url right, does that server run, and may this user read, write and run scripts "
            f"there, with keys edged:{{{settings.prefix}/{settings.mqtt.share_group}}}:*?"
        ) from None
    finally:
        journal.close()
    if found is None or found.payload != payload:
        raise SettingsError("what was written at journal.url is not found there; is that one server, and no replica?")
    return f"written and read at journal.url in {1000 * (time.monotonic() - begin):.0f} ms"


def _answer(client: Client, timeout: float) -> str:
    body = client.ask("Hello", task="sentiment", timeout=timeout)
    if body["status"] != "ok":
        raise BrokerUnavailable(f"the daemon answers {body['error']['code']}: {body['error']['message']}")
    return f"{body['node']} answers with {body['model']} in {body['timings']['total_ms']:.0f} ms"
