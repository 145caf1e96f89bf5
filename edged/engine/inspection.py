"""Checks a model without loading it: `edged check` refuses every model that a start would refuse.

Reads every tensor of a checkpoint, or every file of a bundle, once, and renders every task's prompt; runs nothing.
"""

from dataclasses import dataclass

import psutil

from edged.engine import bundled
from edged.engine.loading import by_torch
from edged.engine.memory_plan import MemoryPlan
from edged.engine.plan import Plan, context_tokens, kernels_of, prompter_of
from edged.engine.prompt import MIN_NEW_TOKENS, Prompter
from edged.errors import SettingsError, TooLong
from edged.models.bundle import verify
from edged.models.languages import asked_languages_of
from edged.tasks.conversation import Turn
from edged.tasks.reading import in_use
from edged.tasks.specs import ClassifySpec, ExtractSpec, PartSpec, Tasks
from edged.tasks.text import Language

_TURNS = (Turn(role="user", content="Hi"), Turn(role="assistant", content="Hello"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """What is known of a model that can be loaded.

    Attributes:
        memory: what it will need; None where that is known only once it is loaded.
    """

    parameters: int
    memory: MemoryPlan | None


def inspect(plan: Plan, tasks: Tasks) -> Inspected:
    """Check that a model can be loaded and used for every task.

    Raises:
        ModelUnavailable: the model is missing, broken or of another kind; the message is that of `loading.load`.
        SettingsError: a task's own words leave no room for a text.
    """
    if (bundle := bundled.find(plan)) is not None:
        verify(bundle.folder)
        opened, parameters = bundle.opened(), bundle.weights().parameters
        context, total = context_tokens(opened.max_context, plan.engine), psutil.virtual_memory().total
        memory = bundled.memory_of(plan, bundle, context, free=total, has_kernels=kernels_of(plan) is not None)
    else:
        opened, parameters, memory = by_torch(plan).examine(plan)
        context = context_tokens(opened.max_context, plan.engine)
    prompter = prompter_of(opened, plan, context)
    constraints = prompter.constraints(opened.vocab_size)
    for name in tasks.names:
        for spec in tasks.parts(name):
            for language in in_use(spec.languages, asked=asked_languages_of(plan.model.id, plan.model.reads)):
                _render(prompter, spec, language, context)
            if isinstance(spec, ExtractSpec):
                constraints.begin(spec.name, spec.schema)
    return Inspected(parameters=parameters, memory=memory)


def _render(prompter: Prompter, spec: PartSpec, language: Language, context: int) -> None:
    try:
        if isinstance(spec, ClassifySpec):
            for opinion in spec.opinions(language):
                prompter.classification(opinion, text="", language=language)
            return
        prompter.generation(spec, text="Hi", language=language, turns=(), max_new_tokens=MIN_NEW_TOKENS)
        prompter.generation(spec, text="Hi", language=language, turns=_TURNS, max_new_tokens=MIN_NEW_TOKENS)
    except TooLong as error:
        raise SettingsError(
            f"tasks.{spec.name}: its own words leave no room for a text in the model's context of {context} tokens; "
            "shorten them, or raise engine.max_context_tokens"
        ) from error
