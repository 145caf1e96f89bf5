"""From a model's name to a model ready to run: by its bundle, or by torch where there is no bundle of it."""

from collections.abc import Callable
from typing import Any

from edged.engine import bundled
from edged.engine.loaded import Loaded
from edged.engine.plan import Plan, free_memory

__all__ = ["Plan", "load", "prepare"]


def load(plan: Plan, *, available_bytes: Callable[[], int] = free_memory) -> Loaded[Any]:
    """Load a model for the engine.

    Raises:
        ModelUnavailable: the files are missing or broken, the architecture is unknown, or the memory is too
            small; the message says what to do.
    """
    if (bundle := bundled.find(plan)) is not None:
        return bundled.load(plan, bundle, available_bytes)
    from edged.engine import checkpoint_loading  # noqa: PLC0415 - brings torch, which takes seconds

    return checkpoint_loading.load(plan, available_bytes)


def prepare(plan: Plan) -> str:
    """Do now what the first start would do: compile the kernels, make the bundle. Says in words what was done.

    Raises:
        ModelUnavailable: as `load` does.
    """
    from edged.engine import checkpoint_loading  # noqa: PLC0415 - brings torch, which takes seconds

    return checkpoint_loading.prepare(plan)
