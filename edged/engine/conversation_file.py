"""Keys and values of conversations, kept in a file from the end of one process to the start of the next.

The file has users' words, as tokens, so it is there only while no daemon runs: a start maps it and deletes it at once,
and an orderly end writes it anew of what the prefix cache has. So a conversation that is forgotten is in no file. It is
bounded by `engine.keep_cache_mb`. A file that is damaged, too large, or of another model, format, release or kernels is
left out and told in the log; the next turn is then computed from the journal's words, with the same tokens as answer.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic

import structlog
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from edged import state_files
from edged.engine import kv_file
from edged.engine.conversation_place import Place, discard
from edged.engine.decoders.interface import K
from edged.engine.kv_file import KVModel
from edged.engine.prefix_cache import Conversation
from edged.engine.weights.prepared_file import Array, Damaged

log = structlog.get_logger(__name__)

_HEADER_BYTES = 1024  # at most, for the places of the tensors of one conversation


class _Described(BaseModel):
    """One conversation.

    Attributes:
        name: as the journal has it.
        tokens: of which the keys and values are.
        age_s: seconds from its last turn until the file was written.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    tokens: list[int] = Field(min_length=1)
    age_s: FiniteFloat = Field(ge=0)


class _Content(BaseModel):
    """What the file says of itself.

    Attributes:
        written: wall-clock seconds since the epoch.
        conversations: in the order of the tensors, the one used last at the end.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    written: FiniteFloat
    conversations: list[_Described]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A conversation of the file; `age_s` seconds have passed since its last turn."""

    name: str
    tokens: tuple[int, ...]
    age_s: float
    arrays: tuple[Array, Array]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cached(Generic[K]):
    """A conversation in the prefix cache."""

    tokens: Sequence[int]
    kv: K
    of: Conversation


def take(place: Place, made_of: str, *, wall_time: float) -> list[Found]:
    """Map the conversations that an earlier process left, oldest first, and delete their file.

    Args:
        place: where they are.
        made_of: see `kv_file.mark_of`.
        wall_time: seconds since the epoch.
    """
    try:
        found = _read(place, made_of, wall_time)
    except FileNotFoundError:
        found = []
    except (OSError, Damaged, ValidationError) as error:
        # Not pydantic's own words: they may have a user's.
        reason = "its content is not understood" if isinstance(error, ValidationError) else kv_file.in_words(error)
        log.warning("conversations_not_recalled", file=str(place.path), reason=reason, instead="computed again")
        found = []
    return found if discard(place.path) else []


def _read(place: Place, made_of: str, wall_time: float) -> list[Found]:
    size = place.path.stat().st_size
    if size > place.most_bytes:
        raise Damaged(f"it has {size} bytes, and engine.keep_cache_mb allows {place.most_bytes}")
    stored = kv_file.read(place.path, made_of)
    if stored is None:
        raise Damaged("it is of another model, weight format, release or kernels")
    content = _Content.model_validate_json(stored.content)
    if len(content.conversations) != len(stored.sequences):
        raise Damaged("it does not have the tensors that it names")
    away_s = max(0.0, wall_time - content.written)  # a box without a clock may start in the past
    found = [
        Found(name=each.name, tokens=tuple(each.tokens), age_s=each.age_s + away_s, arrays=arrays)
        for each, arrays in zip(content.conversations, stored.sequences, strict=True)
    ]
    return [each for each in found if each.age_s <= place.most_age_s]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversationFile(Generic[K]):
    """The file of one daemon.

    Attributes:
        made_of: see `kv_file.mark_of`.
        model: the decoder.
        wall_clock: seconds since the epoch.
        found: what an earlier process left.
    """

    place: Place
    made_of: str
    model: KVModel[K]
    wall_clock: Callable[[], float]
    found: list[Found] = field(default_factory=list)

    def recall(self, now: float) -> list[Cached[K]]:
        """Give what was left, the conversation used last at the end. `now` in monotonic seconds."""
        recalled = []
        for each in self.found:
            if (kv := kv_file.taken(self.model, each.arrays, len(each.tokens))) is not None:
                of = Conversation(name=each.name, at=now - each.age_s)
                recalled.append(Cached(tokens=each.tokens, kv=kv, of=of))
        self.found.clear()
        if recalled:
            log.info("conversations_recalled", number=len(recalled))
        return recalled

    def write(self, cached: Iterable[Cached[K]], now: float) -> None:
        """Write as many conversations as may be kept; those that were used last, where not all may.

        Args:
            cached: those in the prefix cache, the one used last at the end.
            now: monotonic seconds.
        """
        chosen, described = self._choose(list(cached), now)
        if not chosen:
            return
        content = _Content(written=self.wall_clock(), conversations=described)
        path = self.place.path
        try:
            kv_file.write(
                path,
                lambda: (self.model.kv_arrays(each.kv) for each in chosen),
                made_of=self.made_of,
                content=content.model_dump_json(),
                is_private=True,
            )
            state_files.sync(path.parent)
        except (OSError, MemoryError) as error:
            log.warning("conversations_not_kept", file=str(path), reason=kv_file.in_words(error))
            return
        log.info("conversations_kept", number=len(chosen))

    def _choose(self, cached: list[Cached[K]], now: float) -> tuple[list[Cached[K]], list[_Described]]:
        chosen: list[tuple[Cached[K], _Described]] = []
        left = self.place.most_bytes - _HEADER_BYTES
        for each in reversed(cached):
            age_s = max(0.0, now - each.of.at)
            if age_s > self.place.most_age_s:
                continue
            said = _Described(name=each.of.name, tokens=list(each.tokens), age_s=age_s)
            # The header has it as JSON within JSON.
            size = kv_file.nbytes(self.model, each.kv.length) + len(json.dumps(said.model_dump_json())) + _HEADER_BYTES
            if size > left:
                break
            left -= size
            chosen.insert(0, (each, said))
        return [each for each, _ in chosen], [said for _, said in chosen]
