"""What a sequence makes of the logits it gets."""

from collections.abc import Sequence

import numpy as np
import pytest

from edged.engine.checked_text import CheckedText
from edged.engine.counting import Times
from edged.engine.detokenize import TextStream
from edged.engine.generation import Draft, Generating
from edged.engine.reply_text import ReplyText
from edged.engine.sampling import Generator
from edged.ports.engine import Generated, TextDelta, Work, WorkEvent
from edged.tasks.built_in import REPLY
from edged.tasks.specs import Sampling


@pytest.mark.parametrize(("said", "penalty", "drawn"), [((), 1.5, 3), ((3,), 1.5, 4), ((3,), 1.0, 3), ((7, 4), 1.5, 3)])
def test_what_was_said_in_an_earlier_turn_is_less_likely(said: tuple[int, ...], penalty: float, drawn: int) -> None:
    reply = Generating[object](  # type: ignore[type-var]
        work=Work(key="a", spec=REPLY, text="hi", language="en"),
        emit=lambda _: None,
        number=1,
        times=Times(submitted=0.0),
        prompt=(1, 2),
        capacity=10,
        bytes_per_token=1,
        max_new_tokens=8,
        said=said,
        sampling=Sampling(temperature=0, repetition_penalty=penalty),
        draft=Draft(generator=Generator(0), text=TextStream(lambda tokens: "x" * len(tokens))),
        end_tokens=frozenset({0}),
        banned=np.array([], dtype=np.intp),
    )
    logits = np.zeros((1, 8), dtype=np.float32)
    logits[0, 3], logits[0, 4] = 3.0, 2.5
    reply.accept(logits, now=1.0)
    assert reply.generated == [drawn]


class Faulty(CheckedText):
    """Rejects a text that begins with an x."""

    def __init__(self, *, may_reject: bool) -> None:
        super().__init__(
            ReplyText(), is_faulty=lambda said: said.startswith("x"), is_suspect=lambda _: True, may_reject=may_reject
        )


def decode(tokens: Sequence[int]) -> str:
    return "".join(".abcdefghijklmnopqrstuvwxyz"[token] for token in tokens)


def checked(events: list[WorkEvent]) -> Generating[object]:  # type: ignore[type-var]
    """A reply of at most three tokens that may be drawn twice; token n is the n-th letter, 0 ends it."""
    drafts = [
        Draft(generator=Generator(seed), text=TextStream(decode, Faulty(may_reject=may_reject)))
        for seed, may_reject in ((1, True), (2, False))
    ]
    return Generating[object](  # type: ignore[type-var]
        work=Work(key="a", spec=REPLY, text="hi", language="en", stream=True),
        emit=events.append,
        number=1,
        times=Times(submitted=0.0, admitted=0.0),
        prompt=(1, 2),
        capacity=10,
        bytes_per_token=1,
        max_new_tokens=3,
        said=(),
        sampling=Sampling(temperature=0, repetition_penalty=1.0),
        draft=drafts[0],
        second=drafts[1],
        end_tokens=frozenset({0}),
        banned=np.array([], dtype=np.intp),
        memory=object(),
        cached=1,
    )


def say(reply: Generating[object], *letters: str) -> None:  # type: ignore[type-var]
    """Give logits that make each letter the most probable one, and the letter b the next."""
    for letter in letters:
        logits = np.zeros((1, 27), dtype=np.float32)
        logits[0, "abcdefghijklmnopqrstuvwxyz".find(letter) + 1] = 3.0
        logits[0, 2] = max(logits[0, 2], 2.0)
        reply.accept(logits, now=1.0)


def test_a_rejected_reply_is_drawn_again_once_and_begins_otherwise() -> None:
    events: list[WorkEvent] = []
    reply = checked(events)
    say(reply, "x", "y", ".")
    assert (events, reply.generated, reply.memory, reply.cached) == (
        [],
        [],
        None,
        0,
    )  # it begins after the prompt again
    reply.memory = object()
    say(reply, "x", "c", ".")  # the first token cannot be x a second time
    delta, end = events
    assert isinstance(delta, TextDelta)
    assert isinstance(end, Generated)
    assert delta.text == end.text == "bc"
    assert end.usage.completion_tokens == 2  # of the draft that counts


def test_a_rejected_reply_that_is_cut_off_counts_as_it_is() -> None:
    events: list[WorkEvent] = []
    reply = checked(events)
    say(reply, "x", "y")
    reply.stop_early("cancelled", 1.0)
    end = events[-1]
    assert isinstance(end, Generated)
    assert (end.text, end.finish_reason) == ("xy", "cancelled")


def test_a_good_reply_is_drawn_once() -> None:
    events: list[WorkEvent] = []
    reply = checked(events)
    say(reply, "a", "b", ".")
    assert isinstance(events[-1], Generated)
    assert (events[-1].text, reply.done) == ("ab", True)
