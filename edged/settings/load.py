"""The only reader of the environment, of settings files and of credentials; gives one frozen `Settings`.

Strongest first: options that were set over MQTT, flags, environment, the settings file, systemd's credentials, defaults
of this machine.
"""

import os
import re
import socket
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from edged.errors import SettingsError
from edged.settings.faults import Given, is_service_link, unknown, wrong
from edged.settings.options import forbidden, options_file
from edged.settings.schema import ModelSettings, Settings
from edged.settings.text import ENVIRONMENT_PREFIX, NAMED, join, names, sections

OF_THE_SYSTEM = Path("/etc/edged/edged.toml")
_CREDENTIALS = {  # file -> setting
    "mqtt_username": "mqtt.username",
    "mqtt_password": "mqtt.password",
    "mqtt_tls_key_password": "mqtt.tls.key_password",
    "journal_url": "journal.url",
    "model_api_key": "model.api_key",
    "http_token": "http.token",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Systemd:
    """The variables that systemd sets for sd_notify and the watchdog; None outside systemd."""

    notify_socket: str | None
    watchdog_s: float | None


def systemd() -> Systemd:
    """Read what systemd put into the environment (sd_notify(3), sd_watchdog_enabled(3))."""
    watchdog = os.environ.get("WATCHDOG_USEC", "")
    is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return Systemd(
        notify_socket=os.environ.get("NOTIFY_SOCKET") or None,
        watchdog_s=int(watchdog) / 1e6 if watchdog.isdecimal() and is_ours else None,
    )


class ReadSettings(Protocol):
    """Reads all sources again; see `load_with_sources`."""

    def __call__(self, *, options: Mapping[str, Any] | None = None) -> "Loaded": ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """Settings, and where each value comes from."""

    settings: Settings
    given: Given


def load(
    *,
    flags: Mapping[str, str],
    config_file: Path | None,
    options: Mapping[str, Any] | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Settings:
    """The settings as by `load_with_sources`."""
    return load_with_sources(flags=flags, config_file=config_file, options=options, warn=warn).settings


def load_with_sources(
    *,
    flags: Mapping[str, str],
    config_file: Path | None,
    options: Mapping[str, Any] | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Loaded:
    """Read all sources.

    Args:
        flags: values by dotted name, e.g. `mqtt.host`.
        config_file: a TOML file that must be there; None takes $EDGED_CONFIG or the first of the usual places.
        options: used instead of those in the state folder, which are left out, with a warning, if they do not fit the
            other settings: a box must start that nobody is near.
        warn: gets a line about variables that look like settings and are not.

    Raises:
        SettingsError: settings are not known or not allowed; the message has a line for each, named as it was written.
    """
    path = settings_file(config_file)
    credentials = _credentials()
    given = Given(
        flags=flags,
        file={} if path is None else _read_toml(path),
        path=path,
        variables=os.environ,
        secrets={*_CREDENTIALS.values()},
        credentials={*credentials},
    )
    if links := sorted(name for name, value in os.environ.items() if is_service_link(name, value)):
        warn(
            f"the environment has variables of a service named like edged, which are no settings: {', '.join(links)} "
            "(Kubernetes: enableServiceLinks: false leaves them out)"
        )
    values = _values(given, credentials)
    if options is not None:
        return _with_options(values, given, options)
    loaded = _with_options(values, given, {})
    try:
        kept = read_options(loaded.settings.state_dir)
        return _with_options(values, given, kept) if kept else loaded
    except SettingsError as error:
        warn(f"what was set over MQTT is left out, because it does not fit the other settings: {error}")
        return loaded


def check(
    *, flags: Mapping[str, str], file: Mapping[str, Any] | None, path: Path | None, options: Mapping[str, Any]
) -> None:
    """Check a settings file and options that are not in their places yet.

    Args:
        flags: see `load_with_sources`.
        file: the content of a settings file; None: of the one at `path`.
        path: where the settings file is, or will be.
        options: that were set over MQTT.

    Raises:
        SettingsError: they are wrong.
    """
    if file is None:
        file = {} if path is None else _read_toml(path)
    credentials = _credentials()
    given = Given(
        flags=flags,
        file=file,
        path=path,
        variables=os.environ,
        secrets={*_CREDENTIALS.values()},
        credentials={*credentials},
    )
    _with_options(_values(given, credentials), given, options)


def _values(given: Given, credentials: Mapping[str, str]) -> dict[str, Any]:
    """The values of all sources but the options."""
    below = _merge(_merge(_machine_defaults(), _nest(credentials)), _known(given.file))
    flags = _nest({name: each for name, each in given.flags.items() if name in names()})
    return _merge(below, _merge(_known(_of_environment()), flags))


def read_options(state_dir: Path) -> dict[str, Any]:
    """The options that were set over MQTT; empty where there are none, or none that this user may read.

    Raises:
        SettingsError: the file is not valid TOML.
    """
    path = options_file(state_dir)
    return _read_toml(path) if os.path.isfile(path) else {}  # noqa: PTH113 - see settings_file


def _with_options(values: Mapping[str, Any], given: Given, options: Mapping[str, Any]) -> Loaded:
    given = replace(given, options=options)
    faults = [*unknown(given), *forbidden(options)]
    known = deepcopy(_known(options))
    settings, values_at_fault = _validated(_merge(_without_words_of_another(values, known), known), given)
    if settings is None or faults or values_at_fault:
        raise SettingsError("\n".join(faults + values_at_fault))
    return Loaded(settings=settings, given=given)


def _without_words_of_another(values: Mapping[str, Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of the other sources, less what they say of their own model where the options name another one."""
    model = values.get("model", {})
    its_name = model.get("id", ModelSettings.model_fields["id"].default)
    if "reads" not in model or options.get("model", {}).get("id", its_name) == its_name:
        return values
    return {**values, "model": {name: value for name, value in model.items() if name != "reads"}}


def _validated(values: dict[str, Any], given: Given) -> tuple[Settings | None, list[str]]:
    """Make the settings, or report all that is wrong with them.

    A rule for several settings is checked only if each of them is right by itself. So wrong settings are removed and
    the rest is checked again, until nothing new is found.
    """
    told: dict[str, str] = {}
    while True:
        try:
            settings = Settings.model_validate(values, context={"expand": _expand})
        except ValidationError as error:
            found = error.errors()
        else:
            return (None if told else settings), list(told.values())
        # Not raised from the pydantic error: it has the values, and its traceback would show secrets.
        new = {name: line for name, line in wrong(found, given).items() if not _follows(line, told)}
        told |= {name: line for name, line in new.items() if name not in told}
        taken_out = [_take_out(values, each["loc"]) for each in found]
        if not any(taken_out):
            return None, list(told.values())


def _follows(line: str, told: Iterable[str]) -> bool:
    """Whether a fault of several settings names one that was taken out for a fault of its own."""
    words = set(re.findall(r"[\w.]+", line))
    return any(words & {name, name.rpartition(".")[2]} for name in told)


def _take_out(values: dict[str, Any], location: Sequence[int | str]) -> bool:
    """Take the setting, task, route or group at a place out of the values; False if nothing is there to take."""
    at: Any = values
    path = list(location[:2]) if location[:1] and location[0] in NAMED else list(location)
    for depth, part in enumerate(path):
        if not isinstance(at, dict) or part not in at:
            return False
        if depth == len(path) - 1 or not isinstance(at[part], dict):
            del at[part]
            return True
        at = at[part]
    return False


def _expand(path: str) -> str:
    """Replace a leading `~` or `~user`.

    Raises:
        RuntimeError: that user has no home.
    """
    return str(Path(path).expanduser())


# --------------------------------------------------------------------------------------------------- the sources


def settings_file(named: Path | None) -> Path | None:
    """The file that is named, by the command line or the environment; else the first that is at a usual place.

    Raises:
        SettingsError: its name begins with the home of a user who is not there.
    """
    if named is None and os.environ.get("EDGED_CONFIG"):
        named = Path(os.environ["EDGED_CONFIG"])
    if named is not None:
        try:
            return named.expanduser()
        except RuntimeError:
            raise SettingsError(f"the settings file {named}: there is no such user") from None
    usual = (OF_THE_SYSTEM, _home() / ".config/edged/edged.toml")
    # os.path's: a folder that must not be looked into has no settings for us.
    return next((path for path in usual if os.path.isfile(path)), None)  # noqa: PTH113


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        written = path.read_bytes()
        if written.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise SettingsError(f"the settings file {path} is UTF-16; save it as UTF-8")
        return tomllib.loads(written.decode("utf-8-sig"))  # editors on Windows begin UTF-8 with a mark
    except OSError as error:
        raise SettingsError(f"the settings file {path}: {error.strerror}") from error
    except RecursionError:
        raise SettingsError(f"the settings file {path} is not valid TOML: it is nested too deeply") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {path} is not valid TOML: {error}") from error


def _credentials() -> dict[str, str]:
    """Secrets that systemd lays out as files (systemd.exec(5), LoadCredential=)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    found: dict[str, str] = {}
    for file, setting in _CREDENTIALS.items() if folder else ():
        path = Path(folder or "", file)
        try:
            secret = path.read_text(encoding="utf-8-sig").rstrip("\r\n")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SettingsError(f"the credential {path}: {error.strerror}") from error
        except UnicodeDecodeError:
            raise SettingsError(f"the credential {path} is not UTF-8") from None
        if secret:
            found[setting] = secret
    return found


def _of_environment() -> dict[str, Any]:
    """The settings among the variables of the environment, nested."""
    if not any(name.upper().startswith(ENVIRONMENT_PREFIX) for name in os.environ):
        return {}
    from edged.settings import environment  # noqa: PLC0415 - takes a twentieth of a start

    return environment.read()


def _machine_defaults() -> dict[str, Any]:
    return {
        "node": re.sub(r"[^\w.-]", "-", socket.gethostname()).strip("-") or "edge",
        "state_dir": _folder("STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state", "/var/lib/edged"),
        "model_dir": _folder("CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache", "/var/cache/edged"),
    }


def _folder(of_systemd: str, of_user: str, below_home: str, of_root: str) -> Path:
    """The folder that systemd names (systemd.exec(5)), else the system's for root and the user's own for others."""
    if os.environ.get(of_systemd):
        return Path(os.environ[of_systemd].split(":")[0])
    if os.geteuid() == 0 and not os.environ.get(of_user):
        return Path(of_root)
    return Path(os.environ.get(of_user) or _home() / below_home) / "edged"


def _home() -> Path:
    """The user's home; a service may have none."""
    return Path(os.environ.get("HOME") or "/nonexistent")


def _nest(dotted: Mapping[str, str]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in dotted.items():
        *groups, last = name.split(".")
        at = nested
        for group in groups:
            at = at.setdefault(group, {})
        at[last] = value
    return nested


def _merge(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(weak)
    for name, value in strong.items():
        is_group = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if is_group else value
    return merged


def _known(source: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """The values of a source that belong to known settings."""
    values: dict[str, Any] = {}
    for key, value in source.items():
        name = join(section, key)
        if name in sections():
            if isinstance(value, Mapping):
                values[key] = _known(value, name)
        elif name in names() or name in NAMED:
            values[key] = value
    return values
