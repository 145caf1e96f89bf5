"""Options: the settings that were changed over MQTT, which are kept in a file of the state folder. Pure.

Options are the strongest source of settings. They cannot hold a secret, and they cannot change how the box is reached,
where its files are or to whom its secrets are sent: a wrong value would lock out whoever sent it.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edged.settings.text import NAMED, join, plain_fields, sections, toml_of

FILE = "options.toml"
_HEAD = """\
# Settings that were changed over MQTT, by R/request/options. The daemon writes this file. You may edit or delete it;
# then run `edged check`, and reload or restart the daemon.
# The strongest source of a setting is this file; then come flags (--set), the environment, the settings file, systemd's
# credentials and the defaults. `edged config --show` tells the source of each value.

"""
_ON_THE_BOX = (
    "node",
    "prefix",
    "state_dir",
    "model_dir",
    "mqtt",
    "http",
    "metrics",
    "sessions",
    "models",
    "model.backend",
    "model.url",
    "model.proxy",
)
_FREE = frozenset({"mqtt.reply_topics"})


def options_file(state_dir: Path) -> Path:
    """Where the options of a daemon with this state folder are."""
    return state_dir / FILE


def patched(options: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a JSON Merge Patch (RFC 7396): objects are merged, null takes a value out, all else replaces a value."""
    merged = dict(options)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            below = merged.get(name)
            merged[name] = patched(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[name] = value
    return _without_empty(merged)


def _without_empty(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table without groups in which nothing is left."""
    return {name: value for name, value in table.items() if value != {}}


def options_text(options: Mapping[str, Any]) -> str:
    """The content of the file.

    Raises:
        ValueError: an option has a value that TOML cannot hold.
    """
    text = _HEAD + toml_of(options)
    try:
        is_same = tomllib.loads(text) == options
    except tomllib.TOMLDecodeError:
        is_same = False
    if not is_same:
        raise ValueError("an option has a value that a settings file (TOML) cannot hold, as a null in a list")
    return text


def forbidden(options: Mapping[str, Any]) -> Iterator[str]:
    """A line for each option that may be set on the box only."""
    for name in _names(options):
        at_home = any(name == each or name.startswith(f"{each}.") for each in _ON_THE_BOX) and name not in _FREE
        if name in secrets():
            yield f"option {name} is a secret: it is set on the box only"
        elif at_home:
            yield (
                f"option {name} is set on the box only: it decides how the box is reached, where its files are, or to "
                "whom its secrets are sent"
            )


def _names(table: Mapping[str, Any], section: str = "") -> Iterator[str]:
    for key, value in table.items():
        name = join(section, key)
        if isinstance(value, Mapping) and name in sections():
            yield from _names(value, name)
        elif name not in NAMED:
            yield name


def without_secrets(table: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as nested tables, without those that are secret."""
    return _chosen(table, lambda name: name not in secrets())


def only_secrets(table: Mapping[str, Any]) -> dict[str, Any]:
    """Of settings as nested tables those that are secret."""
    return _chosen(table, lambda name: name in secrets())


def _chosen(table: Mapping[str, Any], is_wanted: Callable[[str], bool], section: str = "") -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for key, value in table.items():
        name = join(section, key)
        if isinstance(value, Mapping) and name in sections():
            if inner := _chosen(value, is_wanted, name):
                chosen[key] = inner
        elif is_wanted(name):
            chosen[key] = value
    return chosen


def secrets() -> frozenset[str]:
    """The names of the settings whose values are secret."""
    return frozenset(
        join(section, name)
        for section, kind in sections().items()
        for name, field in plain_fields(kind).items()
        if "SecretStr" in str(field.annotation)
    )
