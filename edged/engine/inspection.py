"""Checks a model without loading it: `edged check` refuses every model that a start would refuse.

Reads every tensor once and renders every task's prompt; runs nothing.
"""

from edged.engine.decoders.linear import choose_device, choose_format
from edged.engine.loading import Plan, context_tokens, lean_shape, prompter_of
from edged.engine.prompt import MIN_NEW_TOKENS, Prompter
from edged.engine.weights.checkpoint import open_checkpoint
from edged.engine.weights.quantised import fits
from edged.errors import SettingsError, TooLong
from edged.tasks.conversation import Turn
from edged.tasks.specs import ClassifySpec, PartSpec, Tasks
from edged.tasks.text import LANGUAGES, Language

_TURNS = (Turn(role="user", content="Hi"), Turn(role="assistant", content="Hello"))


def inspect(plan: Plan, tasks: Tasks) -> int:
    """Check that a model can be loaded and used for every task; gives its number of parameters.

    Raises:
        ModelUnavailable: the model is missing, broken or of another kind; the message is that of `loading.load`.
        SettingsError: a task's own words leave no room for a text.
    """
    device = choose_device(plan.model.device)
    checkpoint = open_checkpoint(plan.path)
    context = context_tokens(checkpoint, plan.engine)
    prompter = prompter_of(checkpoint, plan, context)
    shape = lean_shape(checkpoint, context)
    can_quantise = shape is not None and fits(shape)
    choose_format(plan.model.format, device, can_quantise=can_quantise, has_kernels=False)
    if shape is None:
        from edged.engine.decoders import generic_loading  # noqa: PLC0415 - it takes 1.5 s, and most models do without

        generic_loading.examine(checkpoint.path, checkpoint.config)
    checkpoint.read_all()
    for name in tasks.names:
        for spec in tasks.parts(name):
            for language in LANGUAGES:
                _render(prompter, spec, language, context)
    return checkpoint.parameters


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
