"""The names of the parts of a GGUF file that was split: NAME-00001-of-00003.gguf and so on. Looks at names only."""

import re
from pathlib import Path

_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MOST = 1000


def number_of(path: Path) -> int | None:
    """Give the number of a part, counted from one; None where the name is not that of a part."""
    match = _PART.fullmatch(path.name)
    return int(match["number"]) if match else None


def parts_of(path: Path) -> list[Path]:
    """Give all parts of the file to which one belongs, in order; it alone where its name is not that of a part."""
    match = _PART.fullmatch(path.name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]) <= _MOST:
        return [path]
    count = match["count"]
    return [path.with_name(f"{match['stem']}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1)]
