"""Which settings differ, and which of them a running daemon can change. Pure."""

from dataclasses import dataclass
from typing import Any

from edged.settings.schema import LimitSettings, Settings
from edged.settings.text import NAMED, ROUTES, names

LIVE = frozenset({"language", "unread_language", "log.level", "log.mqtt", "mqtt.reply_topics"}) | {
    f"limits.{name}" for name in LimitSettings.model_fields
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What a reload comes to.

    Attributes:
        settings: in force from now on: the old ones with what can be changed at once.
        changed: the names of what is changed at once.
        restart_required: the names of what else differs.
    """

    settings: Settings
    changed: tuple[str, ...]
    restart_required: tuple[str, ...]


def changes(old: Settings, new: Settings) -> Changes:
    """Compare settings."""
    differing = [name for name in names() if _value(old, name) != _value(new, name)]
    for table in NAMED:
        before, after = getattr(old, table), getattr(new, table)
        entries = dict.fromkeys((*before, *after))
        differing += [f"{table}.{each}" for each in entries if before.get(each) != after.get(each)]
        if table == ROUTES and before == after and [*before] != [*after]:
            differing.append(table)  # the first that fits answers, so their order counts
    settings = old.model_copy(
        update={
            "language": new.language,
            "unread_language": new.unread_language,
            "limits": new.limits,
            "log": old.log.model_copy(update={"level": new.log.level, "mqtt": new.log.mqtt}),
            "mqtt": old.mqtt.model_copy(update={"reply_topics": new.mqtt.reply_topics}),
            "tasks": new.tasks,
            "languages": new.languages,
            "routes": new.routes,
        }
    )
    changed = [each for each in differing if each in LIVE or each.partition(".")[0] in NAMED]
    return Changes(
        settings=settings,
        changed=tuple(changed),
        restart_required=tuple(each for each in differing if each not in changed),
    )


def _value(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
