"""The report at `R/model`: which model is in use and what is being done about it. Pure.

Its keys are those that Home Assistant's `update` entity reads (home-assistant.io/integrations/update.mqtt), and more.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from edged.contract.schema import Count, Published


class ModelState(StrEnum):
    """What is being done, or how the last change ended."""

    IDLE = "idle"
    PULLING = "pulling"
    LOADING = "loading"
    JUDGING = "judging"
    SWITCHED = "switched"
    REFUSED = "refused"  # the new model was not used; `reason` says why


class ModelReport(Published):
    """The models of a daemon."""

    installed_version: Annotated[str, Field(description="The id of the model in use.")]
    latest_version: Annotated[str, Field(description="The id of the model that was fetched last.")]
    in_progress: Annotated[bool, Field(description="Whether a model is being fetched or switched to.")]
    update_percentage: Annotated[Count | None, Field(description="How far that is; null where nobody can tell.")]
    title: Annotated[str, Field(description="What it is that is updated.")] = "Model"
    state: ModelState
    reason: Annotated[str | None, Field(description="Why the last change was refused.")]
    previous: Annotated[str | None, Field(description="The model before, to which `rollback` goes.")]

    def body(self) -> dict[str, Any]:
        """As JSON."""
        return self.model_dump(mode="json")
