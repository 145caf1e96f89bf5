"""Chooses the class that runs a task, by the kind of the task. No other module of this engine tests the kind."""

from typing import Protocol, assert_never

from edged.engine.classification import Classifier
from edged.engine.decoders.interface import K
from edged.engine.generation import Writer
from edged.engine.loaded import Prepared
from edged.engine.sequence import Running, Submitted
from edged.engine.warm_up import WarmUp
from edged.tasks.specs import ClassifySpec, ExtractSpec, GenerateSpec, PartSpec
from edged.tasks.text import Language


class TaskOnModel(Protocol[K]):
    """A task on the loaded model."""

    def warm_up(self, language: Language, warm_up: WarmUp[K]) -> None:
        """Run the task once, before the engine is ready.

        Raises:
            TooLong: the task's own words leave no room for a text.
            EdgedError: the model cannot run it.
        """
        ...

    def sequence(self, submitted: Submitted) -> Running[K]:
        """Make the sequence of a piece of work.

        Raises:
            TooLong: the text does not fit into the context.
        """
        ...


def on_model(spec: PartSpec, prepared: Prepared[K]) -> TaskOnModel[K]:
    """Make the object that runs a task on the loaded model."""
    match spec:
        case ClassifySpec():
            return Classifier(spec=spec, prepared=prepared)
        case GenerateSpec():
            return Writer(spec=spec.for_model(prepared.loaded.info.parameters), prepared=prepared)
        case ExtractSpec():
            return Writer(spec=spec, prepared=prepared)
        case _:
            assert_never(spec)
