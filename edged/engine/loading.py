"""From a model's name to a model ready to run: by its bundle, or by torch where there is no bundle of it."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import structlog

from edged import extras
from edged.engine import bundled, conversation_place
from edged.engine.loaded import Loaded
from edged.engine.plan import Plan, free_memory
from edged.errors import ModelUnavailable
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
    if plan.conversations is not None:  # none is kept where torch computes
        conversation_place.discard(plan.conversations.path)
    loaded: Loaded[Any] = by_torch(plan).load(plan, available_bytes)
    return loaded


def prepare(plan: Plan) -> str:
    """Do now what the first start would do: compile the kernels, make the bundle. Says in words what was done.

    Raises:
        ModelUnavailable: as `load` does.
    """
    if (bundle := bundled.find(plan)) is not None:
        verify(bundle.folder)
        said = bundle.description
        return f"{plan.model.id}: {said.weight_format}, a whole bundle at {bundle.folder}, ready to be loaded"
    done: str = by_torch(plan).prepare(plan)
    return done


def by_torch(plan: Plan) -> ModuleType:
    """Import what opens checkpoints: `checkpoint_loading`, which takes seconds.

    Raises:
        ModelUnavailable: this installation is without torch.
    """
    if extras.only_serves():
        raise ModelUnavailable(
            f"{plan.model.id} is no bundle, and none that can be served here was made of it; to make one, "
            f"{extras.how_to_get_torch()}; `edged models export` writes a bundle there, `edged models import` takes it "
            "in here"
        )
    return importlib.import_module("edged.engine.checkpoint_loading")
