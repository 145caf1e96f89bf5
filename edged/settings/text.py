"""Settings as text: their names, an example file, the values in force, the schema. Pure; all made from `schema.py`.

Never shows a secret.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from edged.settings import routes as route_settings
from edged.settings.schema import Settings
from edged.tasks import own as task_settings
from edged.tasks.languages import own as language_settings

ENVIRONMENT_PREFIX = "EDGED_"
TASKS = "tasks"
ROUTES = "routes"
LANGUAGES = "languages"
NAMED = (TASKS, ROUTES, LANGUAGES)  # tables whose names are the user's
BY_MACHINE = ("node", "state_dir", "model_dir")  # their defaults depend on the box
_MASK = "***"
_HEAD = """\
# edged: every setting with its default. To change one, remove the # before its name.
# Each can be given in the environment too, as EDGED_NODE or EDGED_MQTT__HOST, where it is stronger than here.
"""


def sections() -> dict[str, type[BaseModel]]:
    """The groups of settings by dotted name, in order; the first has no name and holds the settings without a group."""
    return dict(_sections(Settings, ""))


def names() -> list[str]:
    """Every setting's dotted name, as in `mqtt.tls.ca`."""
    return [join(section, name) for section, kind in sections().items() for name in plain_fields(kind)]


def join(section: str, name: str) -> str:
    """The dotted name of a setting in a section."""
    return f"{section}.{name}" if section else name


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return ENVIRONMENT_PREFIX + name.replace(".", "__").upper()


def example() -> str:
    """A settings file (TOML) with every setting, its meaning, what is allowed, and its default, all commented out."""
    blocks = [_HEAD]
    for section, kind in sections().items():
        if section:
            blocks.append(f"[{section}]\n# {' '.join((kind.__doc__ or '').split())}\n")
        allowed = kind.model_json_schema()["properties"]
        for name, field in plain_fields(kind).items():
            default = None if join(section, name) in BY_MACHINE else field.get_default()
            setting = f"# {name} =" if default is None else f"#{name} = {_toml(default)}"
            blocks.append(f"# {' '.join([field.description or '', *_bounds(allowed[name])])}\n{setting}\n")
    return "\n".join([*blocks, task_settings.EXAMPLE, route_settings.EXAMPLE, language_settings.EXAMPLE])


def show(settings: Settings, source: Callable[[str], str | None] = lambda _: None) -> str:
    """The settings in force as TOML, secrets masked.

    Args:
        settings: what is shown.
        source: where the value of a setting comes from, in words; None for its default.
    """
    blocks: list[str] = []
    for section, kind in sections().items():
        group: Any = settings
        for part in section.split(".") if section else ():
            group = getattr(group, part)
        values = {name: getattr(group, name) for name in plain_fields(kind)}
        lines = [
            (f"# {name} =" if value is None else f"{name} = {_toml(value)}") + _remark(source(join(section, name)))
            for name, value in values.items()
        ]
        blocks.append("\n".join([f"[{section}]", *lines] if section else lines) + "\n")
    for table in NAMED:
        entries: Mapping[str, BaseModel] = getattr(settings, table)
        for name, entry in entries.items():
            given = entry.model_dump(exclude_unset=True, by_alias=True)
            lines = [
                f"{_key(key)} = {_toml(value)}{_remark(source(f'{table}.{name}.{key}'))}"
                for key, value in given.items()
                if value is not None
            ]
            blocks.append("\n".join([f"[{table}.{_key(name)}]", *lines]) + "\n")
    return "\n".join(blocks)


def _remark(source: str | None) -> str:
    return "" if source is None else f"  # {source}"


def toml_of(table: Mapping[str, Any], section: str = "") -> str:
    """Nested tables as TOML, each group of settings, task and route under a heading of its own."""
    is_entry = section.partition(".")[0] in NAMED and section not in NAMED
    groups = {} if is_entry else {key: value for key, value in table.items() if isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_toml(value)}\n" for key, value in table.items() if key not in groups]
    heading = [f"[{section}]\n"] if section and lines else []
    inner = [toml_of(value, join(section, _key(key))) for key, value in groups.items()]
    return "\n".join(filter(None, ["".join(heading + lines), *inner]))


def schema() -> dict[str, Any]:
    """The JSON Schema of the settings file."""
    return Settings.model_json_schema()


def _sections(kind: type[BaseModel], name: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield name, kind
    for inner, field in kind.model_fields.items():
        if (section := _section_of(field)) is not None:
            yield from _sections(section, join(name, inner))


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def plain_fields(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields with one value: neither groups nor the tables whose names are the user's."""
    return {name: each for name, each in kind.model_fields.items() if _section_of(each) is None and name not in NAMED}


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    """What a setting's JSON Schema allows, in words, where it is more than a type."""
    kind = schema.get("anyOf", [schema])[0]
    if "enum" in kind:
        yield f"One of {', '.join(map(_toml, kind['enum']))}."
    if "minimum" in kind and "maximum" in kind:
        yield f"{_toml(kind['minimum'])} to {_toml(kind['maximum'])}."
    elif "exclusiveMinimum" in kind and "maximum" in kind:
        yield f"Above {_toml(kind['exclusiveMinimum'])}, up to {_toml(kind['maximum'])}."


def _key(name: str) -> str:
    """A key of TOML."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    """A value as TOML. A basic string of TOML 1.0 is one of JSON, but for DEL, which it wants escaped."""
    if isinstance(value, SecretStr):
        value = _MASK
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {_toml(each)}' for key, each in value.items())} }}"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
