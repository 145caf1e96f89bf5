"""Before a reply to a statement is written, the model is asked for the statement's feeling, which chooses the prompt.

The question runs in the place of the reply: it is a classification that has the reply's memory and takes its steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic

from edged.engine.classification import Classifier, Classifying
from edged.engine.decoders.interface import K, Logits, Span
from edged.engine.loaded import Prepared
from edged.engine.prompt import GenerationPrompt
from edged.engine.sequence import Submitted
from edged.errors import TooLong
from edged.ports.engine import Classified, WorkEvent
from edged.tasks.specs import ClassifySpec


@dataclass(slots=True, kw_only=True)
class Feeling(Generic[K]):
    """A classification under way, whose label chooses the prompt of a reply.

    Attributes:
        asking: the classification.
        choose: gives the prompt for a label.
        ended: what the classification ended with; empty before.
    """

    asking: Classifying[K]
    choose: Callable[[str], GenerationPrompt]
    ended: list[WorkEvent]

    def span(self, memory: K, rows: int, *, cached: int) -> Span[K]:
        """The next rows of the classification; its `memory` began with `cached` tokens that were known before."""
        self.asking.memory, self.asking.cached = memory, cached
        return self.asking.span(rows)

    def accept(self, logits: Logits, now: float) -> None:
        """Take the logits of the last span."""
        self.asking.accept(logits, now)

    @property
    def asks_further(self) -> bool:
        """Whether another prompt is asked now, which needs its own memory."""
        return self.asking.memory is None

    @property
    def event(self) -> WorkEvent | None:
        """The end of the classification: an answer, or a failure. None before."""
        return self.ended[0] if self.ended else None

    def prompt(self, answer: Classified) -> GenerationPrompt:
        """The prompt of the reply, by the label of the classification's answer."""
        return self.choose(self.asking.spec.output(answer, self.asking.work.language).label)


def ask(
    spec: ClassifySpec, prepared: Prepared[K], submitted: Submitted, choose: Callable[[str], GenerationPrompt]
) -> Feeling[K] | None:
    """Begin to ask for the feeling of a text; None where it cannot be asked, or only at the price of its whole prompt.

    The prompt must be warmed up, kept by this decoder, and have room for the text.
    """
    if spec.question(submitted.work.language) not in prepared.priors or not prepared.loaded.model.shares_prefixes:
        return None
    ended: list[WorkEvent] = []
    mine = replace(submitted, work=replace(submitted.work, spec=spec), emit=ended.append)
    try:
        asking = Classifier(spec=spec, prepared=prepared).sequence(mine)
    except TooLong:
        return None
    return Feeling(asking=asking, choose=choose, ended=ended)
