"""Text in and out of a terminal, whatever its encoding. UTF-8 is the rule; ISO 8859 and GBK terminals are still met."""

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from edged.errors import SettingsError


def accept_all_characters() -> None:
    """Have characters that the terminal does not know written as escapes, instead of an exception."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Discard the buffered standard output, because its reader is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def check_arguments(options: Mapping[str, Any]) -> None:
    """Refuse arguments that are not text. Paths may be any bytes.

    Raises:
        SettingsError: Python could not decode one, or it has a lone surrogate.
    """
    for name, value in options.items():
        for text in _texts(value):
            if not is_text(text):
                raise SettingsError(f"{name}: {text!r} is not text in the terminal's encoding ({_encoding()})")


def is_text(text: str) -> bool:
    """Whether a string can be sent: bytes that could not be decoded stand in it as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def read_all() -> str:
    """Standard input.

    Raises:
        SettingsError: it is not text in the terminal's encoding.
    """
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise SettingsError(f"standard input is not {error.encoding}: byte {error.start} cannot be decoded") from None
    if not is_text(text):
        raise SettingsError(f"standard input is not text in the terminal's encoding ({_encoding()})")
    return text


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print JSON: as UTF-8 where the terminal has it, else with the escapes of JSON."""
    is_utf8 = _encoding().lower().replace("-", "").replace("_", "") in {"utf8", "utf8sig"}
    print(json.dumps(value, indent=indent, ensure_ascii=not is_utf8), flush=True)


def print_toml(text: str) -> None:
    """Print TOML, which is UTF-8 whatever the terminal's encoding is."""
    sys.stdout.flush()
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.buffer.write(text.encode(errors="backslashreplace"))
        sys.stdout.buffer.flush()
    else:
        print(text, end="")


def _encoding() -> str:
    return sys.stdout.encoding or "ascii"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(key)
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
