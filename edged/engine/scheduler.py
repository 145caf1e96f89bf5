"""Which sequences run in the next step, and how much of each prompt. Pure: no torch, no clock, no text.

A step reads all weights once, however many rows it has, so it should have many: one for every sequence that decodes,
and a limited number of prompt tokens. The limit bounds how long a new prompt can delay the replies that are running.

Where several senders have prompts, the step belongs to the sender whose prompt is first. A sender that has more in hand
does not join it: a device that asks one question is answered in steps as short as on an idle box.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Urgency(IntEnum):
    """Classes of sequences, the most urgent first: a classification overtakes a generation."""

    CLASSIFY = 0
    GENERATE = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A sequence as the scheduler sees it.

    Attributes:
        sender: whose it is; "" for all that has no sender.
        order: a sequence with a lower number goes first, within its class.
        number: its place in the order of arrival, among sequences of the same order.
        nbytes: memory of its keys and values at their longest.
        prompt_left: prompt tokens that are not computed yet; 0 when it decodes.
    """

    key: str
    urgency: Urgency
    number: int
    sender: str = ""
    order: int = 0
    nbytes: int = 0
    prompt_left: int = 0


def admit(waiting: Sequence[Candidate], *, running: Sequence[Candidate], max_batch: int, max_bytes: int) -> list[str]:
    """Choose the sequences that join the batch: by their order, then first come, first served, within a class.

    Each class has `max_batch` places. Classifications end with their prompt, and because of their separate places they
    never wait for a reply to end. All keys and values together stay within `max_bytes`: a sequence that does not fit
    waits, and no later one of its class overtakes it. A sequence may always run if it is the only one.

    Returns:
        The keys of the chosen sequences.
    """
    admitted: list[str] = []
    free_bytes = max_bytes - sum(each.nbytes for each in running)
    for urgency in Urgency:
        places = max_batch - sum(each.urgency is urgency for each in running)
        queue = sorted((each for each in waiting if each.urgency is urgency), key=_place)
        for each in queue[: max(places, 0)]:
            if each.nbytes > free_bytes and (running or admitted):
                break
            free_bytes -= each.nbytes
            admitted.append(each.key)
    return admitted


def _place(candidate: Candidate) -> tuple[int, int]:
    return candidate.order, candidate.number


def plan(running: Sequence[Candidate], *, prefill_tokens: int, classify_tokens: int | None = None) -> dict[str, int]:
    """Say how many rows each sequence has in the next step: 1 to decode, or a chunk of its prompt.

    Args:
        running: the batch.
        prefill_tokens: the most prompt tokens of one step, over all sequences.
        classify_tokens: the most of them for classifications; None: no less.

    Returns:
        Rows by key. A sequence that has to wait for a later step is left out.
    """
    rows = {each.key: 1 for each in running if each.prompt_left == 0}
    in_hand = Counter(each.sender for each in running)
    prompts = sorted(
        (each for each in running if each.prompt_left > 0),
        key=lambda each: (each.urgency, each.order, in_hand[each.sender], each.number),
    )
    room = {
        Urgency.CLASSIFY: prefill_tokens if classify_tokens is None else min(classify_tokens, prefill_tokens),
        Urgency.GENERATE: prefill_tokens,
    }
    for each in prompts:
        if each.sender != prompts[0].sender and in_hand[each.sender] > in_hand[prompts[0].sender]:
            continue
        chunk = min(each.prompt_left, room[each.urgency])
        if chunk > 0:
            rows[each.key] = chunk
            room[Urgency.GENERATE] -= chunk
            room[Urgency.CLASSIFY] = min(room[Urgency.CLASSIFY] - chunk, room[Urgency.GENERATE])
    return rows
