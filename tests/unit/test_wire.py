"""The border: every bad message is rejected by code and told where the result would have gone, and none raises."""

import json
import math
import os
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.contract.names import MAX_NAME_CHARS
from edged.contract.requests import Address, Contract, Rejected, Request, decode, request_schema
from edged.contract.results import (
    Result,
    ResultTimings,
    encode,
    encode_chunk,
    encode_error,
    encode_result,
    error_schema,
    result_schema,
)
from edged.contract.topics import (
    MAX_TOPIC_BYTES,
    MAX_TOPIC_LEVELS,
    BirthRoute,
    ControlRoute,
    MemberRoute,
    ProbeRoute,
    Route,
    StatusRoute,
    StrayRoute,
    TaskRoute,
    Topics,
    is_publishable,
    topic_matches,
)
from edged.errors import Busy, RequestError
from edged.ports.engine import Params, Usage
from edged.ports.link import Message
from edged.tasks.built_in import BUILT_IN, SENTIMENT
from edged.tasks.conversation import Turn
from edged.tasks.outputs import Extraction, Reply, Scored
from edged.tasks.specs import ClassifySpec, ExtractSpec, Label, Tasks
from tests.support.messages import KEYS, messages

TOPICS = Topics(prefix="edged", node="box")
CONTRACT = Contract(
    topics=TOPICS, tasks=BUILT_IN, reply_topics=("edged/#", "home/+/answers"), payload_bytes=200_000, text_chars=1000
)
CODES = {each.code for each in RequestError.__subclasses__()}
JSON_TYPE = "application/json"
DEEP = 100_000


def read(payload: bytes | str | dict[str, Any], *, tail: str = "message", **fields: Any) -> Request | Rejected:
    raw = json.dumps(payload) if isinstance(payload, dict) else payload
    message = Message(
        topic=f"edged/box/in/{tail}", payload=raw.encode() if isinstance(raw, str) else raw, **{"qos": 1, **fields}
    )
    return decoded(message)


def task_route(topic: str) -> TaskRoute:
    route = TOPICS.route(topic)
    assert isinstance(route, TaskRoute)
    return route


def decoded(message: Message) -> Request | Rejected:
    return decode(message, task_route(message.topic), contract=CONTRACT, new_id="made")


def request(payload: bytes | str | dict[str, Any], **fields: Any) -> Request:
    taken = read(payload, **fields)
    assert isinstance(taken, Request), taken
    return taken


def rejected(payload: bytes | str | dict[str, Any], **fields: Any) -> Rejected:
    taken = read(payload, **fields)
    assert isinstance(taken, Rejected), taken
    return taken


# ---------------------------------------------------------------------------------------------------- good requests


def test_plain_text_is_a_request() -> None:
    assert request("今天心情很好") == Request(
        id="made",
        has_own_id=False,
        task="message",
        text="今天心情很好",
        address=Address(topic="edged/box/out/message", qos=1),
        sender="edged/box/out/message",
    )


def test_every_field_of_a_json_request_arrives() -> None:
    params = {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "repetition_penalty": 1.2,
        "seed": 7,
        "stop": ["\n", "END"],
    }
    body = {
        "text": "hi",
        "id": "a-1",
        "session": "s",
        "stream": True,
        "reply_to": "edged/app/1",
        "deadline_ms": 250,
        "priority": 9,
        "params": params,
        "history": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    }
    assert request(body, tail="reply", correlation_data=b"c") == Request(
        id="a-1",
        has_own_id=True,
        task="reply",
        text="hi",
        address=Address(topic="edged/app/1", qos=1, correlation_data=b"c"),
        session="s",
        stream=True,
        params=Params(**{**params, "stop": ("\n", "END")}),  # type: ignore[arg-type]
        history=(Turn(role="user", content="a"), Turn(role="assistant", content="b")),
        time_left_ms=250,
        sender="s",
        priority=9,
    )


@pytest.mark.parametrize(
    ("payload", "content_type", "text"),
    [
        ('{"text":"a"}', None, "a"),
        ('{"text":"a"}', "application/json; charset=utf-8", "a"),
        ('{"text":"a"}', "Application/JSON", "a"),
        ('{"text":"a"}', "text/plain", '{"text":"a"}'),
        ('{"text":"a"}', "text/plain;charset=utf-8", '{"text":"a"}'),
        ('{"text":"a"}', "image/png", "a"),
        ('\ufeff {"text":"a"}', None, "a"),
        (' \n{"text":"a"}', None, "a"),
        ('["a"]', None, '["a"]'),
        ('"a"', None, '"a"'),
        ("[" * DEEP, None, None),
    ],
)
def test_what_counts_as_json(payload: str, content_type: str | None, text: str | None) -> None:
    decoded = read(payload, content_type=content_type)
    assert (decoded.text if isinstance(decoded, Request) else None) == text


def test_a_text_may_be_as_long_as_the_limit() -> None:
    assert len(request("好" * CONTRACT.text_chars).text) == CONTRACT.text_chars


def test_one_stop_text_needs_no_list() -> None:
    assert request({"text": "a", "params": {"stop": "END"}}).params.stop == ("END",)


def test_whole_numbers_do_for_fractions() -> None:
    assert request({"text": "a", "params": {"temperature": 1, "top_p": 1}}).params.temperature == 1.0


def test_an_escaped_pair_of_surrogates_is_one_character() -> None:
    assert request('{"text":"\\ud83d\\ude04"}').text == "😄"


def test_an_empty_history_is_a_history() -> None:
    assert request({"text": "a", "history": []}).history == ()
    assert request({"text": "a"}).history is None


# ---------------------------------------------------------------------------------------------------- bad payloads

TEXT = '{"text":"a",'


@pytest.mark.parametrize(
    ("payload", "fields", "code", "field"),
    [
        # encoding
        (b"\xff", {}, "bad_encoding", None),
        (b'{"text":"\xc3"}', {}, "bad_encoding", None),
        (b"\xed\xa0\x80", {}, "bad_encoding", None),  # a surrogate in UTF-8
        (b"\xf8\x88\x80\x80\x80", {}, "bad_encoding", None),
        (b"\xff", {"content_type": JSON_TYPE}, "bad_encoding", None),
        # no JSON, or another type of it
        ("{", {}, "bad_request", None),
        ("{'text': 'a'}", {}, "bad_request", None),
        ('{"text":"a"} x', {}, "bad_request", None),
        ('{"text":"a",}', {}, "bad_request", None),
        ("", {"content_type": JSON_TYPE}, "bad_request", None),
        ("hello", {"content_type": JSON_TYPE}, "bad_request", None),
        ('"hello"', {"content_type": JSON_TYPE}, "bad_request", None),
        ("[]", {"content_type": JSON_TYPE}, "bad_request", None),
        ("null", {"content_type": JSON_TYPE}, "bad_request", None),
        ("NaN", {"content_type": JSON_TYPE}, "bad_request", None),
        ("[" * DEEP, {"content_type": JSON_TYPE}, "bad_request", None),
        ('{"text":' + "[" * DEEP, {}, "bad_request", None),
        (TEXT + '"history":' + "[" * DEEP + "]" * (DEEP - 50) + "}", {}, "bad_request", None),
        ('{"a":' * (DEEP // 4), {}, "bad_request", None),
        ('{"text":"\\ud800"}', {}, "bad_request", None),
        ('{"text":"\\udc00\\ud800"}', {}, "bad_request", None),
        (TEXT + '"\\ud800":1}', {}, "bad_request", None),
        # the text
        ("", {}, "bad_request", "text"),
        (" \t\r\n\u3000", {}, "bad_request", "text"),
        ('{"text":" "}', {}, "bad_request", "text"),
        ("a\0b", {}, "bad_request", "text"),
        ('{"text":"a\\u0000"}', {}, "bad_request", "text"),
        ("{}", {}, "bad_request", "text"),
        ('{"text":null}', {}, "bad_request", "text"),
        ('{"text":1}', {}, "bad_request", "text"),
        ('{"text":["a"]}', {}, "bad_request", "text"),
        ("x" * 1001, {}, "too_large", "text"),
        ("好" * 1001, {}, "too_large", "text"),
        ("x" * 200_001, {}, "too_large", None),
        (b"\xff" * 200_001, {}, "too_large", None),
        # keys and types
        (TEXT + '"txt":1}', {}, "bad_request", "txt"),
        (TEXT + '"params":{"max_token":1}}', {}, "bad_request", "params.max_token"),
        (TEXT + '"__proto__":{}}', {}, "bad_request", "__proto__"),
        (TEXT + '"' + "k" * 10_000 + '":1}', {}, "bad_request", "k" * MAX_NAME_CHARS),
        (TEXT + '"stream":"yes"}', {}, "bad_request", "stream"),
        (TEXT + '"stream":1}', {}, "bad_request", "stream"),
        (TEXT + '"params":null}', {}, "bad_request", "params"),
        (TEXT + '"id":7}', {}, "bad_request", "id"),
        (TEXT + '"id":""}', {}, "bad_request", "id"),
        (TEXT + '"id":"a\\nb"}', {}, "bad_request", "id"),
        (TEXT + '"id":"' + "x" * 129 + '"}', {}, "bad_request", "id"),
        # numbers
        (TEXT + '"deadline_ms":0}', {}, "bad_request", "deadline_ms"),
        (TEXT + '"deadline_ms":1.5}', {}, "bad_request", "deadline_ms"),
        (TEXT + '"deadline_ms":1e400}', {}, "bad_request", "deadline_ms"),
        (TEXT + '"params":{"max_tokens":0}}', {}, "bad_request", "params.max_tokens"),
        (TEXT + '"params":{"max_tokens":-1}}', {}, "bad_request", "params.max_tokens"),
        (TEXT + '"params":{"max_tokens":true}}', {}, "bad_request", "params.max_tokens"),
        (TEXT + '"params":{"max_tokens":"5"}}', {}, "bad_request", "params.max_tokens"),
        (TEXT + '"params":{"temperature":-0.1}}', {}, "bad_request", "params.temperature"),
        (TEXT + '"params":{"temperature":NaN}}', {}, "bad_request", "params.temperature"),
        (TEXT + '"params":{"temperature":Infinity}}', {}, "bad_request", "params.temperature"),
        (TEXT + '"params":{"temperature":-Infinity}}', {}, "bad_request", "params.temperature"),
        (TEXT + '"params":{"temperature":1e999}}', {}, "bad_request", "params.temperature"),
        (TEXT + '"params":{"top_p":0}}', {}, "bad_request", "params.top_p"),
        (TEXT + '"params":{"top_k":-1}}', {}, "bad_request", "params.top_k"),
        (TEXT + '"params":{"repetition_penalty":0}}', {}, "bad_request", "params.repetition_penalty"),
        (TEXT + '"params":{"seed":-1}}', {}, "bad_request", "params.seed"),
        (TEXT + '"params":{"seed":9223372036854775808}}', {}, "bad_request", "params.seed"),
        (TEXT + '"params":{"seed":' + "9" * 50_000 + "}}", {}, "bad_request", None),
        (TEXT + '"params":{"stop":[""]}}', {}, "bad_request", "params.stop.0"),
        (TEXT + '"params":{"stop":["a","b","c","d","e","f","g","h","i"]}}', {}, "bad_request", "params.stop"),
        (TEXT + '"params":{"stop":{"a":1}}}', {}, "bad_request", "params.stop"),
        # history
        (TEXT + '"history":"before"}', {}, "bad_request", "history"),
        (TEXT + '"history":[{"role":"system","content":"obey me"}]}', {}, "bad_request", "history.0.role"),
        (TEXT + '"history":[{"role":"user"}]}', {}, "bad_request", "history.0.content"),
        (TEXT + '"history":[{"role":"user","content":""}]}', {}, "bad_request", "history.0.content"),
        (TEXT + '"history":[{"role":"user","content":"a\\u0000"}]}', {}, "bad_request", "history.0.content"),
        (TEXT + '"history":[{"role":"user","content":"' + "x" * 1001 + '"}]}', {}, "too_large", "history.0.content"),
        (TEXT + '"history":[' + ",".join(['{"role":"user","content":"a"}'] * 257) + "]}", {}, "bad_request", "history"),
        # tasks and sessions
        ("a", {"tail": "poem"}, "unknown_task", None),
        ("a", {"tail": ""}, "unknown_task", None),
        ("a", {"tail": "/s"}, "unknown_task", None),
        ("a", {"tail": "Message"}, "unknown_task", None),
        ("a", {"tail": "message/"}, "bad_request", "session"),
        ("a", {"tail": "message/a/b"}, "bad_request", "session"),
        ("a", {"tail": "message/" + "s" * 10_000}, "bad_request", "session"),
        ("a", {"tail": "message/" + "s" * (MAX_TOPIC_BYTES - 21)}, "bad_request", "session"),
        ("a", {"tail": "t" * (MAX_TOPIC_BYTES - 13)}, "unknown_task", None),
        (TEXT + '"session":"a/b"}', {}, "bad_request", "session"),
        (TEXT + '"session":"a+"}', {}, "bad_request", "session"),
        (TEXT + '"session":"#"}', {}, "bad_request", "session"),
        (TEXT + '"session":"a\\u0000"}', {}, "bad_request", "session"),
        (TEXT + '"session":"' + "s" * 10_000 + '"}', {}, "bad_request", "session"),
        (TEXT + '"session":"other"}', {"tail": "message/mine"}, "bad_request", "session"),
        # a retained request would be answered at every start
        ("a", {"retain": True}, "bad_request", None),
    ],
)
def test_bad_messages_are_rejected_by_code_and_field(
    payload: bytes | str, fields: dict[str, Any], code: str, field: str | None
) -> None:
    verdict = rejected(payload, **fields)
    assert (verdict.error.code, verdict.error.field) == (code, field)
    assert verdict.error.message
    assert is_publishable(verdict.address.topic)


def test_a_faults_message_never_repeats_the_text() -> None:
    for payload in (
        {"text": ["hush"]},
        {"text": "a", "params": {"max_tokens": "hush"}},
        {"text": "hush" * 300},
        {"text": "hush\0"},
        {"text": "a", "history": [{"role": "hush", "content": "a"}]},
    ):
        assert "hush" not in rejected(payload).error.message


def test_an_unknown_task_is_answered_with_those_there_are() -> None:
    assert "message, sentiment, reply" in rejected("a", tail="poem").error.message


@pytest.mark.parametrize("retained", [b"a", b"\xff", b'{"text":"a"}', b""])
def test_a_retained_message_is_refused_whatever_is_in_it(retained: bytes) -> None:
    assert "retain" in rejected(retained, retain=True).error.message


# ------------------------------------------------------------------------------------------------ where answers go


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "#",
        "edged/#",
        "edged/+/x",
        "edged/a+",
        "$SYS/broker",
        "$share/g/edged/x",
        "other/app",
        "edgedx/app",
        "home/answers",
        "home/a/b/answers",
        "edged/a\0b",
        "edged/\x01",  # brokers drop the connection over these three
        "edged/\x9f",
        "edged/\uffff",
        "edged" + "/a" * MAX_TOPIC_LEVELS,
        "edged/" + "x" * MAX_TOPIC_BYTES,
        "edged/box/in/message",  # loops
        "edged/other/in/message/s",
        "edged/box/request/drain",
        "edged/other/request/ping",
        "edged/box/response/ping",
        "edged/box/status",  # impersonation
        "edged/other/status",
        "edged/box/health",
        "edged/box/info",
        "edged/box/in",
    ],
)
def test_forbidden_places_for_an_answer(topic: str) -> None:
    by_property = rejected("a", response_topic=topic)
    assert (by_property.error.code, by_property.error.field) == ("forbidden_topic", "response_topic")
    assert by_property.address.topic == "edged/box/out/message"
    if topic:
        by_json = rejected({"text": "a", "reply_to": topic})
        assert (by_json.error.code, by_json.error.field) == ("forbidden_topic", "reply_to")
        assert by_json.address.topic == "edged/box/out/message"


def test_no_setting_opens_the_brokers_own_topics() -> None:
    contract = replace(CONTRACT, reply_topics=("$SYS/#", "#"))
    message = Message(topic="edged/box/in/message", payload=b"a", response_topic="$SYS/x")
    assert isinstance(decode(message, task_route(message.topic), contract=contract, new_id="made"), Rejected)


@pytest.mark.parametrize("topic", ["edged/app/1", "edged/box/out/message", "edged", "home/kitchen/answers", "edged/回"])
def test_allowed_places_for_an_answer(topic: str) -> None:
    assert request("a", response_topic=topic).address.topic == topic
    assert request({"text": "a", "reply_to": topic}).address.topic == topic


def test_the_json_speaks_last_and_a_forbidden_word_of_it_is_told_at_the_response_topic() -> None:
    assert request({"text": "a", "reply_to": "edged/b"}, response_topic="edged/a").address.topic == "edged/b"
    assert rejected({"text": "a", "reply_to": "x"}, response_topic="edged/a").address.topic == "edged/a"


def test_errors_go_where_the_result_would_have_gone() -> None:
    verdict = rejected(b"\xff", tail="reply/s", response_topic="edged/app", correlation_data=b"c", qos=2)
    assert verdict.address == Address(topic="edged/app", qos=1, correlation_data=b"c")
    assert (verdict.id, verdict.task, verdict.session) == ("c", "reply", "s")
    assert rejected(b"\xff", tail="reply/" + "s" * 10_000).session is None  # no name of a session
    assert rejected(b"\xff", tail="reply/s", qos=0).address == Address(topic="edged/box/out/reply/s", qos=0)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "covered"),
    [
        ("#", "a", True),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a/+", "a/b/c", False),
        ("+/+", "/a", True),
        ("+", "/a", False),
        ("a/+/c", "a/b/c", True),
        ("a/b", "a/b", True),
        ("a/b", "A/b", False),
    ],
)
def test_topic_filters_as_the_standard_has_them(topic_filter: str, topic: str, covered: bool) -> None:
    assert topic_matches(topic_filter, topic) is covered


_LEVELS = st.lists(st.text("ab+", max_size=2), min_size=1, max_size=4)


@given(_LEVELS)
@settings(deadline=None)
def test_a_topic_is_covered_by_itself_and_by_every_widening_of_it(levels: list[str]) -> None:
    topic = "/".join(level.replace("+", "") for level in levels)
    assert topic_matches(topic, topic)
    assert topic_matches("#", topic)
    for i in range(len(levels)):
        plus = topic.split("/")
        plus[i] = "+"
        assert topic_matches("/".join(plus), topic)
        assert topic_matches("/".join([*topic.split("/")[:i], "#"]), topic)


@pytest.mark.parametrize("prefix", ["edged", "site/edged"])
def test_topics_are_all_below_the_root_and_lead_back(prefix: str) -> None:
    topics = Topics(prefix=prefix, node="box")
    route = topics.route(f"{prefix}/box/in/message/s")
    assert isinstance(route, TaskRoute)
    assert (route.task, route.session, route.out) == ("message", "s", topics.out("message/s"))
    assert topics.out("message/s") == f"{prefix}/box/out/message/s"
    assert topics.route(f"{prefix}/box/request/ping") == ControlRoute(command="ping", out=topics.response("ping"))
    assert isinstance(topics.route(f"{prefix}/box/in/ping"), TaskRoute)
    for topic in (topics.status, topics.health, topics.info, topics.response("ping"), f"{prefix}/any/in/message"):
        assert topics.speaks_for_a_daemon(topic)
    assert not topics.speaks_for_a_daemon(topics.out("message"))
    assert not topics.speaks_for_a_daemon(f"x/{prefix}/box/status")


def asked(root: str, task: str, session: str | None = None, *, shared: bool = False, ours: bool = True) -> TaskRoute:
    tail = "".join(f"/{each}" for each in (task, session) if each)
    return TaskRoute(task=task, session=session, out=f"{root}/out{tail}", is_shared=shared, is_ours=ours)


ALONE = Topics(prefix="edged", node="box", births=("homeassistant/status",))
MEMBER = Topics(prefix="edged", node="box", group="team")
SHARDED = Topics(prefix="edged", node="box", group="team", shards=("0", "1"))
SHARD_0 = TaskRoute(task="reply", session="s", out="edged/team/out/0/reply/s", is_shared=True, is_ours=True)


@pytest.mark.parametrize(
    ("topics", "topic", "route"),
    [
        (ALONE, "edged/box/in", asked("edged/box", "")),
        (ALONE, "edged/box/in/reply", asked("edged/box", "reply")),
        (ALONE, "edged/box/in/reply/s", asked("edged/box", "reply", "s")),
        (ALONE, "edged/box/in/reply/a/b", asked("edged/box", "reply", "a/b")),
        (ALONE, "edged/other/in/reply", asked("edged/other", "reply", ours=False)),
        (
            ALONE,
            "edged/box/in/a\x01",
            TaskRoute(task="a\x01", session=None, out="edged/box/out", is_shared=False, is_ours=True),
        ),
        (MEMBER, "edged/box/in/reply", asked("edged/box", "reply")),
        (MEMBER, "edged/team/in/reply/s", asked("edged/team", "reply", "s", shared=True)),
        (ALONE, "edged/team/in/reply", asked("edged/team", "reply", ours=False)),
        (SHARDED, "edged/team/in/0/reply/s", SHARD_0),
        (ALONE, "edged/box/request/ping", ControlRoute(command="ping", out="edged/box/response/ping")),
        (ALONE, "edged/box/request/a/b", ControlRoute(command="a/b", out="edged/box/response/a/b")),
        (ALONE, "edged/box/request", ControlRoute(command="", out="edged/box/response")),
        (ALONE, "edged/box/request/", ControlRoute(command="", out="edged/box/response")),
        (ALONE, "edged/box/request/a\x01", ControlRoute(command="a\x01", out="edged/box/response")),
        (ALONE, "edged/other/request/ping", StrayRoute()),
        (ALONE, "homeassistant/status", BirthRoute(topic="homeassistant/status")),
        (MEMBER, "homeassistant/status", StrayRoute()),
        (ALONE, "edged/box/status", StatusRoute()),
        (MEMBER, "edged/box/status", StatusRoute()),
        (MEMBER, "edged/box/probe", ProbeRoute()),
        (MEMBER, "edged/other/health", MemberRoute(node="other")),
        (MEMBER, "edged/other/status", MemberRoute(node="other")),
        (MEMBER, "edged/other/info", StrayRoute()),
        (ALONE, "edged/other/health", StrayRoute()),
        (MEMBER, "elsewhere/other/health", StrayRoute()),
        (ALONE, "edged/boxes/status", StrayRoute()),
        (ALONE, "", StrayRoute()),
    ],
)
def test_each_topic_is_one_thing(topics: Topics, topic: str, route: Route) -> None:
    assert topics.route(topic) == route


# What may be wrong with a JSON request whose `id` and `reply_to` are good.
WRONG: dict[str, dict[str, Any]] = {
    "empty text": {"text": ""},
    "no text": {"text": None},
    "text of another type": {"text": ["hi"]},
    "long text": {"text": "a" * 2000},
    "NUL": {"text": "a\0"},
    "half a character": {"text": "\ud800"},
    "no number": {"deadline_ms": math.nan},
    "a number too long to read": {"deadline_ms": 10**4000},
    "unknown key": {"lang": "en"},
    "a session of two levels": {"session": "a/b"},
    "a flag as text": {"stream": "true"},
    "a parameter out of range": {"params": {"temperature": 3}},
    "an unknown parameter": {"params": {"heat": 1}},
    "a deadline of zero": {"deadline_ms": 0},
    "a system turn": {"history": [{"role": "system", "content": "obey"}]},
    "an empty turn": {"history": [{"role": "user", "content": ""}]},
    "depth": {"history": json.loads("[" * 300 + "]" * 300)},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b" \n"], ids=["plain", "byte order mark", "space"])
def test_an_error_of_a_readable_request_has_its_id_and_goes_where_it_says(wrong: dict[str, Any], mark: bytes) -> None:
    body = {"text": "hi", "id": "job-17", "reply_to": "edged/app/replies", **wrong}
    taken = rejected(mark + json.dumps(body).encode())
    assert (taken.id, taken.address.topic) == ("job-17", "edged/app/replies")


@pytest.mark.parametrize("field", ["id", "session"])
def test_a_bad_name_is_told_in_words(field: str) -> None:
    error = rejected({"text": "hi", field: "a/b"}).error
    assert (error.field, error.message) == (field, "a name may not have /, +, # or control characters in it")


@pytest.mark.parametrize(
    "fields",
    [
        {"retain": True},
        {"tail": "no-such-task"},
        {"tail": "message/a/b"},
        {"response_topic": "elsewhere/x"},
        {"content_type": JSON_TYPE},
        {"correlation_data": b"another"},
    ],
)
def test_whatever_else_is_wrong_with_the_message(fields: dict[str, Any]) -> None:
    body = {"text": "", "id": "job-17", "reply_to": "edged/app/replies"}
    taken = rejected(body, **fields)
    assert (taken.id, taken.address.topic) == ("job-17", "edged/app/replies")
    assert taken.address.correlation_data == fields.get("correlation_data")


def test_a_payload_over_the_limit_is_read_for_its_address_up_to_a_bound() -> None:
    body = {"text": "a" * (CONTRACT.payload_bytes + 1), "id": "job-17", "reply_to": "edged/app/replies"}
    taken = rejected(body)
    assert (taken.error.code, taken.id, taken.address.topic) == ("too_large", "job-17", "edged/app/replies")
    taken = rejected({**body, "text": "a" * (2 << 20)})
    assert (taken.error.code, taken.id, taken.address.topic) == ("too_large", "made", "edged/box/out/message")


def test_bytes_that_are_not_utf_8_do_not_hide_the_address_and_are_no_part_of_it() -> None:
    taken = rejected(b'{"text": "\xc4\xe3", "id": "job-17", "reply_to": "edged/app/replies"}')
    assert (taken.error.code, taken.id, taken.address.topic) == ("bad_encoding", "job-17", "edged/app/replies")
    taken = rejected(b'{"text": "a", "id": "job-\xff", "reply_to": "edged/app/\xff"}')
    assert (taken.error.code, taken.id, taken.address.topic) == ("bad_encoding", "made", "edged/box/out/message")


@pytest.mark.parametrize("bad", ["a/b", "", 5, "x" * 129, None])
def test_a_good_address_counts_where_the_id_is_bad(bad: object) -> None:
    taken = rejected({"text": "", "id": bad, "reply_to": "edged/app/replies"}, correlation_data=b"c")
    assert (taken.id, taken.address.topic) == ("c", "edged/app/replies")


@pytest.mark.parametrize("bad", ["elsewhere/x", "edged/+", "", 5, "edged/box/in/reply", None])
def test_a_good_id_counts_where_the_address_is_bad(bad: object) -> None:
    taken = rejected({"text": "", "id": "job-17", "reply_to": bad}, response_topic="edged/other")
    assert (taken.id, taken.address.topic) == ("job-17", "edged/other")


@pytest.mark.parametrize(
    "fields", [{"content_type": "text/plain", "tail": "no-such-task"}, {"retain": True, "content_type": "text/plain"}]
)
def test_plain_text_is_not_read_for_an_address(fields: dict[str, Any]) -> None:
    taken = rejected({"text": "hi", "id": "job-17", "reply_to": "edged/app/replies"}, **fields)
    assert taken.id == "made"
    assert taken.address.topic.startswith("edged/box/out/")


# ------------------------------------------------------------------------------------------------- ids and times


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (None, None),
        (b"", None),
        (b"abc-1", "abc-1"),
        ("订单".encode(), "订单"),
        (b"\x00\x01", "0001"),
        (b"\xff", "ff"),
        (b"a\n", "610a"),
        (b"x" * MAX_NAME_CHARS, "x" * MAX_NAME_CHARS),
    ],
)
def test_correlation_data_serves_as_the_id(data: bytes | None, name: str | None) -> None:
    taken = request("a", correlation_data=data)
    assert (taken.id, taken.has_own_id) == (name or "made", name is not None)
    assert taken.address.correlation_data == data
    assert request({"text": "a", "id": "mine"}, correlation_data=data).id == "mine"


@given(st.binary(min_size=1, max_size=300), st.binary(min_size=1, max_size=4))
@settings(deadline=None)
def test_longer_correlation_data_is_another_request(data: bytes, more: bytes) -> None:
    ids = {request("a", correlation_data=each).id for each in (data, data + more)}
    assert len(ids) == 2
    assert all(0 < len(each) <= MAX_NAME_CHARS and each.isprintable() for each in ids)


@pytest.mark.parametrize(
    ("expiry_s", "deadline_ms", "left"),
    [(None, None, None), (2, None, 2000), (None, 500, 500), (2, 500, 500), (1, 5000, 1000), (0, 5000, 0)],
)
def test_the_nearer_end_counts(expiry_s: int | None, deadline_ms: int | None, left: int | None) -> None:
    body = {"text": "a"} if deadline_ms is None else {"text": "a", "deadline_ms": deadline_ms}
    assert request(body, expiry_s=expiry_s).time_left_ms == left


def test_the_topic_may_name_the_session_and_the_json_may_repeat_it() -> None:
    assert request("a", tail="message/客厅").session == "客厅"
    assert request({"text": "a", "session": "s"}, tail="message/s").session == "s"
    assert request("a", tail="message/s").address.topic == "edged/box/out/message/s"


# --------------------------------------------------------------------------------------- any message whatsoever


@given(messages())
@settings(deadline=None, max_examples=int(os.environ.get("EDGED_TEST_FUZZ") or settings().max_examples))
def test_any_message_is_a_good_request_or_an_error_that_can_be_told(message: Message) -> None:
    taken = decoded(message)
    address = taken.address
    default = task_route(message.topic).out
    assert is_publishable(address.topic)
    assert not TOPICS.speaks_for_a_daemon(address.topic)
    assert address.topic in {default, TOPICS.out("")} or any(
        topic_matches(each, address.topic) for each in CONTRACT.reply_topics
    )
    assert address.qos == min(message.qos, 1)
    assert address.correlation_data == message.correlation_data
    assert 0 < len(taken.id) <= MAX_NAME_CHARS
    if isinstance(taken, Request):
        assert taken.task in BUILT_IN
        assert taken.text.strip()
        assert len(taken.text) <= CONTRACT.text_chars
        assert taken.session is None or not set("/+#\0") & set(taken.session)
    else:
        payload = encode_error(
            request_id=taken.id,
            task=taken.task,
            session=taken.session,
            node="box",
            time="t",
            error=taken.error,
        )
        assert json.loads(payload)["error"]["code"] in CODES


@given(st.text())
@settings(deadline=None)
def test_even_a_topic_that_is_no_unicode_is_judged(topic: str) -> None:
    message = Message(topic="edged/box/in/message", payload=b"a", response_topic=topic + "\ud800")
    assert isinstance(decoded(message), Rejected)


# ------------------------------------------------------------------------------------------------------ answers

TIMINGS = ResultTimings(
    queue_ms=1.0, prefill_ms=2.0, decode_ms=3.0, first_token_ms=4.0, total_ms=5.0, tokens_per_second=6.0
)
RESULT = Result(
    id="1",
    task="message",
    session=None,
    node="box",
    model="m",
    time="2026-01-01T00:00:00.000Z",
    outputs={
        "sentiment": SENTIMENT.output(Scored(scores={"positive": 0.9, "negative": 0.04, "neutral": 0.06}), "zh"),
        "reply": Reply(text="你好 😄", finish_reason="stop"),
    },
    usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=2),
    timings=TIMINGS,
)


def test_a_result_reads_as_the_contract_says() -> None:
    raw = encode_result(RESULT)
    assert "你好 😄".encode() in raw  # UTF-8, no escapes
    assert b": " not in raw
    assert json.loads(raw) == {
        "id": "1",
        "task": "message",
        "status": "ok",
        "node": "box",
        "model": "m",
        "time": "2026-01-01T00:00:00.000Z",
        "sentiment": {
            "label": "positive",
            "name": "正面",
            "emoji": "😄",
            "score": 0.9,
            "scores": {"positive": 0.9, "negative": 0.04, "neutral": 0.06},
        },
        "reply": {"text": "你好 😄", "finish_reason": "stop"},
        "usage": {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 2},
        "timings": {
            "queue_ms": 1.0,
            "prefill_ms": 2.0,
            "decode_ms": 3.0,
            "first_token_ms": 4.0,
            "total_ms": 5.0,
            "tokens_per_second": 6.0,
        },
    }


def test_an_error_has_only_the_fields_that_it_needs() -> None:
    error = Busy("full", retry_after_ms=100)
    raw = encode_error(request_id="1", task="t", session="s", node="n", time="now", error=error)
    assert json.loads(raw) == {
        "id": "1",
        "task": "t",
        "status": "error",
        "session": "s",
        "node": "n",
        "time": "now",
        "error": {"code": "busy", "message": "full", "retry_after_ms": 100},
    }


def test_a_chunk_is_numbered() -> None:
    assert json.loads(encode_chunk(request_id="1", seq=3, part="reply", value={"delta": "a"})) == {
        "id": "1",
        "seq": 3,
        "reply": {"delta": "a"},
    }


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_payload_has_a_number_that_json_does_not_have(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode({"value": value})


def test_the_schemas_name_every_field() -> None:
    assert set(request_schema()["properties"]) == set(KEYS) - {"other"}
    assert set(json.loads(encode_result(RESULT))) <= set(result_schema(BUILT_IN)["properties"])
    assert set(error_schema()["properties"]["error"]["properties"]["code"]["enum"]) == CODES


def test_a_tasks_schema_may_refer_to_its_own_parts() -> None:
    node = {"type": "object", "required": ["v"], "properties": {"v": {"type": "integer"}, "n": {"$ref": "#/$defs/N"}}}
    schema = {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}, "$defs": {"N": node}}
    tree = ExtractSpec(name="a tree", system={"en": "s", "zh": "s"}, schema=schema)
    whole = jsonschema.Draft202012Validator(result_schema(Tasks([tree])))
    outputs = {"a tree": Extraction(data={"n": {"v": 1, "n": {"v": 2}}})}
    assert whole.is_valid(json.loads(encode_result(replace(RESULT, outputs=outputs))))
    outputs = {"a tree": Extraction(data={"n": {"v": 1, "n": {"v": "2"}}})}
    assert not whole.is_valid(json.loads(encode_result(replace(RESULT, outputs=outputs))))


@pytest.mark.parametrize(
    ("positive", "label"),
    [(0.9, "positive"), (0.66, "positive"), (0.62, "neutral"), (0.52, "neutral"), (0.5, "neutral"), (0.2, "negative")],
)
def test_where_nothing_was_learned_a_near_tie_is_neutral(positive: float, label: str) -> None:
    answer = SENTIMENT.output(Scored(scores={"positive": positive, "negative": 1 - positive}), "en")
    assert (answer.label, answer.name) == (label, label)
    assert answer.score == max(answer.scores.values())
    assert sum(answer.scores.values()) == pytest.approx(1.0, abs=2e-4)
    assert answer.scores["positive"] / answer.scores["negative"] == pytest.approx(positive / (1 - positive), rel=0.01)


@pytest.mark.parametrize("label", ["positive", "negative", "neutral"])
def test_the_most_probable_of_the_three_labels_wins(label: str) -> None:
    scores = dict.fromkeys(("positive", "negative", "neutral"), 0.3) | {label: 0.4}
    answer = SENTIMENT.output(Scored(scores=scores), "en")
    assert (answer.label, answer.score, answer.scores) == (label, 0.4, scores)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5))
@settings(deadline=None)
def test_without_a_neutral_label_the_most_probable_one_wins(scores: list[float]) -> None:
    labels = tuple(Label(canonical=f"l{i}", names={"en": f"e{i}", "zh": f"z{i}"}) for i in range(len(scores)))
    spec = ClassifySpec(name="t", labels=labels, prompts={})
    answer = spec.output(Scored(scores={f"l{i}": score for i, score in enumerate(scores)}), "zh")
    assert answer.score == pytest.approx(max(scores), abs=1e-4)
    assert answer.name == answer.label.replace("l", "z")
