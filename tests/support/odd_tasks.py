"""Tasks whose names and labels are hard on those who put them into ids and templates."""

from edged.tasks.own import ClassifySettings, tasks_of
from edged.tasks.specs import Tasks

ODD_NAMES = (
    # As entities of the daemon are called, or as what ids of tasks begin with.
    "state",
    "problem",
    "queue",
    "cpu",
    "reply",
    "talk",
    "errors",
    "tasks",
    "task_queue",
    "sentiment",
    "is_urgent",
    "is-urgent",
    "Is Urgent",
    "is_urgent_2",
    "o'clock",
    'the "best"',
    "back\\slash",
    "\\x41",
    "{{ 1 + 1 }}",
    "{% raw %}",
    "{# gone #}",
    "}} {{",
    "' in value_json else states('sun.sun') }}{{ '",
    "items",
    "None",
    "紧急",
    "情感",
    "café",
    "cafe",
    "😀",
    "!?",
    " ",
    "x" * 64,
    "x" * 63 + "y",
)
ODD_LABELS = ("it's", '"so"', "{{ 7 * 7 }}", "{% if %}", "好", "l" * 300)


def odd_tasks() -> Tasks:
    """A task that classifies for each of the names, as an operator's settings make it."""
    settings = {
        name: ClassifySettings.model_validate({"kind": "classify", "labels": ODD_LABELS, "role": "You judge."})
        for name in ODD_NAMES
    }
    return tasks_of(settings)
