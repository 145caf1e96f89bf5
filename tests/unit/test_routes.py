"""Routes of the settings: templates, conditions, what is a request, how the answer is written, and what is refused."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.contract.rules import MARK
from edged.contract.templates import Source, Template, TemplateError
from edged.contract.topics import filters_overlap, topic_matches
from edged.errors import SettingsError
from edged.ports.link import Delivery, Message
from edged.settings.load import load
from edged.settings.routes import EXAMPLE, RouteSettings
from edged.settings.schema import Settings
from edged.settings.text import show
from edged.tasks.own import GenerateSettings, tasks_of
from tests.unit.test_worker import Bench

LEVELS = st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=4)
FILTERS = st.tuples(st.lists(st.sampled_from(["a", "b", "+", ""]), max_size=3), st.sampled_from(["a", "+", "#"])).map(
    lambda parts: "/".join([*parts[0], parts[1]])
)


def route(**fields: Any) -> RouteSettings:
    return RouteSettings.model_validate(
        {"subscribe": "chat/+", "task": "sentiment", "publish": "mood/{topic[1]}"} | fields
    )


def bench(**fields: Any) -> Bench:
    return Bench(routes={"mood": route(**fields)})


def send(bench: Bench, payload: object, *, topic: str = "chat/ada", **fields: Any) -> Delivery:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    delivery = bench.link.deliver(Message(topic=topic, payload=raw, **({"qos": 1} | fields)))
    bench.turn()
    return delivery


# ------------------------------------------------------------------------------------------------------ templates

SOURCE = Source(topic="a/b/c", payload='{"x": {"y/z": [1, "two", null, true]}, "~": 2.5}')


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{topic}", "a/b/c"),
        ("{topic[2]}-{topic[0]}", "c-a"),
        ("/x/y~1z/1", "two"),
        ("{/x/y~1z/0} and {/~0}", "1 and 2.5"),
        ("{/x/y~1z/3}", True),
        ("{{{topic[1]}}}", "{b}"),
        ("{/x}", {"y/z": [1, "two", None, True]}),
    ],
)
def test_a_template_stands_for_parts_of_topic_and_payload(template: str, value: object) -> None:
    assert Template.of_value(template).value(SOURCE) == value


@pytest.mark.parametrize("template", ["/y", "{topic[3]}", "/x/y~1z/4", "/x/y~1z/01", "/x/y~1z/-", "{/x/y~1z/2}."])
def test_what_is_not_there_is_named_without_the_payload(template: str) -> None:
    with pytest.raises(TemplateError) as error:
        Template.of_value(template).render(SOURCE)
    assert "two" not in str(error.value)


@pytest.mark.parametrize("template", ["{", "}", "{what}", "{/a~2}", "{topic[x]}", "{{}"])
def test_a_template_that_cannot_be_read_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"brace|stands for nothing|Pointer"):
        Template.parse(template)


@given(FILTERS, FILTERS, LEVELS)
def test_filters_overlap_if_they_have_a_topic_in_common(one: str, other: str, levels: list[str]) -> None:
    topic = "/".join(levels)
    if topic_matches(one, topic) and topic_matches(other, topic):
        assert filters_overlap(one, other)
        assert filters_overlap(other, one)


def test_filters_that_have_no_topic_in_common_do_not_overlap() -> None:
    assert not filters_overlap("a/+", "a/b/c")
    assert not filters_overlap("a/+/x", "a/b/y")
    assert not filters_overlap("a/b/#", "a/c/#")


# -------------------------------------------------------------------------------------------------- what is answered


def test_text_of_another_topic_is_answered_where_the_route_says() -> None:
    b = bench(text="/message", payload="/sentiment/label", retain=True)
    delivery = send(b, {"message": "bad news"})
    [answer] = b.link.published
    assert (answer.topic, answer.payload, answer.retain, answer.qos) == ("mood/ada", b"negative", True, 1)
    assert answer.content_type == "text/plain"
    assert b.link.acked == [delivery]


def test_an_answer_in_json_keeps_types_and_escapes_text() -> None:
    b = bench(
        task="reply",
        text="/payload",
        payload={"to": "{request/from}", "type": "sendtext", "payload": "{/reply/text}", "n": [1, "{topic[1]}"]},
    )
    send(b, {"from": 4711, "payload": 'say "hi"'})
    [answer] = b.link.published
    assert json.loads(answer.payload) == {
        "to": 4711,
        "type": "sendtext",
        "payload": 'You said: say "hi"',
        "n": [1, "ada"],
    }


def test_without_a_form_the_whole_result_is_published() -> None:
    b = bench(task="reply", session="{topic[1]}")
    send(b, b"hello")
    [answer] = b.answers("mood/ada")
    assert (answer["reply"]["text"], answer["session"]) == ("You said: hello", "ada")
    assert [turn.content for turn in b.journal.turns("ada")] == ["hello", "You said: hello"]


@pytest.mark.parametrize(
    ("when", "is_answered"),
    [
        ({"value": "/type", "equals": "end"}, True),
        ({"value": "/type", "equals": "new"}, False),
        ({"value": "/n", "equals": 1}, True),
        ({"value": "/n", "equals": True}, False),
        ({"value": "{topic[1]}", "matches": "^a"}, True),
        ({"value": "/type", "matches": "^x"}, False),
        ({"value": "/n", "matches": "1"}, False),
        ({"value": "/text", "exists": True}, True),
        ({"value": "/none", "exists": True}, False),
        ({"value": "/other", "exists": False}, True),
        ([{"value": "/n", "equals": 1}, {"value": "/type", "equals": "new"}], False),
    ],
)
def test_conditions_decide_which_messages_are_answered(when: Any, *, is_answered: bool) -> None:
    b = bench(text="/text", when=when)
    delivery = send(b, {"type": "end", "n": 1, "none": None, "text": "hi"})
    assert len(b.link.published) == is_answered
    assert b.link.acked == [delivery]
    assert b.metrics.snapshot(0).requests.skipped == (not is_answered)


def test_the_first_route_whose_conditions_hold_takes_the_message() -> None:
    b = Bench(
        routes={
            "urgent": route(when={"value": "/level", "equals": "error"}, publish="urgent", text="/text"),
            "other": route(subscribe="chat/#", publish="other", text="/text"),
        }
    )
    send(b, {"level": "error", "text": "one"})
    send(b, {"level": "info", "text": "two"})
    assert [each.topic for each in b.link.published] == ["urgent", "other"]


# ---------------------------------------------------------------------------------------------------- what is not


def test_a_route_takes_no_more_messages_in_a_minute_than_its_rate() -> None:
    b = bench(rate=2, errors="mood/errors")
    deliveries = [send(b, f"text {n}".encode(), topic=f"chat/{n}") for n in range(3)]
    assert [each.topic for each in b.link.published] == ["mood/0", "mood/1", "mood/errors"]
    [error] = b.answers("mood/errors")
    assert (error["error"]["code"], error["error"]["retry_after_ms"]) == ("busy", 30001)
    assert b.link.acked == deliveries
    b.now += 30.001
    send(b, b"again", topic="chat/3")
    assert b.link.published[-1].topic == "mood/3"


def test_a_retained_message_was_answered_when_it_was_sent() -> None:
    b = bench()
    delivery = send(b, b"hi", retain=True)
    assert not b.link.published
    assert b.link.acked == [delivery]


def test_an_answer_of_this_daemon_does_not_come_in_again() -> None:
    b = bench()
    send(b, b"hi", user_properties=((MARK, "edged/other:a"), (MARK, "edged/box:mood")))
    assert not b.link.published


def test_answers_bear_a_mark_and_a_chain_of_routes_has_an_end() -> None:
    b = bench()
    marks: tuple[tuple[str, str], ...] = ()
    for i in range(4):
        marks = (*marks, (MARK, f"edged/box{i}:a"))
        send(b, b"hi", user_properties=marks)
    *answered, refused = b.link.published
    assert answered[0].user_properties == ((MARK, "edged/box0:a"), (MARK, "edged/box:mood"))
    assert [each.topic for each in answered] == ["mood/ada"] * 3
    assert json.loads(refused.payload)["error"]["code"] == "bad_request"


@pytest.mark.parametrize(
    ("payload", "fields", "code", "field"),
    [
        (b"\xff\xfe\x00", {}, "bad_encoding", None),
        (b"no json", {"text": "/a"}, "bad_request", "routes.mood.text"),
        (b"{}", {"text": "/a"}, "bad_request", "routes.mood.text"),
        (b'{"a": "\\ud800"}', {"text": "/a"}, "bad_request", "routes.mood.text"),
        (b'{"a": ""}', {"text": "/a"}, "bad_request", "text"),
        (b'{"a": "hi", "s": "x/y"}', {"text": "/a", "session": "/s"}, "bad_request", "session"),
        (b'{"a": "hi", "t": "x/y"}', {"text": "/a", "publish": "to/{/t}"}, "bad_request", "routes.mood.publish"),
        (b'{"a": "hi", "t": "+"}', {"text": "/a", "publish": "to/{/t}"}, "bad_request", "routes.mood.publish"),
        (b"hi", {"payload": "/reply/text"}, "bad_request", "routes.mood.payload"),
        (b"x" * 50000, {}, "too_large", None),
    ],
)
@pytest.mark.parametrize("errors", [None, "faults/{topic[1]}"])
def test_what_a_route_cannot_read_or_write_is_an_error_where_it_says(
    payload: bytes, fields: dict[str, Any], code: str, field: str | None, errors: str | None
) -> None:
    b = bench(errors=errors, retain=True, **fields)
    delivery = send(b, payload)
    [answer] = b.link.published
    assert answer.topic == ("faults/ada" if errors else "edged/box/out/sentiment")
    assert not answer.retain
    error = json.loads(answer.payload)["error"]
    assert (error["code"], error.get("field")) == (code, field)
    assert b.link.acked == [delivery]
    measured = b.metrics.snapshot(0).requests
    assert (measured.routed, measured.route_errors) == (1, {"mood": 1})


def test_a_topic_made_of_a_payload_cannot_reach_a_daemon_or_a_route() -> None:
    b = bench(text="/a", publish="{/p}/{/q}/{/r}")
    send(b, {"a": "hi", "p": "edged", "q": "other", "r": "in"})
    assert [each.topic for each in b.link.published] == ["edged/box/out/sentiment"]


def test_a_message_that_comes_again_gets_the_recorded_answer_in_its_form() -> None:
    b = bench(payload="/sentiment/label")
    b.link.auto = False
    send(b, b"hi")
    b.link.disconnect()
    b.link.auto = True
    b.link.reconnect()
    b.turn()
    assert {each.payload for each in b.link.published} == {b"positive"}
    assert len(b.engine.submitted) == 1


@given(st.binary(max_size=60), st.sampled_from(["/a", "{topic[1]}{/b}", "{payload}"]))
def test_no_payload_stops_the_worker_and_each_is_settled(payload: bytes, text: str) -> None:
    b = bench(text=text, session="{topic[1]}", payload={"x": "{/sentiment/label}"})
    delivery = send(b, payload)
    assert b.link.acked == [delivery]


# --------------------------------------------------------------------------------------------- what settings refuse


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"subscribe": "#"}, "narrow it"),
        ({"subscribe": "edged/box/out/#"}, "narrow it"),
        ({"subscribe": "edged/+/status"}, "narrow it"),
        ({"subscribe": "a/#/b"}, "no topic filter"),
        ({"subscribe": []}, "at least 1"),
        ({"publish": "chat/{topic[1]}"}, "could come in again by routes.mood"),
        ({"publish": "{topic}"}, "could come in again"),
        ({"errors": "chat/errors"}, "could come in again"),
        ({"publish": "edged/other/in/reply"}, "daemons listen"),
        ({"publish": "{/a}/{/b}/in"}, "daemons listen"),
        ({"publish": "mood/+"}, "no topic to publish to"),
        ({"publish": "$SYS/x"}, "no topic to publish to"),
        ({"publish": "mood/{who}"}, "stands for nothing"),
        ({"text": "/a~"}, "JSON Pointer"),
        ({"task": "nothing"}, "there is no task nothing"),
        ({"when": {"value": "/a"}}, "exactly one"),
        ({"parts": 2}, "parts needs max_bytes"),
        ({"parts": 2, "max_bytes": 200, "retain": True}, "do not go together"),
        ({"when": {"value": "/a", "matches": "("}}, "no regular expression"),
        ({"payload": {"a": "{b}"}}, "stands for nothing"),
        ({"speed": 1}, "not permitted"),
    ],
)
def test_a_wrong_route_is_refused_at_the_start(fields: dict[str, Any], words: str) -> None:
    given = {"subscribe": "chat/+", "task": "sentiment", "publish": "mood/{topic[1]}"} | fields
    with pytest.raises(ValueError, match=words):
        Settings.model_validate({"node": "box", "routes": {"mood": given}})


def test_an_answer_may_not_go_where_another_route_listens() -> None:
    one = {"subscribe": "a/+", "task": "sentiment", "publish": "b/x"}
    other = {"subscribe": "b/+", "task": "sentiment", "publish": "c/x"}
    with pytest.raises(ValueError, match=r"routes.one: an answer at b/x could come in again by routes.other"):
        Settings.model_validate({"node": "box", "routes": {"one": one, "other": other}})


def test_a_route_of_the_settings_file_is_shown_as_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "edged.toml"
    file.write_text(EXAMPLE.replace("\n#", "\n").replace("\n ", "\n# "))
    settings = load(flags={}, config_file=file)
    shown = Settings.model_validate(tomllib.loads(show(settings)))
    assert shown.routes == settings.routes
    assert settings.routes["remark"].rule("remark").when[0].equals == "error"


def test_a_wrong_route_of_the_settings_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "edged.toml"
    file.write_text('[routes.a]\nsubscribe = "a/#/b"\ntask = "sentiment"\npublish = "b"\n')
    with pytest.raises(SettingsError, match=rf"routes.a.subscribe in {file} = .* is no topic filter"):
        load(flags={}, config_file=file)


STORY = "One is a long story. Two is another. Three is the last."


@pytest.mark.parametrize("payload", ["/reply/text", {"say": "{/reply/text}"}, None])
def test_a_long_reply_is_sent_in_numbered_parts_and_acked_after_the_last(payload: Any) -> None:
    b = bench(task="reply", payload=payload, max_bytes=36, parts=4, session="{topic[1]}")
    b.link.auto = False
    delivery = send(b, STORY.encode())
    texts: list[str] = []
    for _ in range(3):
        assert b.link.acked == []
        sent = b.link.finish()
        b.turn()
        body = sent.payload.decode() if payload == "/reply/text" else json.loads(sent.payload)
        texts.append(body if isinstance(body, str) else body.get("say") or body["reply"]["text"])
    assert texts == ["1/3 You said: One is a long story.", "2/3 Two is another. Three is the", "3/3 last."]
    assert b.link.acked == [delivery]
    assert b.journal.turns("ada")[-1].content == f"You said: {STORY}"


def test_an_answer_in_parts_that_comes_again_comes_in_parts() -> None:
    b = bench(task="reply", payload="/reply/text", max_bytes=36, parts=4)
    b.link.auto = False
    send(b, STORY.encode())
    b.link.disconnect()
    b.link.auto = True
    b.link.reconnect()
    b.turn()
    told = [each.payload.decode() for each in b.link.published]
    assert told[-1].startswith("3/3 ")
    assert len(b.engine.submitted) == 1


def test_a_compact_result_has_only_what_was_found() -> None:
    b = Bench()
    b.send({"text": "bad", "id": "x", "compact": True}, tail="message")
    [result] = b.answers("edged/box/out/message")
    assert result == {"id": "x", "status": "ok", "sentiment": "negative", "reply": "You said: bad"}
    b.send({"text": "bad", "id": "x"}, tail="message")
    assert b.answers("edged/box/out/message")[-1]["sentiment"]["label"] == "negative"


@pytest.mark.parametrize("where", ["route", "task", "request"])
def test_a_reply_is_cut_to_the_bytes_that_the_route_the_task_or_the_request_allows(where: str) -> None:
    asked = "tell me. More of it is a long story, which does not end here"
    own = GenerateSettings(kind="generate", system="Talk.", history=True, max_bytes=30 if where == "task" else None)
    b = Bench(
        tasks=tasks_of({"talk": own}),
        routes={"mood": route(task="talk", payload="/talk/text", max_bytes=30 if where == "route" else None)},
    )
    if where == "request":
        b.send({"text": asked, "max_bytes": 30, "session": "ada"}, tail="talk")
        [result] = b.answers("edged/box/out/talk")
        assert result["talk"] == {"text": "You said: tell me.", "finish_reason": "length"}
        assert b.journal.turns("ada")[-1].content == "You said: tell me."
        b.send({"text": asked, "max_bytes": 15}, tail="talk")
        assert b.answers("edged/box/out/talk")[-1]["error"]["field"] == "max_bytes"
    else:
        send(b, asked.encode())
        assert [each.payload for each in b.link.published] == [b"You said: tell me."]
