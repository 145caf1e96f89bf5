"""Files of texts with what is expected of a task: a table with tabs, or what `edged eval --save` writes. Pure.

In a table each line is a text, a tab and what is expected: a label, one or several references of a written text (with
tabs between them), an object of fields as JSON, or, of a composition, an object as JSON with one of these for each
part.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edged.tasks.judging import Expected, as_json, expected_of
from edged.tasks.specs import ExtractSpec, GenerateSpec, PartSpec, Tasks


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A text, and what is expected of the parts of a task, by their names; a part may be missing."""

    text: str
    expected: Mapping[str, Expected]


class _Saved(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SavedCase(_Saved):
    """A text with what is expected, by part."""

    text: str
    expected: dict[str, Any] = Field(min_length=1)


class CaseFile(_Saved):
    """The file that `edged eval --save` writes: the cases of a task, and how right a model was about them.

    Attributes:
        score: the mean of all parts of all cases: 1 for a right label, the share of right fields, or chrF.
    """

    form: Literal[1] = 1
    task: str
    model: str
    score: float = Field(ge=0, le=1)
    cases: list[SavedCase] = Field(min_length=1)

    @classmethod
    def of(cls, cases: Sequence[Case], *, task: str, model: str, score: float) -> "CaseFile":
        """Make the file of these cases."""
        saved = [
            SavedCase(text=each.text, expected={part: as_json(value) for part, value in each.expected.items()})
            for each in cases
        ]
        return cls(task=task, model=model, score=round(score, 4), cases=saved)


def is_saved(content: str) -> bool:
    """Whether a file may be one that was saved, and not a table."""
    return content.lstrip().startswith("{") and '"form"' in content[:200]


def read_saved(content: str, tasks: Tasks) -> tuple[str, list[Case]]:
    """The task of a saved file and its cases.

    Raises:
        ValueError: it has another form, or asks for what the tasks cannot give.
    """
    try:
        saved = CaseFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"it is no file of edged eval: {first['msg']} at {first['loc']}") from None
    if saved.task not in tasks:
        raise ValueError(f"there is no task {saved.task}; there are {', '.join(tasks.names)}")
    parts = {part.name: part for part in tasks.parts(saved.task)}
    return saved.task, [
        Case(text=each.text, expected=_by_part(each.expected, parts, f"case {number}"))
        for number, each in enumerate(saved.cases, start=1)
    ]


def read_table(content: str, tasks: Tasks, task: str) -> list[Case]:
    """The cases of a table for a task.

    Raises:
        ValueError: a line has another form, or asks for what the task cannot give; the message names the line.
    """
    parts = {part.name: part for part in tasks.parts(task)}
    cases = [_case(row, parts, task, f"line {number}") for number, row in _rows(content)]
    if not cases:
        raise ValueError("it has no text")
    return cases


def _rows(content: str) -> Iterator[tuple[int, list[str]]]:
    # Not splitlines: texts have other line ends of Unicode in them.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r").split("\t")


def _case(row: Sequence[str], parts: Mapping[str, PartSpec], task: str, place: str) -> Case:
    text, *values = row
    if not values:
        raise ValueError(f"{place}: write a text, a tab and what is expected")
    if task not in parts:  # a composition
        return Case(text=text, expected=_by_part(_object(values, place), parts, place))
    value = _object(values, place) if isinstance(parts[task], ExtractSpec) else _plain(parts[task], values, place)
    return Case(text=text, expected=_by_part({task: value}, parts, place))


def _object(values: Sequence[str], place: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        value = json.loads("\t".join(values))
        if isinstance(value, dict):
            return value
    raise ValueError(f"{place}: what is expected must be an object as JSON")


def _plain(spec: PartSpec, values: Sequence[str], place: str) -> object:
    if isinstance(spec, GenerateSpec):
        return list(values)
    if len(values) > 1:
        raise ValueError(f"{place} has {len(values) + 1} columns; text and label are two, with a tab between them")
    return values[0]


def _by_part(values: Mapping[str, Any], parts: Mapping[str, PartSpec], place: str) -> dict[str, Expected]:
    if unknown := sorted({*values} - {*parts}):
        raise ValueError(f"{place}: the task has no part {', '.join(unknown)}; it has {', '.join(parts)}")
    try:
        return {name: expected_of(parts[name], value) for name, value in values.items()}
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
