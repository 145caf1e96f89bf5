"""From a model's name to a model ready to run: by its bundle, or by torch where there is no bundle of it."""

from collections.abc import Callable
from typing import Any

import structlog

from edged.engine import bundled
from edged.engine.loaded import Loaded
from edged.engine.plan import Plan, free_memory
from edged.models.bundle import MANIFEST, DamagedBundle, verify

__all__ = ["Plan", "load", "prepare"]

log = structlog.get_logger(__name__)


def load(plan: Plan, *, available_bytes: Callable[[], int] = free_memory) -> Loaded[Any]:
    """Load a model for the engine.

    Raises:
        ModelUnavailable: the files are missing or broken, the architecture is unknown, or the memory is too
            small; the message says what to do.
    """
    if (bundle := bundled.find(plan)) is not None:
        try:
            return bundled.load(plan, bundle, available_bytes)
        except DamagedBundle as error:
            if bundle.folder == plan.path:
                raise
            log.warning("bundle_damaged", reason=str(error), instead="it is made anew")
            (bundle.folder / MANIFEST).unlink(missing_ok=True)
    from edged.engine import checkpoint_loading  # noqa: PLC0415 - brings torch, which takes seconds

    return checkpoint_loading.load(plan, available_bytes)


def prepare(plan: Plan) -> str:
    """Do now what the first start would do: compile the kernels, make the bundle. Says in words what was done.

    Raises:
        ModelUnavailable: as `load` does.
    """
    if (bundle := bundled.find(plan)) is not None:
        verify(bundle.folder)
        said = bundle.description
        return f"{plan.model.id}: {said.weight_format}, a whole bundle at {bundle.folder}, ready to be loaded"
    from edged.engine import checkpoint_loading  # noqa: PLC0415 - brings torch, which takes seconds

    return checkpoint_loading.prepare(plan)
