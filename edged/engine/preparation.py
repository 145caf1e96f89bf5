"""What `edged models prepare` does beside the weights: it learns now what the first start would learn of the prompts.

What was learned is kept in the store, for the next start here, and in the model's bundle, for boxes that import it.
"""

from typing import Any

import structlog

from edged.engine import bundled, loading
from edged.engine.engine import Engine
from edged.engine.loaded import Loaded
from edged.engine.plan import Plan
from edged.engine.priors import Carried, carried_file
from edged.errors import ModelUnavailable
from edged.models.bundle import CALIBRATION, write_manifest
from edged.tasks.specs import Tasks

log = structlog.get_logger(__name__)


def learn(plan: Plan, tasks: Tasks) -> str:
    """Warm up the tasks once on the prepared model. Says in words what came of it.

    Raises:
        SettingsError: the words of a task leave no room for a text.
    """
    made: list[Loaded[Any]] = []

    def load() -> Loaded[Any]:
        made.append(loading.load(plan))
        return made[-1]

    engine = Engine(load, tasks=tasks)
    engine.start()
    try:
        engine.wait_ready()
    except ModelUnavailable as error:  # there is no memory for it beside a running daemon, for example
        return f"the prompts of {', '.join(tasks.names)} are learned at the first start: {error}"
    finally:
        engine.stop()
    carry(plan, made[0].priors.used)
    return f"the prompts of {', '.join(tasks.names)} are learned"


def carry(plan: Plan, learned: list[Carried]) -> None:
    """Put what was learned into the bundle of a model of this store, if it has one."""
    bundle = bundled.find(plan)
    if bundle is None or bundle.folder == plan.path or not learned:
        return
    try:
        (bundle.folder / CALIBRATION).write_bytes(carried_file(bundle.folder / CALIBRATION).encode(learned))
        write_manifest(
            bundle.folder, {*bundle.manifest.files, CALIBRATION}, bundle.manifest.origin, bundle.manifest.model
        )
    except OSError as error:
        log.warning("calibration_not_kept", folder=str(bundle.folder), reason=error.strerror or str(error))
