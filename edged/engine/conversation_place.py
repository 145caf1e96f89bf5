"""Where the file of conversations is, how much may be in it, and its deletion. See `conversation_file.py`.

Apart from that module, because a daemon that keeps no conversations does without what it imports.
"""

from dataclasses import dataclass
from pathlib import Path

import structlog

from edged import state_files

log = structlog.get_logger(__name__)

NAME = "conversations.safetensors"  # in the state folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where conversations are kept, and how much of them.

    Attributes:
        path: of the file.
        most_bytes: of the file.
        most_age_s: seconds since the last turn after which a conversation is over.
    """

    path: Path
    most_bytes: int
    most_age_s: float


def discard(path: Path) -> bool:
    """Delete the file, and what is left of one that was not written to its end; gives whether it is gone."""
    try:
        left = list(path.parent.glob(f"{path.stem}.*"))
        for each in left:
            each.unlink(missing_ok=True)
        if left:
            state_files.sync(path.parent)  # else a power cut could bring it back
    except OSError as error:
        log.warning("conversations_not_deleted", file=str(path), reason=error.strerror)
        return False
    return True
