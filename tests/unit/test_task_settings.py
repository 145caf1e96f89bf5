"""Tasks of the operator's own: what a settings file may say, and what it is told when it says it wrong."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edged.errors import SettingsError
from edged.settings import load as config
from edged.settings.text import example, show
from edged.tasks.built_in import BUILT_IN
from edged.tasks.own import EXAMPLE, tasks_of
from edged.tasks.specs import ClassifySpec, ComposeSpec, GenerateSpec

URGENCY = """
[tasks.urgency]
kind = "classify"
labels = ["urgent", { label = "routine", emoji = "🙂", zh = "一般" }]
role = { en = "You judge how urgent it is.", zh = "你判断紧急程度。" }
case = "Message: {text}\\nUrgency: {label}\\n\\n"
examples = [{ text = "Water!", label = "urgent" }, { text = "Some time.", label = "routine" }]
neutral = { label = "unclear" }
"""

EXTRACT = '[tasks.x]\nkind = "extract"\nsystem = "s"\n'
TALKING = '[tasks.y]\nkind = "generate"\nsystem = "s"\nhistory = true\n'


def loaded(folder: Path, text: str) -> Any:
    path = folder / "edged.toml"
    path.write_text(text)
    return config.load(flags={}, config_file=path)


def spec(folder: Path, text: str, name: str) -> Any:
    tasks = tasks_of(loaded(folder, text).tasks)
    return next(each for each in tasks if each.name == name)


def test_a_classification_is_what_it_says(tmp_path: Path) -> None:
    task = spec(tmp_path, URGENCY, "urgency")
    assert isinstance(task, ClassifySpec)
    assert [label.names for label in task.labels] == [
        {"en": "urgent", "zh": "urgent"},
        {"en": "routine", "zh": "一般"},
    ]
    assert task.labels[1].emoji == "🙂"
    assert task.prompts["zh"].role.startswith("你判断")
    assert task.prompts["zh"].case == task.prompts["en"].case
    assert len(task.prompts["zh"].examples) == 2
    assert task.prompts["en"].neutral_texts
    assert task.neutral is not None
    assert (task.neutral.canonical, task.neutral_margin) == ("unclear", 0.1)


def test_cases_stand_apart_where_a_case_ends_with_its_label(tmp_path: Path) -> None:
    ends_so = spec(tmp_path, URGENCY.replace("{label}\\n\\n", "{label}"), "urgency")
    assert ends_so.prompts["en"].case == "Message: {text}\nUrgency: {label}\n\n"
    own = spec(tmp_path, URGENCY.replace("{label}\\n\\n", "{label};"), "urgency")
    assert own.prompts["en"].case == "Message: {text}\nUrgency: {label};"


def test_a_generation_is_what_it_says(tmp_path: Path) -> None:
    text = (
        '[tasks.summary]\nkind = "generate"\nsystem = "Be short."\ntemperature = 0.1\nmax_tokens = 9\nstop = ["\\n"]\n'
    )
    task = spec(tmp_path, text, "summary")
    assert isinstance(task, GenerateSpec)
    assert (task.system["zh"], task.sampling.temperature, task.max_tokens) == ("Be short.", 0.1, 9)
    assert (task.stop, task.keeps_history) == (("\n",), False)


def test_a_task_of_a_built_in_name_takes_its_place(tmp_path: Path) -> None:
    text = '[tasks.reply]\nkind = "generate"\nsystem = "Be rude."\n'
    tasks = tasks_of(loaded(tmp_path, text).tasks)
    assert tasks.names == BUILT_IN.names
    assert isinstance(part := tasks.parts("message")[1], GenerateSpec)
    assert part.system["en"] == "Be rude."


def test_compositions_are_of_any_tasks(tmp_path: Path) -> None:
    text = URGENCY + '[tasks.all]\nkind = "compose"\nparts = ["urgency", "message"]\n'
    tasks = tasks_of(loaded(tmp_path, text).tasks)
    assert isinstance(next(each for each in tasks if each.name == "all"), ComposeSpec)
    assert [each.name for each in tasks.parts("all")] == ["urgency", "sentiment", "reply"]


def test_the_example_of_the_settings_file_works(tmp_path: Path) -> None:
    # Prose begins one space after the mark; further lines of a setting are indented by more.
    shown = "\n".join(line.removeprefix("#") for line in EXAMPLE.splitlines() if not re.match(r"# \S", line))
    tasks = tasks_of(loaded(tmp_path, shown).tasks)
    assert {*tasks.names} - {*BUILT_IN.names} == {"urgency", "summary", "order", "ticket"}
    assert isinstance(urgency := tasks.parts("urgency")[0], ClassifySpec)
    assert [len(each.words("en")) for each in urgency.labels] == [3, 3]
    assert len(urgency.prompts["en"].examples) == 8
    assert EXAMPLE in example()


def test_what_is_in_force_is_shown_as_toml(tmp_path: Path) -> None:
    settings = loaded(tmp_path, URGENCY + '[tasks."a task"]\nkind = "generate"\nsystem = "x"\n')
    again = tomllib.loads(show(settings))["tasks"]
    assert again["a task"] == {"kind": "generate", "system": "x"}
    assert again["urgency"]["examples"][0] == {"text": "Water!", "label": "urgent"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[tasks.x]\nlabels = ["a", "b"]\n',
            r"tasks\.x in .*: kind is missing: classify, generate, extract or compose",
        ),
        ('[tasks.x]\nkind = "judge"\n', r"tasks\.x .*'classify', 'generate', 'extract', 'compose'"),
        ('[tasks.x]\nkind = "classify"\nrole = "r"\nlabels = ["a"]\n', r"tasks\.x\.labels .*at least 2"),
        ('[tasks.x]\nkind = "classify"\nrole = "r"\nlabels = ["a", "a"]\n', "two labels have the same name"),
        (
            '[tasks.x]\nkind = "classify"\nrole = "r"\nlabels = [{ label = "a", words = ["x", "y"] }, "b"]\n',
            "every label must have the same number of words",
        ),
        (
            '[tasks.x]\nkind = "classify"\nrole = "r"\nlabels = [{ label = "a", words = ["x"] }, { label = "x" }]\n',
            "two labels have the same name",
        ),
        ('[tasks.x]\nkind = "classify"\nlabels = ["a", "b"]\n', r"tasks\.x\.role .*required"),
        (URGENCY.replace('"Some time.", label = "routine"', '"x", label = "none"'), "has a label not in labels: none"),
        (
            URGENCY.replace("Message: {text}", "Message:"),
            r"case must contain \{text\} once, and after it \{label\} once",
        ),
        (URGENCY.replace("Message: {text}", "{label} {text}"), r"case must contain \{text\} once"),
        (URGENCY.replace("Message:", "Message {x}:"), "case has 2 braces that do not belong"),
        (URGENCY.replace("Message:", "Message }:", 1), "case has 1 braces that do not belong"),
        (URGENCY.replace('"unclear"', '"urgent"'), "urgent is already one of labels"),
        (URGENCY.replace('"urgent", {', '"urgent ", {'), r"tasks\.urgency\.labels\.0\.label .*white space at its ends"),
        (URGENCY.replace('zh = "一般"', 'zh = "一\\n般"'), r"labels\.1\.zh .*a line break in it"),
        (URGENCY + "neutral_texts = []\n", "neutral_texts must have at least one text"),
        (URGENCY + "neutral_texts = { zh = [] }\n", "neutral_texts must have at least one text"),
        (
            URGENCY.replace('{ en = "You judge how urgent it is.", zh = "你判断紧急程度。" }', "{}"),
            r"\.role .*at least 1",
        ),
        (URGENCY.replace('{ en = "You', '{ french = "You'), r"tasks\.urgency\.role\.french"),
        ('[tasks.x]\nkind = "generate"\nsystem = {}\n', r"tasks\.x\.system .*at least 1"),
        ('[tasks.x]\nkind = "generate"\nsystem = "s"\nheat = 1\n', r"tasks\.x\.heat in .*extra"),
        ('[tasks.x]\nkind = "generate"\nsystem = ""\n', r"tasks\.x\.system"),
        (
            '[tasks.x]\nkind = "generate"\nsystem = "s"\ntemperature = 9\n',
            r"tasks\.x\.temperature .*9 is not allowed",
        ),
        (EXTRACT, r"tasks\.x\.schema .*required"),
        (EXTRACT + 'schema = { type = "array" }\n', r"tasks\.x\.schema .*object"),
        (
            EXTRACT + '[tasks.x.schema]\ntype = "object"\nproperties.a.const = 1999-01-01\n',
            r"tasks\.x\.schema .*it has a value that JSON cannot hold",
        ),
        ('[tasks."a/b"]\nkind = "generate"\nsystem = "s"\n', r"tasks\.a/b"),
        ('[tasks.usage]\nkind = "generate"\nsystem = "s"\n', r"tasks\.usage: results have a field of this name"),
        ('[tasks.x]\nkind = "compose"\nparts = ["y"]\n', r"tasks\.x: its part y is not a task; the tasks are"),
        ('[tasks.x]\nkind = "compose"\nparts = ["x"]\n', r"tasks\.x: it is a part of itself \(x → x\)"),
        ('[tasks.x]\nkind = "compose"\nparts = ["reply", "message"]\n', r"tasks\.x: it has a part twice"),
        (
            TALKING + '[tasks.x]\nkind = "compose"\nparts = ["reply", "y"]\n',
            r"tasks\.x: reply and y each keep a conversation; only one part may",
        ),
        ("tasks = 5\n", "tasks"),
        ("[tasks]\nx = 5\n", r"tasks\.x"),
    ],
)
def test_what_is_wrong_is_told_by_name(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        loaded(tmp_path, text)


def test_the_environment_has_no_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGED_TASKS", "{}")
    with pytest.raises(SettingsError, match="EDGED_TASKS is no setting of edged"):
        loaded(tmp_path, "")
