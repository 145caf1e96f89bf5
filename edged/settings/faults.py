"""What is wrong with settings, in words: names that are not known, values that are not allowed. Pure.

Each message names the setting as the user wrote it, and says what is allowed. It never repeats a secret, not even a
wrong one.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import ErrorDetails

from edged.settings.text import ENVIRONMENT_PREFIX, LANGUAGES, NAMED, ROUTES, TASKS, join, names, sections, variable
from edged.settings.values import RULES

# What Kubernetes and Docker put into the environment for a service or linked container that is named like edged:
# kubernetes.io/docs/concepts/services-networking/service, "Environment variables"; docs.docker.com, "Legacy container
# links".
_ADDRESS = r"(tcp|udp|sctp)://\S+"
_SERVICE_LINKS = (
    (r"EDGED_(\w+_)?SERVICE_HOST", r"\S+"),
    (r"EDGED_(\w+_)?SERVICE_PORT(_\w+)?", r"\d+"),
    (r"EDGED_(\w+_)?PORT(_\d+_(TCP|UDP|SCTP))?", _ADDRESS),
    (r"EDGED_(\w+_)?PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR|PORT_START|PORT_END|START|END)", r"\S+"),
    (r"EDGED_NAME", r"/[^/\s]+/\S+"),
)
_OTHER_VARIABLES = re.compile(r"EDGED_(CONFIG|VENV|TEST_.*|MOSQUITTO.*)")  # ours, and no settings
_IN_ADDRESS = re.compile(r"(?<=//)[^@/]*@|(?<=['\"])[^@/]*@")  # user:password@host
_SHOWN = 80  # characters of a wrong value


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """The values that the user wrote, and where.

    Attributes:
        options: settings that were changed over MQTT.
        credentials: names of settings that systemd laid out as files.
        secrets: names of settings.
    """

    flags: Mapping[str, str]
    file: Mapping[str, Any]
    path: Path | None
    variables: Mapping[str, str]
    secrets: Collection[str]
    credentials: Collection[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def origin(self, name: str) -> str:
        """The setting as the user wrote it where the value in force is."""
        if _has(self.options, name):
            return f"option {name}"
        if name in self.flags:
            return f"--set {name}"
        if (found := self._variable(name)) is not None:
            return found
        if name in dict(_leaves(self.file)) or name.startswith(tuple(f"{each}." for each in NAMED)):
            return f"{name} in {self.path}"
        return name

    def source(self, name: str) -> str | None:
        """What the value in force of this setting comes from, in words; None for its default."""
        if _has(self.options, name):
            return "set over MQTT"
        if name in self.flags:
            return "--set"
        if (found := self._variable(name)) is not None:
            return found
        if _has(self.file, name):
            return str(self.path)
        return "a credential" if name in self.credentials else None

    def _variable(self, name: str) -> str | None:
        return next((each for each, value in self.variables.items() if value and each.upper() == variable(name)), None)


def _has(table: Mapping[str, Any], name: str) -> bool:
    """Whether a table has this setting, or this key of a task or route, or anything in it."""
    at: Any = table
    path = name.split(".", 2) if name.partition(".")[0] in NAMED else name.split(".")
    for part in path:
        if not isinstance(at, Mapping) or part not in at:
            return False
        at = at[part]
    return True


def _leaves(table: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a settings file by dotted name; a group that is not known counts as a value."""
    for key, value in table.items():
        name = join(section, key)
        if name in sections() and isinstance(value, Mapping):
            yield from _leaves(value, name)
        else:
            yield name, value


def unknown(given: Given) -> Iterator[str]:
    """Names that are not settings: pydantic-settings ignores some of them, and a typing error must be reported."""
    known = names()
    for flag in given.flags:
        if flag not in known:
            yield f"--set {flag} is no setting of edged{_meant(flag, known)}"
    variables = [variable(name) for name in known]
    for each, value in given.variables.items():
        name = each.upper()
        is_other = not value or _OTHER_VARIABLES.fullmatch(name) or is_service_link(each, value)
        if name.startswith(ENVIRONMENT_PREFIX) and not is_other and name not in variables:
            yield f"the environment variable {each} is no setting of edged{_meant(name, variables)}"
    yield from _unknown_in(given.file, lambda name: f"{name} in {given.path}")
    yield from _unknown_in(given.options, lambda name: f"option {name}")


def _unknown_in(table: Mapping[str, Any], written: Callable[[str], str]) -> Iterator[str]:
    """The names of a nested table that are no settings; `written` says how the user wrote a name."""
    known = names()
    for name, _ in _leaves(table):
        if name in sections():
            yield f"{written(name)} is a group of settings, not a value: write [{name}] above them"
        elif name not in known and name not in NAMED:
            yield f"{written(name)} is no setting of edged{_meant(name, [*known, *sections()])}"


def is_service_link(name: str, value: str) -> bool:
    """Whether a variable comes from a cluster, for a service that is named like edged, and is no setting of ours."""
    if "__" in name.removeprefix(ENVIRONMENT_PREFIX):
        return False
    return any(re.fullmatch(known, name) and re.fullmatch(form, value) for known, form in _SERVICE_LINKS)


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; `edged config --example` lists all"


def wrong(faults: Iterable[ErrorDetails], given: Given) -> dict[str, str]:
    """Values that are not allowed, by setting: where each was written, the value unless it is a secret, the rule."""
    told: dict[str, str] = {}
    for each in sorted(faults, key=_says_little):
        name = _setting_at(each["loc"])
        rule = _rule(each)
        value = each["input"]
        if name in sections():
            line = f"{name}: {rule}" if name else rule
        elif name in given.secrets or isinstance(value, Mapping):
            line = f"{given.origin(name)} is not allowed: {rule}"
        else:
            shown = _IN_ADDRESS.sub("***@", repr(value))[:_SHOWN]
            line = f"{given.origin(name)} = {shown} is not allowed: {rule}"
            if isinstance(value, str) and re.fullmatch(r"(['\"]).*\1", value, re.DOTALL):
                line += " (the quotes are part of the value: leave them out)"
        told.setdefault(name, line)  # further faults of the same value follow from the first
    return told


def _rule(fault: ErrorDetails) -> str:
    """What is allowed, in words."""
    if fault["type"] == "union_tag_not_found":
        return "kind is missing: classify, generate, extract or compose"
    if fault["type"] == "string_pattern_mismatch":
        return RULES.get(fault["ctx"]["pattern"], "it is not of the right form")
    rule = fault["msg"].removeprefix("Value error, ")
    return rule[:1].lower() + rule[1:]


def _says_little(fault: ErrorDetails) -> bool:
    """Whether the fault is only that a value of a task has the wrong type; other faults may say more."""
    return fault["loc"][:1] == (TASKS,) and fault["type"].endswith("_type")


def _setting_at(location: tuple[int | str, ...]) -> str:
    """The setting or section that a place in the data belongs to."""
    path = [str(part) for part in location]
    if path[:1] == [TASKS]:
        # The third is the kind that was given; among the rest are types that a value was tried as.
        return ".".join(path[:2] + [part for part in path[3:] if re.fullmatch(r"\w+", part)])
    if path[:1] in ([ROUTES], [LANGUAGES]):
        return ".".join(path[:3])
    while path and ".".join(path) not in (*names(), *sections()):
        path.pop()  # a number in a list, or a part of a union
    return ".".join(path)
