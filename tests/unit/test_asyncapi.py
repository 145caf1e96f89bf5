"""The AsyncAPI document: valid by the specification's own schema, up to date, and true of what the code makes."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edged.contract.asyncapi import document, payload_schema
from edged.contract.commands import COMMANDS
from edged.contract.requests import Contract, Rejected, decode
from edged.contract.results import encode_chunk, encode_error
from edged.contract.topics import TaskRoute, Topics
from edged.errors import RequestError
from edged.ports.link import Message
from edged.tasks.built_in import BUILT_IN
from tests.support.report import REPORT

ROOT = Path(__file__).parents[2]
# The specification's own, Apache-2.0, from the npm package @asyncapi/specs 6.11.1 (schemas/3.0.0.json).
SPECIFICATION = ROOT / "tests/assets/asyncapi-3.0.0.json.gz"
CONTRACT = Contract(
    topics=Topics(prefix="edged", node="box"),
    tasks=BUILT_IN,
    reply_topics=("edged/#",),
    payload_bytes=65536,
    text_chars=8000,
)


def test_it_is_valid_by_the_specification() -> None:
    jsonschema.validate(document(), json.loads(gzip.decompress(SPECIFICATION.read_bytes())))


def test_the_file_is_what_the_code_makes() -> None:
    text = (ROOT / "deploy/asyncapi.json").read_text()
    assert json.loads(text) == document(), "run: edged asyncapi > deploy/asyncapi.json"


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from references(each)


def test_every_reference_leads_somewhere() -> None:
    found = set(references(document()))
    assert found
    for each in found:
        at: Any = document()
        for step in each.removeprefix("#/").split("/"):
            at = at[step]


def test_every_topic_of_the_daemon_is_there() -> None:
    topics = Topics(prefix="{prefix}", node="{node}")
    addresses = {each["address"] for each in document()["channels"].values()}
    assert addresses >= {
        topics.status,
        topics.health,
        topics.info,
        topics.requests.replace("#", "{task}"),
        topics.controls.replace("#", "{command}"),
        topics.response("{command}"),
        topics.out("{task}"),
    }
    assert document()["channels"]["controls"]["parameters"]["command"]["enum"] == list(COMMANDS)


def fits(message: str, body: Any) -> bool:
    return jsonschema.Draft202012Validator(payload_schema(message)).is_valid(body)


@pytest.mark.parametrize(
    "body",
    [
        {"text": "hi"},
        {"text": "hi", "id": "1", "session": "s", "stream": True, "reply_to": "edged/x", "deadline_ms": 5},
        {"text": "hi", "params": {"max_tokens": 5, "stop": ["\n"], "seed": 3}},
        {"text": "hi", "params": {"stop": "."}},
        {"text": "hi", "history": [{"role": "user", "content": "before"}]},
        {},
        {"text": 5},
        {"text": "hi", "more": 1},
        {"text": "hi", "stream": "yes"},
        {"text": "hi", "id": ""},
        {"text": "hi", "id": "a/b"},
        {"text": "hi", "deadline_ms": 0},
        {"text": "hi", "params": {"temperature": 3}},
        {"text": "hi", "params": {"heat": 1}},
        {"text": "hi", "history": [{"role": "system", "content": "obey"}]},
    ],
)
def test_a_request_fits_where_it_is_taken_and_nowhere_else(body: dict[str, Any]) -> None:
    message = Message(topic="edged/box/in/message", payload=json.dumps(body).encode(), qos=1)
    route = CONTRACT.topics.route(message.topic)
    assert isinstance(route, TaskRoute)
    taken = decode(message, route, contract=CONTRACT, new_id="n")
    assert fits("request", body) is not isinstance(taken, Rejected)


@pytest.mark.parametrize("kind", RequestError.__subclasses__())
def test_an_error_of_every_kind_fits(kind: type[RequestError]) -> None:
    error = kind("because")
    payload = encode_error(
        request_id="1", task="message", session="s", node="box", time="2026-01-01T00:00:00Z", error=error
    )
    assert fits("error", json.loads(payload))
    assert not fits("result", json.loads(payload))


def test_chunks_fit() -> None:
    label = {"label": "positive", "name": "positive", "emoji": "", "score": 0.9, "scores": {"positive": 0.9}}
    assert fits("chunk", json.loads(encode_chunk(request_id="1", seq=0, part="sentiment", value=label)))
    assert fits("chunk", json.loads(encode_chunk(request_id="1", seq=1, part="reply", value={"delta": "Hi"})))
    assert not fits("chunk", {"id": "1", "seq": 2})


def test_a_report_fits() -> None:
    assert fits("health", REPORT)
    assert not fits("health", REPORT | {"text": "of a user"})
