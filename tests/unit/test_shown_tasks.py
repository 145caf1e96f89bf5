from typing import Any

import pytest
from pydantic import TypeAdapter

from edged.tasks.built_in import BUILT_IN, MESSAGE, REPLY
from edged.tasks.own import OwnTask, TaskSettings, tasks_of
from edged.tasks.shown import definition, shown
from edged.tasks.specs import ComposeSpec, GenerateSpec, SamplingWishes

SUMMARY: dict[str, Any] = {"kind": "generate", "system": {"en": "Say it in a sentence."}, "max_tokens": 40}
ORDER: dict[str, Any] = {
    "kind": "extract",
    "system": "Find the item.",
    "schema": {"type": "object", "properties": {"item": {"type": "string"}}},
}
URGENCY: dict[str, Any] = {
    "kind": "classify",
    "labels": ["urgent", "routine"],
    "role": "You judge how urgent it is.",
    "examples": [{"text": "A pipe broke.", "label": "urgent"}],
}


def read(given: dict[str, Any]) -> OwnTask:
    task: OwnTask = TypeAdapter(TaskSettings).validate_python(given)
    return task


@pytest.mark.parametrize("given", [SUMMARY, ORDER, URGENCY, {"kind": "compose", "parts": ["sentiment", "reply"]}])
def test_a_task_of_the_settings_is_shown_as_it_may_be_given_again(given: dict[str, Any]) -> None:
    own = {"mine": read(given)}
    told = shown(tasks_of(own), own)["mine"]
    assert (told["kind"], told["source"]) == (given["kind"], "settings")
    assert read(told["definition"]) == own["mine"]
    assert {*told["definition"]} == {*given}, "defaults are left out"


@pytest.mark.parametrize("spec", [REPLY, MESSAGE], ids=lambda each: each.name)
def test_a_built_in_task_is_shown_as_a_settings_file_would_have_it(spec: GenerateSpec | ComposeSpec) -> None:
    told = shown(BUILT_IN, {})[spec.name]
    assert told["source"] == "built_in"
    assert read(told["definition"]).spec(spec.name) == spec


def test_a_built_in_classification_is_shown_by_its_prompts_alone() -> None:
    told = shown(BUILT_IN, {})["sentiment"]
    assert told["definition"] is None
    assert {*told["prompts"]} == {"en", "zh"}
    assert "I passed my exam" in told["prompts"]["en"]


def test_a_task_with_more_than_a_settings_file_can_express_has_no_definition() -> None:
    assert definition(GenerateSpec(name="x", system={"en": "y"}, sampling=SamplingWishes(temperature=0.0))) is None


def test_a_task_of_the_settings_takes_the_place_of_a_built_in_one() -> None:
    own = {"reply": read(SUMMARY)}
    assert shown(tasks_of(own), own)["reply"]["source"] == "settings"
