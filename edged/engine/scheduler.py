"""Which sequences run in the next step, and how much of each prompt. Pure: no torch, no clock, no text.

A step reads all weights once, so it should carry many rows: one for every sequence that decodes, and a bounded
number of prompt tokens. The bound is what running replies can be held up by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Urgency(IntEnum):
    """Who goes first; classification overtakes generation."""

    CLASSIFY = 0
    GENERATE = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A sequence as the scheduler sees it.

    Attributes:
        key: names it.
        urgency: its class.
        number: its order of arrival.
        nbytes: memory of its keys and values at its longest.
        prompt_left: prompt tokens not computed yet; 0 when it decodes.
    """

    key: str
    urgency: Urgency
    number: int
    nbytes: int = 0
    prompt_left: int = 0


def admit(waiting: Sequence[Candidate], *, running: Sequence[Candidate], max_batch: int, max_bytes: int) -> list[str]:
    """Choose who joins the batch: first come, first served within a class.

    Generations take at most `max_batch` places. Classifications end after their prompt, so they have as many
    places of their own and never wait for a reply to end. All keys and values together stay within `max_bytes`;
    who does not fit waits, and nobody of its class overtakes it. A sequence that runs alone always fits.
    """
    admitted: list[str] = []
    free_bytes = max_bytes - sum(each.nbytes for each in running)
    for urgency in Urgency:
        places = max_batch - sum(each.urgency is urgency for each in running)
        queue = sorted((each for each in waiting if each.urgency is urgency), key=lambda each: each.number)
        for each in queue[: max(places, 0)]:
            if each.nbytes > free_bytes and (running or admitted):
                break
            free_bytes -= each.nbytes
            admitted.append(each.key)
    return admitted


def plan(running: Sequence[Candidate], *, prefill_tokens: int) -> dict[str, int]:
    """Say how many rows each sequence has in the next step: 1 to decode, or a chunk of its prompt.

    Args:
        running: the batch.
        prefill_tokens: prompt tokens of one step, over all sequences.

    Returns:
        Rows by key; a sequence that must wait for the next step is left out.
    """
    rows = {each.key: 1 for each in running if each.prompt_left == 0}
    for each in sorted(running, key=lambda each: (each.urgency, each.number)):
        chunk = min(each.prompt_left, prefill_tokens)
        if chunk > 0:
            rows[each.key] = chunk
            prefill_tokens -= chunk
    return rows
