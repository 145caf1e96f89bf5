"""The entities of this daemon at Home Assistant, each as the configuration of one MQTT component. Pure.

Entities of the daemon have fixed ids. Those of the operator's tasks begin with `task_`, so that neither can take the
other's place. Names and labels that people chose go into templates only as escaped literals.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from edged.contract.figures import Entity, Place, places
from edged.contract.health import HealthReport
from edged.contract.status import State
from edged.contract.topics import Topics
from edged.tasks.built_in import SENTIMENT
from edged.tasks.specs import ClassifySpec, Tasks

_LONGEST_STATE = 255  # characters; Home Assistant takes no longer state
_LONGEST_ID = 40  # characters of a task's name in its id
_SESSION = "homeassistant"  # the session of messages that are typed into the text entity

Component = dict[str, Any]


def components(topics: Topics, tasks: Tasks, report: HealthReport) -> dict[str, Component]:
    """Every entity by its id. `report` tells which of the optional figures this box has."""
    own = dict((*_of_status(topics), *_of_model(topics), *_of_conversation(topics, tasks), *_of_health(topics, report)))
    return own | _of_tasks(topics, tasks, others=[each["name"] for each in own.values()])


def _of_status(topics: Topics) -> Iterator[tuple[str, Component]]:
    yield (
        "state",
        {
            "platform": "sensor",
            "name": "State",
            "icon": "mdi:brain",
            "device_class": "enum",
            "options": [str(each) for each in State],
            "state_topic": topics.status,
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": topics.status,  # the reasons, in words
            # "offline" is a state to show, so this entity is always available.
            "availability": [{"topic": topics.status, "value_template": "online"}],
        },
    )
    yield (
        "problem",
        {
            "platform": "binary_sensor",
            "name": "Problem",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": topics.status,
            "value_template": f"{{{{ 'ON' if value_json.state == '{State.DEGRADED}' else 'OFF' }}}}",
        },
    )


def _of_model(topics: Topics) -> Iterator[tuple[str, Component]]:
    """The model as something that can be updated: `install` switches to the model that was fetched last."""
    keys = ("installed_version", "latest_version", "title", "in_progress", "update_percentage")
    told = ", ".join(f"'{key}': value_json.{key}" for key in keys)
    yield (
        "model",
        {
            "platform": "update",
            "name": "Model",
            "entity_category": "config",
            "state_topic": topics.model,
            "value_template": f"{{{{ {{{told}}} | tojson }}}}",
            "json_attributes_topic": topics.model,  # the model before, and why one was refused
            "command_topic": topics.request("model"),
            "payload_install": '{"action": "switch"}',
        },
    )


# --------------------------------------------------------------------------------------------- figures of the report


def _of_health(topics: Topics, report: HealthReport) -> Iterator[tuple[str, Component]]:
    for place in places(type(report)):
        for entity in place.figure.entities:
            if not entity.is_optional or place.value(report) is not None:
                yield _slug(entity.name), _figure(topics, place, entity)


def _figure(topics: Topics, place: Place, entity: Entity) -> Component:
    is_binary = place.kind is bool
    unit, metric = place.figure.unit, place.figure.metric
    component: dict[str, str | None] = {
        "platform": "binary_sensor" if is_binary else "sensor",
        "name": entity.name,
        "entity_category": "diagnostic",
        "state_topic": topics.health,
        "value_template": f"{{{{ {_expression(place, entity)} }}}}",
        "unit_of_measurement": unit.symbol if unit else None,
        "device_class": entity.device_class or (unit.device_class if unit else None),
    }
    if not is_binary and place.kind is not str:
        grows = metric is not None and metric.kind == "counter"
        component["state_class"] = "total_increasing" if grows else "measurement"
    return {key: value for key, value in component.items() if value is not None}


def _expression(place: Place, entity: Entity) -> str:
    """The Jinja expression that reads the figure in the report."""
    value = ".".join(("value_json", *place.path, *([entity.of] if entity.of else [])))
    if place.kind is bool:
        return f"'ON' if {value} else 'OFF'"
    if not entity.of and place.figure.metric is not None and place.figure.metric.label:
        return f"{value}.values() | sum"
    return value


# ------------------------------------------------------------------------------------------- answers of the model


def _of_conversation(topics: Topics, tasks: Tasks) -> Iterator[tuple[str, Component]]:
    """The text field for a message, and the sensor with its answer."""
    if "message" not in tasks.names:
        return
    yield (
        "talk",
        {
            "platform": "text",
            "name": "Talk",
            "icon": "mdi:message-text-outline",
            "command_topic": f"{topics.root}/in/message/{_SESSION}",
            "max": _LONGEST_STATE,
        },
    )
    # An operator's own `message` or `reply` may give another kind of answer; then there is no text to show.
    error = "(value_json.error | default({})).message | default('')"
    said = f"(value_json.reply | default({{}})).text | default({error})"
    yield (
        "reply",
        {
            "platform": "sensor",
            "name": "Reply",
            "icon": "mdi:message-reply-text-outline",
            "state_topic": topics.out(f"message/{_SESSION}"),
            "value_template": f"{{{{ ({said})[:{_LONGEST_STATE}] }}}}",
            "json_attributes_topic": topics.out(f"message/{_SESSION}"),
            "json_attributes_template": f"{{{{ {{'text': {said}}} | tojson }}}}",  # the whole text
        },
    )


def _of_tasks(topics: Topics, tasks: Tasks, *, others: Iterable[str]) -> dict[str, Component]:
    """The last label of each task that classifies; `others` are the names of the daemon's own entities."""
    specs = {spec.name: spec for spec in tasks if isinstance(spec, ClassifySpec)}
    names = _shown_names(specs, others=others)
    return {key: _label(topics, specs[name], names[name]) for name, key in task_ids(specs).items()}


def _label(topics: Topics, spec: ClassifySpec, name: str) -> Component:
    labels = [each.canonical for each in (*spec.labels, *([spec.neutral] if spec.neutral else []))]
    options = list(dict.fromkeys(each[:_LONGEST_STATE].strip() for each in labels))
    # The results of all tasks, errors and chunks of replies come to the same topics; those leave the state as it is.
    kept = f"(this.state if this.state in [{', '.join(map(literal, options))}] else None)"
    task = literal(spec.name)
    cut = "" if options == labels else f"[:{_LONGEST_STATE}]"
    return {
        "platform": "sensor",
        "name": name,
        "icon": "mdi:emoticon-outline",
        "device_class": "enum",
        "options": options,
        "state_topic": topics.out("#"),
        "value_template": f"{{{{ value_json[{task}].label{cut} if {task} in value_json else {kept} }}}}",
    }


def literal(text: str) -> str:
    """A text as a string literal of Jinja, which reads the escapes of Python's string literals."""
    # Braces, % and # are escaped too: nothing that looks like the begin or end of an expression stands in a template.
    return re.sub("[{}%#]", lambda found: f"\\x{ord(found[0]):02x}", ascii(text))


def task_ids(names: Iterable[str]) -> dict[str, str]:
    """The id of each task's entity, by the task's name; no two are the same.

    A task with a plain name has always the same id, whatever other tasks there are. Names that differ from it only in
    case or punctuation get a number. The built-in task `sentiment` has an id without `task_`.
    """
    ids: dict[str, str] = {}
    for name in _plain_first(names):
        base = name if name == SENTIMENT.name else f"task_{_slug(name)}"
        ids[name] = next(each for each in _numbered(base, "_") if each not in ids.values())
    return ids


def _shown_names(names: Iterable[str], *, others: Iterable[str]) -> dict[str, str]:
    """What people read as the name of each task's entity.

    Home Assistant makes the first entity ids from these names, so no two differ in case or punctuation alone, also not
    from `others`, the names of the daemon's own entities.
    """
    own = {_slug(each) for each in others}
    taken = set(own)
    shown: dict[str, str] = {}
    for name in _plain_first(names):
        title = name.replace("_", " ").strip().capitalize() or "Task"
        base = f"{title} (task)" if _slug(title) in own else title
        shown[name] = next(each for each in _numbered(base, " ") if _slug(each) not in taken)
        taken.add(_slug(shown[name]))
    return shown


def _plain_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name != _slug(name), name))


def _numbered(base: str, between: str) -> Iterator[str]:
    """`base`, then `base` with 2, with 3 and so on."""
    yield base
    yield from (f"{base}{between}{number}" for number in itertools.count(2))


def _slug(name: str) -> str:
    """A name in a-z, 0-9 and `_`; with a hash where too much of the name would be lost."""
    plain = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
    if plain and name.isascii() and len(plain) <= _LONGEST_ID:
        return plain
    return f"{plain[:_LONGEST_ID]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}".strip("_")
