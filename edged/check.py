"""`edged check`: tries what a daemon needs, one thing after the other, and says what to mend. Changes nothing."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable

import psutil

from edged import system
from edged.client import Client
from edged.errors import BrokerUnavailable, EdgedError, ExitCode, FatalError, ModelUnavailable, SettingsError
from edged.models import Store
from edged.settings import Settings
from edged.tasks import Tasks

Say = Callable[[str], None]

_MIB = 1 << 20
_MIN_DISK_MB = 200
_RELEASED = 1767225600.0  # 2026-01-01: no clock of a box with this release is right before
_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.07, "int4": 0.65, "auto": 1.07}  # of a weight, with scales
_TORCH_MB = 350  # a process with torch and transformers in it


class _Warning(Exception):
    """It works, but not as well as it could; the message says why."""


def run(settings: Settings, *, timeout: float, say: Say) -> ExitCode:
    """Check clock, disk, CPU, model, memory, broker and one answer; gives the exit code of the first fault.

    Args:
        settings: of the daemon in question.
        timeout: seconds for the connection, and for the answer.
        say: gets a line for each check.
    """
    say(f"ok    settings: node {settings.node}, prefix {settings.prefix}, broker {settings.mqtt.host}")
    here: tuple[tuple[str, Callable[[], str]], ...] = (
        ("cpu", lambda: _cpu(settings)),
        ("model", lambda: _model(settings)),
    )
    elsewhere = (("model", lambda: _server(settings, timeout)),)
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("clock", _clock),
        ("disk", lambda: _disk(settings)),
        *(here if settings.model.backend == "local" else elsewhere),
    )
    codes = [_try(name, check, say) for name, check in checks]
    codes.append(_broker(settings, timeout, say))
    return next(filter(None, codes), ExitCode.DONE)


def _try(name: str, check: Callable[[], str], say: Say) -> ExitCode:
    try:
        say(f"ok    {name}: {check()}")
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
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    for each in (there, *(folder.glob("journal.db*") if there == folder else ())):
        if not os.access(each, os.R_OK | os.W_OK):
            raise SettingsError(
                f"{each} may not be written by user {_user()}; run this as the daemon's user, or set EDGED_STATE_DIR "
                "to a folder of its own"
            )
    if not there.is_dir():
        raise SettingsError(f"{there} is no folder; set EDGED_STATE_DIR to one that can be written")
    free_mb = shutil.disk_usage(there).free // _MIB
    if free_mb < _MIN_DISK_MB:
        raise SettingsError(f"{folder} has {free_mb} MiB free; the journal may need {settings.journal.max_mb} MiB")
    return f"{folder}, {free_mb} MiB free"


def _user() -> str:
    return psutil.Process().username()


def _cpu(settings: Settings) -> str:
    """The kernels that int8 and int4 run by."""
    from edged.engine import native  # noqa: PLC0415 - imports no torch, but what it needs

    name = system.cpu_name()
    if settings.engine.kernels == "torch":
        return f"{name}, by torch's kernels (engine.kernels)"
    try:
        return f"{name}, by kernels for {native.prospect(settings.model_dir / 'kernels')}"
    except native.NotBuilt as reason:
        raise _Warning(f"{name}: {reason}; int8 and int4 run by torch's kernels, several times slower") from None


def _model(settings: Settings) -> str:
    """A model that can be opened, and the memory to hold it."""
    path = Store(settings.model_dir).path(settings.model.id, settings.model.revision)
    if not path.exists():
        raise ModelUnavailable(f"{path} does not exist")
    if not os.access(path, os.R_OK):
        raise ModelUnavailable(f"{path} may not be read by user {_user()}")
    from edged.engine.checkpoint import open_checkpoint  # noqa: PLC0415 - torch and transformers take seconds

    parameters = open_checkpoint(path).parameters
    needed_mb = round(parameters * _BYTES[settings.model.format] / _MIB) + _TORCH_MB
    free_mb = psutil.virtual_memory().available // _MIB
    told = f"{settings.model.id} at {path}, {parameters / 1e6:.0f} million parameters"
    if needed_mb > free_mb:
        raise _Warning(
            f"{told}: needs about {needed_mb} MiB of memory, and {free_mb} MiB are free (if its daemon runs, that has "
            "it already); a smaller model or EDGED_MODEL__FORMAT=int8 needs less"
        )
    return f"{told}, needs about {needed_mb} MiB of {free_mb} MiB free"


def _server(settings: Settings, timeout: float) -> str:
    """A server that answers, and has the model."""
    from edged.remote import RemoteEngine  # noqa: PLC0415 - wanted here alone

    engine = RemoteEngine(settings, tasks=Tasks(()))
    engine.start()
    try:
        if not engine.wait_ready(timeout):
            raise ModelUnavailable(f"{settings.model.url} does not answer; is that its address, and does it run?")
        return f"{engine.model.id} at {settings.model.url}"
    finally:
        engine.stop(timeout)


def _broker(settings: Settings, timeout: float, say: Say) -> ExitCode:
    """The way to the broker, and one real answer through it."""
    with contextlib.ExitStack() as stack:

        def connect() -> str:
            client = stack.enter_context(Client(settings, timeout=timeout))
            asking.append(client)
            user = f" as {settings.mqtt.username}" if settings.mqtt.username else ""
            return f"{client.where}, MQTT {client.protocol}{', TLS' if settings.mqtt.tls.is_on else ''}{user}"

        asking: list[Client] = []
        return _try("broker", connect, say) or _try("daemon", lambda: _answer(asking[0]), say)


def _answer(client: Client) -> str:
    body = client.ask("Hello", task="sentiment")
    if body["status"] != "ok":
        raise BrokerUnavailable(f"the daemon answers {body['error']['code']}: {body['error']['message']}")
    return f"{body['node']} answers with {body['model']} in {body['timings']['total_ms']:.0f} ms"
