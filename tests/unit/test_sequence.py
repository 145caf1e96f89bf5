"""What a sequence makes of the logits it gets."""

import numpy as np
import pytest

from edged.engine.counting import Times
from edged.engine.detokenize import TextStream
from edged.engine.generation import Generating
from edged.engine.sampling import Generator
from edged.ports.engine import Work
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
        generator=Generator(0),
        text=TextStream(lambda tokens: "x" * len(tokens)),
        end_tokens=frozenset({0}),
        banned=np.array([], dtype=np.intp),
    )
    logits = np.zeros((1, 8), dtype=np.float32)
    logits[0, 3], logits[0, 4] = 3.0, 2.5
    reply.accept(logits, now=1.0)
    assert reply.generated == [drawn]
