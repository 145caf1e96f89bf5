"""How right an output of a task is, held against what was expected. Pure.

A label is right or wrong. Of extracted data each field is. A written text is held against references by chrF (Popović
2015): the F-score with beta 2 of character n-grams of 1 to 6 characters, white space left out; precision and recall are
means over those lengths that both texts have. It is 1 for the same text and 0 where no character is common.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edged.tasks.outputs import Classification, Extraction, Output, Reply
from edged.tasks.specs import ClassifySpec, ExtractSpec, GenerateSpec, PartSpec

_LONGEST = 6
_BETA = 2

Expected = str | tuple[str, ...] | Mapping[str, Any]  # a label, references of a text, or fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """How right an output is.

    Attributes:
        score: from 0 to 1: 1 for the right label, the share of right fields, or chrF.
        is_right: the label is right, all fields are and there is no other, or the text is one of the references.
        fields: of extracted data, whether each expected field is right.
        contains: of a written text, whether a reference is part of it.
    """

    score: float
    is_right: bool
    fields: Mapping[str, bool] = field(default_factory=dict)
    contains: bool = False


NO_ANSWER = Judged(score=0.0, is_right=False)


def judge(output: Output, expected: Expected) -> Judged:
    """Hold an output against what was expected of it.

    Raises:
        TypeError: the two are of different kinds.
    """
    match output, expected:
        case Classification(), str():
            is_right = output.label == expected
            return Judged(score=float(is_right), is_right=is_right)
        case Reply(), tuple():
            return _written(output.text, expected)
        case Extraction(), Mapping():
            return _extracted(output.data, expected)
        case _:
            raise TypeError(f"{type(output).__name__} cannot be judged by {type(expected).__name__}")


def expected_of(spec: PartSpec, value: object) -> Expected:
    """What a file says is expected of a task: a label, one or several references, or an object of fields.

    Raises:
        ValueError: the task cannot give it; the message says what it may be.
    """
    match spec:
        case ClassifySpec():
            labels = [each.canonical for each in (*spec.labels, *([spec.neutral] if spec.neutral else []))]
            if not isinstance(value, str) or value not in labels:
                raise ValueError(f"{spec.name} gives one of {', '.join(labels)}")
            return value
        case GenerateSpec():
            references = [value] if isinstance(value, str) else value
            if not isinstance(references, list) or not references or not all(_is_text(each) for each in references):
                raise ValueError(f"{spec.name} writes: give a text, or a list of texts of which one will do")
            return tuple(references)
        case ExtractSpec():
            if not isinstance(value, dict) or not value:
                raise ValueError(f"{spec.name} extracts: give an object of fields")
            if unknown := sorted({*value} - {*spec.schema.get("properties", {})}):
                raise ValueError(f"the schema of {spec.name} has no field {', '.join(unknown)}")
            return value


def as_json(expected: Expected) -> object:
    """What `expected_of` reads again."""
    return list(expected) if isinstance(expected, tuple) else expected


def chrf(text: str, reference: str) -> float:
    """The chrF score of a text against one reference, from 0 to 1."""
    precisions, recalls = [], []
    ours, theirs = "".join(text.split()), "".join(reference.split())
    for length in range(1, _LONGEST + 1):
        said, wanted = _grams(ours, length), _grams(theirs, length)
        if not said or not wanted:
            break
        common = (said & wanted).total()
        precisions.append(common / said.total())
        recalls.append(common / wanted.total())
    if not precisions:
        return float(ours == theirs)
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    if precision + recall == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (_BETA**2 * precision + recall)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _grams(text: str, length: int) -> Counter[str]:
    return Counter(text[i : i + length] for i in range(len(text) - length + 1))


def _written(text: str, references: Sequence[str]) -> Judged:
    said, wanted = _folded(text), [_folded(each) for each in references]
    is_right = said in wanted
    return Judged(
        score=1.0 if is_right else max(chrf(text, each) for each in references),
        is_right=is_right,
        contains=any(each in said for each in wanted),
    )


def _extracted(data: Mapping[str, Any], wanted: Mapping[str, Any]) -> Judged:
    fields = {name: name in data and _same(data[name], value) for name, value in wanted.items()}
    others = [name for name, value in data.items() if name not in wanted and value is not None]
    return Judged(score=sum(fields.values()) / len(fields), is_right=all(fields.values()) and not others, fields=fields)


def _same(one: object, other: object) -> bool:
    """Whether two values are equal; texts are, whatever their case and white space."""
    if isinstance(one, str) and isinstance(other, str):
        return _folded(one) == _folded(other)
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
