"""The only reader of the environment, of settings files and of credentials; gives one frozen `Settings`.

Strongest first: flags, environment, the settings file, systemd's credentials, defaults of this machine.
"""

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from edged.errors import SettingsError
from edged.settings import Settings

_PREFIX = "EDGED_"
_CREDENTIALS = {"mqtt_username": "username", "mqtt_password": "password"}
# Ours, and no settings.
_OTHER_VARIABLES = re.compile(r"EDGED_(CONFIG|VENV|TEST_.*|MOSQUITTO.*)")


class _Sourced(Settings, BaseSettings):
    """Settings as pydantic-settings fills them."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        enable_decoding=False,  # lists come as comma-separated text; the schema splits them
        env_ignore_empty=False,
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
        flags = InitSettingsSource(settings_cls, init_kwargs=given.get("flags", {}))
        below = InitSettingsSource(settings_cls, init_kwargs=given.get("below", {}))
        return flags, env_settings, below


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
        notify_socket=os.environ.get("NOTIFY_SOCKET"),
        watchdog_s=int(watchdog) / 1e6 if watchdog.isdigit() and is_ours else None,
    )


def load(*, flags: Mapping[str, str], config_file: Path | None) -> Settings:
    """Read all sources.

    Args:
        flags: values by dotted name, e.g. `mqtt.host`.
        config_file: a TOML file that must be there; None takes $EDGED_CONFIG or the first of the usual places.

    Raises:
        SettingsError: a setting is not known or not allowed; the message names it as it was written.
    """
    path = config_file or _usual_file()
    from_file = _read_toml(path) if path is not None else {}
    _check_variables()
    nested_flags = _nest(flags)
    below = _merge(_merge(_machine_defaults(), {"mqtt": _credentials()}), from_file)
    try:
        sourced = _Sourced(flags=nested_flags, below=below)  # type: ignore[call-arg]
        return Settings.model_validate(dict(sourced))
    except ValidationError as error:
        raise SettingsError(_explain(error, nested_flags, from_file, path)) from error


def example() -> str:
    """A settings file with every setting, its meaning and its default, all commented out."""
    lines = [
        "# edged: every setting with its default. Remove the # of what you change.",
        "# Each can be given as an environment variable too: EDGED_NODE, EDGED_MQTT__HOST, EDGED_MODEL__ID, ...",
        "",
    ]
    for name, field in _plain_fields(Settings):
        lines += _example_of(name, field)
    for path, section in _sections(Settings):
        lines += [f"[{path}]", f"# {' '.join((section.__doc__ or '').split())}", ""]
        for name, field in _plain_fields(section):
            lines += _example_of(name, field)
    return "\n".join(lines)


def show(settings: Settings) -> str:
    """The settings in force as TOML, secrets masked."""
    lines = [f"{name} = {_toml(getattr(settings, name))}" for name, _ in _plain_fields(Settings)]
    for path, section in _sections(Settings):
        values: Any = settings
        for part in path.split("."):
            values = getattr(values, part)
        given = [(name, getattr(values, name)) for name, _ in _plain_fields(section)]
        lines += ["", f"[{path}]"]
        lines += [f"# {name} is not set" if value is None else f"{name} = {_toml(value)}" for name, value in given]
    return "\n".join(lines) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of the settings file."""
    return Settings.model_json_schema()


# --------------------------------------------------------------------------------------------------- the sources


def _usual_file() -> Path | None:
    if os.environ.get("EDGED_CONFIG"):
        return Path(os.environ["EDGED_CONFIG"])
    usual = (Path("/etc/edged/edged.toml"), _home() / ".config/edged/edged.toml")
    return next((path for path in usual if path.is_file()), None)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {path} is not valid TOML: {error}") from error


def _credentials() -> dict[str, str]:
    """Secrets that systemd lays out as files (systemd.exec(5), LoadCredential=)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return {}
    found: dict[str, str] = {}
    for file, setting in _CREDENTIALS.items():
        path = Path(folder) / file
        if path.is_file():
            found[setting] = path.read_text(encoding="utf-8").rstrip("\r\n")
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
        if isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            merged[name] = _merge(merged[name], value)
        else:
            merged[name] = value
    return merged


# --------------------------------------------------------------------------------------------- faults, in words


def _check_variables() -> None:
    """pydantic-settings overlooks variables that fit no setting; a typing mistake must not pass in silence."""
    known = [_variable(name) for name in _names()]
    for name in os.environ:
        if not name.upper().startswith(_PREFIX) or _OTHER_VARIABLES.fullmatch(name.upper()):
            continue
        if name.upper() not in known:
            raise SettingsError(f"the environment variable {name} is no setting of edged{_meant(name.upper(), known)}")


def _explain(error: ValidationError, flags: Mapping[str, Any], file: Mapping[str, Any], path: Path | None) -> str:
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    known = {*_names(), *(path for path, _ in _sections(Settings))}
    while location and ".".join(location) not in known and first["type"] != "extra_forbidden":
        location.pop()  # an index, or a part of a union
    name = ".".join(location)
    where = _origin(location, flags, file, path)
    if first["type"] == "extra_forbidden":
        return f"{where} is no setting of edged{_meant(name, list(_names()))}"
    message = first["msg"].removeprefix("Value error, ")
    is_secret = any(part in name for part in ("password", "username"))
    value = "" if is_secret or isinstance(first["input"], Mapping | BaseModel) else f" = {first['input']!r}"
    return f"{where}{value} is not allowed: {message[:1].lower()}{message[1:]}"


def _origin(location: list[str], flags: Mapping[str, Any], file: Mapping[str, Any], path: Path | None) -> str:
    """The setting as the user wrote it."""
    name = ".".join(location)
    if _has(flags, location):
        return f"--set {name}"
    variable = next((each for each in os.environ if each.upper() == _variable(name)), None)
    if variable is not None:
        return variable
    if _has(file, location):
        return f"{name} in {path}"
    return name


def _has(values: Any, location: list[str]) -> bool:
    for part in location:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _variable(name: str) -> str:
    return _PREFIX + name.replace(".", "__").upper()


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; `edged config --example` lists all"


# ------------------------------------------------------------------------------------------------- the schema


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _plain_fields(section: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    return ((name, field) for name, field in section.model_fields.items() if _section_of(field) is None)


def _sections(section: type[BaseModel], above: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in section.model_fields.items():
        inner = _section_of(field)
        if inner is not None:
            yield f"{above}{name}", inner
            yield from _sections(inner, f"{above}{name}.")


def _names() -> list[str]:
    """Every setting's dotted name."""
    names = [name for name, _ in _plain_fields(Settings)]
    return names + [f"{path}.{name}" for path, section in _sections(Settings) for name, _ in _plain_fields(section)]


def _example_of(name: str, field: FieldInfo) -> list[str]:
    default = field.get_default()
    value = f"# {name} = {_toml(default)}" if default is not None else f"# {name} is not set"
    return [f"# {field.description}", value, ""]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, SecretStr):
        return '"***"'
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
