"""The entities of tasks whatever their names are: ids of their own, and templates that say what they should."""

import json
import re
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.contract.health import HealthReport
from edged.contract.topics import Topics
from edged.monitoring.home_assistant_entities import Component, components, literal, task_ids
from edged.tasks.built_in import BUILT_IN
from edged.tasks.own import ClassifySettings, tasks_of
from edged.tasks.specs import Tasks
from tests.support.odd_tasks import ODD_LABELS, ODD_NAMES, odd_tasks
from tests.support.report import REPORT

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)


def entities_of(tasks: Tasks) -> dict[str, Component]:
    return components(Topics(prefix="edged", node="box"), tasks, HealthReport.model_validate(REPORT))


def rendered(component: Component, body: dict[str, Any], state: str = "unknown") -> str:
    """What Home Assistant makes of a message; it strips white space from what a template gives."""
    template = jinja2.Environment(autoescape=False).from_string(component["value_template"])  # noqa: S701 - no HTML
    return template.render(value_json=body, this={"state": state}).strip()


def entity_of(task: str) -> Component:
    return entities_of(odd_tasks())[task_ids(ODD_NAMES)[task]]


def test_no_task_takes_the_place_of_another_entity() -> None:
    before, after = entities_of(BUILT_IN), entities_of(odd_tasks())
    own = {key: each for key, each in before.items() if key != "sentiment"}
    assert own == {key: each for key, each in after.items() if key in own}
    of_tasks = after.keys() - own.keys()
    assert len(of_tasks) == len(ODD_NAMES)
    assert all(each.startswith("task_") for each in of_tasks - {"sentiment"})
    assert not any(each.startswith("task_") for each in own)


def test_ids_are_plain_and_short() -> None:
    assert all(re.fullmatch("[a-z0-9_]{1,64}", each) for each in entities_of(odd_tasks()))


def test_names_that_differ_in_case_or_punctuation_are_numbered() -> None:
    ids = task_ids(["Is Urgent", "is-urgent", "is_urgent", "is_urgent_2"])
    assert ids == {
        "is_urgent": "task_is_urgent",
        "is_urgent_2": "task_is_urgent_2",
        "Is Urgent": "task_is_urgent_3",
        "is-urgent": "task_is_urgent_4",
    }


@given(st.lists(NAMES, unique=True, max_size=8))
def test_every_task_has_an_id_of_its_own(names: list[str]) -> None:
    ids = task_ids(names)
    assert ids.keys() == {*names}
    assert len({*ids.values()}) == len(names)
    assert ids == task_ids(reversed(names))


@given(st.lists(NAMES, unique=True, max_size=8))
def test_a_task_with_a_plain_name_has_one_id_whatever_other_tasks_there_are(others: list[str]) -> None:
    assert task_ids(["urgent", *(each for each in others if each != "urgent")])["urgent"] == "task_urgent"


def test_people_read_no_name_twice() -> None:
    names = [each["name"].casefold() for each in entities_of(odd_tasks()).values()]
    assert len({*names}) == len(names)
    assert entity_of("queue")["name"] == "Queue (task)"
    assert entity_of("is_urgent")["name"] == "Is urgent"
    assert {entity_of(each)["name"] for each in ("Is Urgent", "is-urgent")} == {"Is urgent 3", "Is-urgent 4"}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_template_shows_the_label_of_its_task_alone(name: str) -> None:
    entity = entity_of(name)
    body = {each: {"label": "good"} for each in ODD_NAMES if each != name}
    for label in ODD_LABELS:
        assert rendered(entity, body | {name: {"label": label}}) == label[:255]
    assert rendered(entity, body) == "None"
    assert rendered(entity, body, state="it's") == "it's"


def test_states_are_of_the_options_and_of_the_length_that_home_assistant_takes() -> None:
    options = entity_of("queue")["options"]
    assert options == [each[:255] for each in ODD_LABELS]
    alike = {"kind": "classify", "labels": ["l" * 300, "l" * 301, "m"], "role": "You judge."}
    assert entities_of(tasks_of({"long": ClassifySettings.model_validate(alike)}))["task_long"]["options"] == [
        "l" * 255,
        "m",
    ]


@given(NAMES)
def test_a_literal_is_the_text_and_nothing_that_a_template_could_end_with(text: str) -> None:
    written = literal(text)
    assert written.isascii()
    assert not {*"{}%#\n"} & {*written}
    template = jinja2.Environment(autoescape=False).from_string("{{ text == " + written + " }}")  # noqa: S701 - no HTML
    assert template.render(text=text) == "True"


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ({"reply": {"text": "Hello"}}, "Hello"),
        ({"reply": {"text": "a" * 300}}, "a" * 255),
        ({"error": {"code": "busy", "message": "later"}}, "later"),
        ({"reply": {"label": "good"}}, ""),  # of an operator's task with the name of a built-in one
        ({}, ""),
    ],
)
def test_the_answer_to_what_was_typed_in_is_shown(body: dict[str, Any], state: str) -> None:
    assert rendered(entities_of(odd_tasks())["reply"], body) == state


def test_templates_that_were_fine_stay_as_they_were() -> None:
    template = entities_of(BUILT_IN)["sentiment"]["value_template"]
    kept = "(this.state if this.state in ['positive', 'negative', 'neutral'] else None)"
    assert template == f"{{{{ value_json['sentiment'].label if 'sentiment' in value_json else {kept} }}}}"


def test_the_configuration_of_odd_tasks_is_json() -> None:
    assert json.loads(json.dumps(entities_of(odd_tasks()), allow_nan=False)) == entities_of(odd_tasks())
