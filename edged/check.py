"""`edged check`: tries what a daemon needs, one thing after the other, and says what to mend."""

import shutil
from collections.abc import Callable

from edged.client import Client
from edged.errors import BrokerUnavailable, EdgedError, ExitCode, FatalError, ModelUnavailable, SettingsError
from edged.models import Store
from edged.settings import Settings

Say = Callable[[str], None]

_MIN_DISK_MB = 200


def run(settings: Settings, *, timeout: float, say: Say) -> ExitCode:
    """Check settings, disk, model, broker and one answer; gives the exit code of the first fault."""
    say(f"ok    settings: node {settings.node}, prefix {settings.prefix}, broker {settings.mqtt.host}")
    code = ExitCode.DONE
    for name, check in (("disk", _disk), ("model", _model)):
        code = _try(name, lambda check=check: check(settings), say) or code  # type: ignore[misc]
    answer = _try("daemon", lambda: _answer(settings, timeout), say)
    return code or answer or ExitCode.DONE


def _try(name: str, check: Callable[[], str], say: Say) -> ExitCode:
    try:
        say(f"ok    {name}: {check()}")
    except FatalError as error:
        say(f"FAIL  {name}: {error}")
        return error.exit_code
    except EdgedError as error:
        say(f"FAIL  {name}: {error}")
        return ExitCode.BUG
    return ExitCode.DONE


def _disk(settings: Settings) -> str:
    """Room for the journal, in a folder that can be written."""
    folder = settings.state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / ".edged-check"
        probe.write_bytes(b"")
        probe.unlink()
        free_mb = shutil.disk_usage(folder).free >> 20
    except OSError as error:
        raise SettingsError(
            f"{folder}: {error.strerror}; set EDGED_STATE_DIR to a folder that can be written"
        ) from error
    if free_mb < _MIN_DISK_MB:
        raise SettingsError(f"{folder} has {free_mb} MiB free; the journal may need {settings.journal.max_mb} MiB")
    return f"{folder}, {free_mb} MiB free"


def _model(settings: Settings) -> str:
    path = Store(settings.model_dir).path(settings.model.id, settings.model.revision)
    if not path.exists():
        raise ModelUnavailable(f"{path} does not exist")
    return f"{settings.model.id} at {path}"


def _answer(settings: Settings, timeout: float) -> str:
    """One real answer through the broker."""
    with Client(settings, timeout=timeout) as client:
        body = client.ask("Hello", task="sentiment")
    if body["status"] != "ok":
        raise BrokerUnavailable(f"the daemon answers {body['error']['code']}: {body['error']['message']}")
    return f"{body['node']} answers with {body['model']} in {body['timings']['total_ms']:.0f} ms"
