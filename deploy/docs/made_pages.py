"""Writes the pages that are made from the code: settings.md from the schema, contract.md from the AsyncAPI document.

usage: made_pages.py PAGES_DIR, with edged on the path
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edged import __version__
from edged.contract import asyncapi
from edged.settings import text

_SETTINGS = f"""\
# Settings

Made from the schema of edged {__version__}; `edged config --example` prints the same as a settings file.

Each setting can be given in `/etc/edged/edged.toml` (or the file of `--config`), in the environment, or for one command
by `--set NAME=VALUE`. Later ones in this list are stronger. A wrong setting is refused at the start, by its name.

Tables of your own, `[tasks.NAME]` and `[routes.NAME]`, are explained at the end of `edged config --example`; the
[recipes](recipes/zigbee2mqtt.md) use them.
"""

_CONTRACT = f"""\
# Topics and messages

Made from the AsyncAPI document of edged {__version__}: `edged asyncapi` prints it, with the JSON Schemas of messages.
`R` in other pages stands for `{{prefix}}/{{node}}`: `edged/` and the name of the box, unless settings say otherwise.
"""


def settings() -> str:
    """The page of all settings."""
    return _SETTINGS + "".join(_sections())


def _sections() -> Iterator[str]:
    known = frozenset(text.names())
    for section, kind in text.sections().items():
        title = f"[{section}]" if section else "Without a section"
        about = " ".join((kind.__doc__ or "").split()) if section else "At the top of the file."
        yield f"\n## {title}\n\n{about}\n\n| setting | default | meaning | environment |\n|---|---|---|---|\n"
        allowed = kind.model_json_schema()["properties"]
        for name, field in kind.model_fields.items():
            dotted = text.join(section, name)
            if dotted in known:
                yield _row(name, dotted, field.get_default(), field.description or "", allowed[name])


def _row(name: str, dotted: str, default: Any, meaning: str, allowed: dict[str, Any]) -> str:
    told = default is not None and dotted not in text.BY_MACHINE and default != ()
    limits = " ".join([meaning, *_limits(allowed)])
    return f"| `{name}` | {_shown(default) if told else ''} | {_cell(limits)} | `{text.variable(dotted)}` |\n"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return ", ".join(f"`{each}`" for each in value) if isinstance(value, tuple) else f"`{value}`"


def _limits(allowed: dict[str, Any]) -> Iterator[str]:
    for each in [allowed, *allowed.get("anyOf", [])]:
        if "enum" in each:
            yield f"One of {', '.join(f'`{value}`' for value in each['enum'])}."
        low, high = each.get("minimum"), each.get("maximum")
        if low is not None:
            yield f"At least {low}." if high is None else f"{low} to {high}."


def _cell(words: str) -> str:
    return words.replace("|", "\\|").replace("<", "&lt;")


def contract() -> str:
    """The page of topics, by who sends what."""
    document = asyncapi.document()
    parts = [_CONTRACT]
    for action, title in (("receive", "What edged takes"), ("send", "What edged sends")):
        parts.append(f"\n## {title}\n\n| topic | what | messages | QoS, retained |\n|---|---|---|---|\n")
        rows = (each for each in document["operations"].values() if each["action"] == action)
        parts.extend(_operation(each, document["channels"]) for each in rows)
    parts.append("\n## Messages\n\n")
    for name, message in document["components"]["messages"].items():
        parts.append(f"`{name}`\n: {_cell(message.get('summary') or message.get('description') or '')}\n\n")
    return "".join(parts)


def _operation(operation: dict[str, Any], channels: dict[str, Any]) -> str:
    channel = channels[operation["channel"]["$ref"].rpartition("/")[2]]
    binding = operation.get("bindings", {}).get("mqtt", {})
    retained = ", retained" if binding.get("retain") else ""
    messages = ", ".join(f"`{each}`" for each in channel.get("messages", {}))
    topic = f"`{channel['address']}`" if channel.get("address") else "named by the request"
    return f"| {topic} | {_cell(operation.get('summary', ''))} | {messages} | {binding.get('qos', '')}{retained} |\n"


def main() -> None:
    pages = Path(sys.argv[1])
    for name, made in (("settings.md", settings()), ("contract.md", contract())):
        (pages / name).write_text(made)


if __name__ == "__main__":
    main()
