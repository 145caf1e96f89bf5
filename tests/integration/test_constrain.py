"""Schemas of all kinds on the real Qwen1.5 vocabulary: what is drawn at random under one is of it, or is no output."""

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from transformers import AutoTokenizer

from edged.engine.constrain import Constraints
from edged.engine.prompt import Prompter
from edged.errors import SettingsError
from tests.support import assets

TOKENS = 120


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(AutoTokenizer.from_pretrained(assets.qwen_tokenizer()), max_context_tokens=512, half_width=True)


@pytest.fixture(scope="module")
def constraints(prompter: Prompter) -> Constraints:
    return prompter.constraints(151936)


def thing(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


TREE = thing(v={"enum": [1, 2]}, kids={"type": "array", "maxItems": 1, "items": {"$ref": "#/$defs/T"}})
SCHEMAS = {
    "a choice": thing(a={"enum": ["klein", "größe 📏", "大", None, 3.5, {"x": [1, 2]}]}),
    "names": thing(**{"größe 📏": {"const": "大"}, 'a"b\\c': {"type": "boolean"}}),
    "bounds": thing(a={"type": "integer", "minimum": -3, "maximum": 12}, b={"type": "number", "minimum": 0}),
    "a pattern": thing(a={"type": "string", "pattern": "^[0-9]{3}-[a-z]{1,4}$"}),
    "a date": thing(a={"type": "string", "format": "date-time"}),
    "lists of lists": thing(
        a={"type": "array", "maxItems": 2, "items": {"type": "array", "maxItems": 2, "items": {"type": "null"}}}
    ),
    "either": thing(a={"anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer", "maximum": 0}]}),
    "a tree": {**thing(t={"$ref": "#/$defs/T"}), "$defs": {"T": TREE}},
    "many choices": thing(a={"enum": [f"value {i}" for i in range(3000)]}),
}


def drawn(constraints: Constraints, prompter: Prompter, name: str, schema: dict[str, Any], seed: int) -> str | None:
    """An output of a model that knows nothing; None if it is not complete after TOKENS."""
    generator = np.random.default_rng(seed)
    constraint, ends, tokens = constraints.begin(name, schema), prompter.end_tokens(), []
    for _ in range(TOKENS):
        row = generator.standard_normal(151936, dtype=np.float32)
        constraint.mask(row, ends)
        token = int(row.argmax())
        if token in ends:
            break
        tokens.append(token)
        if constraint.take(token):
            break
    else:
        return None
    return prompter.decode(tokens)


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_drawn_is_of_its_schema(constraints: Constraints, prompter: Prompter, name: str) -> None:
    outputs = [drawn(constraints, prompter, name, SCHEMAS[name], seed) for seed in range(6)]
    complete = [output for output in outputs if output is not None]
    for output in complete:
        jsonschema.validate(json.loads(output), SCHEMAS[name])
    assert complete


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (thing(a={"enum": []}), "unsatisfiable"),
        (thing(a={"type": "integer", "minimum": 5, "maximum": 3}), "unsatisfiable"),
        (thing(a={"type": "string", "pattern": "(["}), "regex parse error"),
        (thing(a={"type": "string", "pattern": "^(?=a)b"}), "look-around"),
        (thing(a={"not": {"type": "string"}}), "not"),
        (thing(a={"$ref": "#/$defs/nowhere"}), "does not exist"),
        (thing(a={"$ref": "https://example.com/x.json"}), "does not fetch"),
        (thing(a={"$ref": "#"}), "no output of it is ever complete"),
    ],
)
def test_what_cannot_be_held_to_is_told_at_the_start(
    constraints: Constraints, schema: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError, match=rf"(?s)tasks\.odd\.schema: .*{told}"):
        constraints.begin("odd", schema)
