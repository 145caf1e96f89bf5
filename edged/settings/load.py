"""The only reader of the environment, of settings files and of credentials; gives one frozen `Settings`.

Strongest first: flags, environment, the settings file, systemd's credentials, defaults of this machine.
"""

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from edged.errors import SettingsError
from edged.settings.schema import Settings
from edged.settings.text import ENVIRONMENT_PREFIX, TASKS, join, names, sections, variable

_OF_THE_SYSTEM = Path("/etc/edged/edged.toml")
_CREDENTIALS = {  # file -> setting
    "mqtt_username": "mqtt.username",
    "mqtt_password": "mqtt.password",
    "mqtt_tls_key_password": "mqtt.tls.key_password",
    "journal_url": "journal.url",
    "model_api_key": "model.api_key",
}
_SECRET = {*_CREDENTIALS.values()}  # never repeated, not even when they are wrong
_OTHER_VARIABLES = re.compile(r"EDGED_(CONFIG|VENV|TEST_.*|MOSQUITTO.*)")  # ours, and no settings
_IN_ADDRESS = re.compile(r"(?<=//)[^@/]*@|(?<=['\"])[^@/]*@")  # user:password@host
_SHOWN = 80  # characters of a wrong value


@dataclass(frozen=True, kw_only=True, slots=True)
class Systemd:
    """How systemd wants to be spoken to; None outside of it."""

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


def load(*, flags: Mapping[str, str], config_file: Path | None) -> Settings:
    """Read all sources.

    Args:
        flags: values by dotted name, e.g. `mqtt.host`.
        config_file: a TOML file that must be there; None takes $EDGED_CONFIG or the first of the usual places.

    Raises:
        SettingsError: settings are not known or not allowed; the message has a line for each, named as it was written.
    """
    path = config_file or _usual_file()
    given = _Given(flags=flags, file=_read_toml(path) if path is not None else {}, path=path)
    if faults := list(_unknown(given)):
        raise SettingsError("\n".join(faults))
    below = _merge(_merge(_machine_defaults(), _nest(_credentials())), given.file)
    try:
        sourced = _Sourced(flags=_nest(flags), below=below)  # type: ignore[call-arg]
        return Settings.model_validate(dict(sourced))
    except ValidationError as error:
        found = error.errors()
    # Not from the error: it has the values, and a traceback of it would show secrets.
    raise SettingsError("\n".join(_wrong(found, given)))


# --------------------------------------------------------------------------------------------------- the sources


class _Sourced(Settings, BaseSettings):
    """Settings as pydantic-settings fills them."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        enable_decoding=False,  # a list comes as text; the schema splits it
        extra="forbid",
        frozen=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - named by the library
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # What `load` hands in has two strengths: flags stand above the environment, the file below it.
        given: dict[str, Any] = init_settings()
        flags = InitSettingsSource(settings_cls, init_kwargs=given["flags"])
        below = InitSettingsSource(settings_cls, init_kwargs=given["below"])
        return flags, env_settings, below


def _usual_file() -> Path | None:
    if os.environ.get("EDGED_CONFIG"):
        return Path(os.environ["EDGED_CONFIG"])
    usual = (_OF_THE_SYSTEM, _home() / ".config/edged/edged.toml")
    # os.path's: a folder that must not be looked into has no settings for us.
    return next((path for path in usual if os.path.isfile(path)), None)  # noqa: PTH113


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"the settings file {path} is not valid TOML: {error}") from error


def _credentials() -> dict[str, str]:
    """Secrets that systemd lays out as files (systemd.exec(5), LoadCredential=)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    found: dict[str, str] = {}
    for file, setting in _CREDENTIALS.items() if folder else ():
        path = Path(folder or "", file)
        try:
            found[setting] = path.read_text(encoding="utf-8").rstrip("\r\n")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SettingsError(f"the credential {path}: {error.strerror}") from error
        except UnicodeDecodeError:
            raise SettingsError(f"the credential {path} is not UTF-8") from None
    return found


def _machine_defaults() -> dict[str, Any]:
    return {
        "node": re.sub(r"[^\w.-]", "-", socket.gethostname()).strip("-") or "edge",
        "state_dir": _folder("STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state", "/var/lib/edged"),
        "model_dir": _folder("CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache", "/var/cache/edged"),
    }


def _folder(of_systemd: str, of_user: str, below_home: str, of_root: str) -> Path:
    """Where systemd says (systemd.exec(5)), else the system's place for root and the user's own for others."""
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


# --------------------------------------------------------------------------------------------- faults, in words


@dataclass(frozen=True, kw_only=True, slots=True)
class _Given:
    """What the user wrote, to name things as the user does."""

    flags: Mapping[str, str]
    file: Mapping[str, Any]
    path: Path | None

    def origin(self, name: str) -> str:
        """Where the value in force of this setting was written."""
        if name in self.flags:
            return f"--set {name}"
        for each in os.environ:
            if each.upper() == variable(name):
                return each
        if name in dict(_leaves(self.file)) or name.startswith(f"{TASKS}."):
            return f"{name} in {self.path}"
        return name


def _leaves(table: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a settings file by dotted name; a group that is not known counts as a value."""
    for key, value in table.items():
        name = join(section, key)
        if name in sections() and isinstance(value, Mapping):
            yield from _leaves(value, name)
        else:
            yield name, value


def _unknown(given: _Given) -> Iterator[str]:
    """Names that are no settings: pydantic-settings overlooks some, and a slip must not pass in silence."""
    known = names()
    for flag in given.flags:
        if flag not in known:
            yield f"--set {flag} is no setting of edged{_meant(flag, known)}"
    variables = [variable(name) for name in known]
    for each in os.environ:
        name = each.upper()
        if name.startswith(ENVIRONMENT_PREFIX) and not _OTHER_VARIABLES.fullmatch(name) and name not in variables:
            yield f"the environment variable {each} is no setting of edged{_meant(name, variables)}"
    for name, _ in _leaves(given.file):
        if name in sections():
            yield f"{name} in {given.path} is a group of settings, not a value: write [{name}] above them"
        elif name not in known and name != TASKS:
            yield f"{name} in {given.path} is no setting of edged{_meant(name, [*known, *sections()])}"


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; `edged config --example` lists all"


def _wrong(faults: Iterable[ErrorDetails], given: _Given) -> Iterable[str]:
    """Values that are not allowed: where each was written, the value unless it is a secret, and the rule."""
    told: dict[str, str] = {}
    for each in sorted(faults, key=_says_little):
        name = _setting_at(each["loc"])
        rule = each["msg"].removeprefix("Value error, ")
        rule = (
            "kind is missing: classify, generate, extract or compose" if each["type"] == "union_tag_not_found" else rule
        )
        rule = rule[:1].lower() + rule[1:]
        value = each["input"]
        if name in sections():
            line = f"{name}: {rule}" if name else rule
        elif name in _SECRET or isinstance(value, Mapping):
            line = f"{given.origin(name)} is not allowed: {rule}"
        else:
            shown = _IN_ADDRESS.sub("***@", repr(value))[:_SHOWN]
            line = f"{given.origin(name)} = {shown} is not allowed: {rule}"
        told.setdefault(name, line)  # what else is said of the same value follows from the first
    return told.values()


def _says_little(fault: ErrorDetails) -> bool:
    """Whether it is that a value of a task is of another type: where it may be of several, the others say more."""
    return fault["loc"][:1] == (TASKS,) and fault["type"].endswith("_type")


def _setting_at(location: tuple[int | str, ...]) -> str:
    """The setting or section that a place in the data belongs to."""
    path = [str(part) for part in location]
    if path[:1] == [TASKS]:
        # The third is the kind that was given; among the rest are types that a value was tried as.
        return ".".join(path[:2] + [part for part in path[3:] if re.fullmatch(r"\w+", part)])
    while path and ".".join(path) not in (*names(), *sections()):
        path.pop()  # a number in a list, or a part of a union
    return ".".join(path)
