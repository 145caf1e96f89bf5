"""Tasks with their prompts, as a person reads and changes them: the answer to `R/request/tasks`. Pure."""

from collections.abc import Mapping
from typing import Any

from edged.tasks.own import OwnTask
from edged.tasks.specs import ClassifySpec, ComposeSpec, GenerateSpec, Tasks, TaskSpec, solved_cases
from edged.tasks.text import LANGUAGES, Language


def shown(tasks: Tasks, own: Mapping[str, OwnTask]) -> dict[str, dict[str, Any]]:
    """Each task by name: its kind, source and definition, and the prompts of a classification.

    `own` are the tasks of the settings, whose source is `settings`; the others are `built_in`. A definition is what a
    settings file would have, or None for a built-in task that a settings file cannot express.
    """
    return {
        spec.name: {
            "kind": spec.kind,
            "source": "settings" if spec.name in own else "built_in",
            "definition": _own(own[spec.name]) if spec.name in own else definition(spec),
            "prompts": _prompts(spec) if isinstance(spec, ClassifySpec) else {},
        }
        for spec in tasks
    }


def _own(task: OwnTask) -> dict[str, Any]:
    return task.model_dump(mode="json", exclude_unset=True, exclude_none=True, by_alias=True)


def definition(spec: TaskSpec) -> dict[str, Any] | None:
    """A built-in task as a settings file would have it, or None if it has more than a settings file can express."""
    if isinstance(spec, ComposeSpec):
        return {"kind": spec.kind, "parts": [*spec.parts]}
    if isinstance(spec, GenerateSpec) and spec == GenerateSpec(name=spec.name, system=spec.system):
        return {"kind": spec.kind, "system": dict(spec.system), "history": spec.keeps_history}
    return None


def _prompts(spec: ClassifySpec) -> dict[Language, str]:
    """What stands before the text in the first prompt of each language."""
    return {
        language: spec.prompts[language].role + solved_cases(spec, language)
        for language in LANGUAGES
        if language in spec.prompts
    }
