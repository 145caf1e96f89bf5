"""OpenAI's API over HTTP, as the client of OpenAI and raw sockets see it."""

import asyncio
import contextlib
import http.client
import json
import queue
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from edged.contract.status import State
from edged.errors import ModelError, SettingsError
from edged.http import app, server
from edged.tasks.specs import GenerateSpec
from tests.support.broker import free_port
from tests.support.daemon import Daemon, Watcher, daemon_on_a_broker, publish
from tests.support.http_door import PAYLOAD_BYTES, Door
from tests.support.waiting import TIMEOUT, eventually

KEY = "a-key-of-many-characters"
HELLO: list[Any] = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    door.start()
    yield door
    door.stop()


@pytest.fixture
def slow() -> Iterator[Door]:
    """An engine that answers when the test says so."""
    door = Door(auto=False)
    door.start()
    yield door
    door.stop()


def ask(door: Door, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=TIMEOUT)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def post(door: Door, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    headers = {"Content_Type": "application/json", **headers}
    status, answer = ask(door, "POST", "/v1/chat/completions", body, **headers)
    return status, json.loads(answer)


# --------------------------------------------------------------------------------------------------- the answers


def test_the_model_gets_the_conversation_and_the_caller_its_reply(door: Door) -> None:
    answer = door.client().chat.completions.create(
        model="scripted",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": [{"type": "text", "text": "how "}, {"type": "text", "text": "are you?"}]},
        ],
        temperature=0,
        seed=-1,
        stop="x",
        max_completion_tokens=3,
    )
    assert answer.choices[0].message.content == "You said: how"
    assert (answer.choices[0].finish_reason, answer.model, answer.object) == ("length", "scripted", "chat.completion")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    (work,) = door.engine.submitted
    assert isinstance(work.spec, GenerateSpec)
    assert work.spec.system == {"en": "Be brief.", "zh": "Be brief."}
    assert [(turn.role, turn.content) for turn in work.turns] == [("user", "hi"), ("assistant", "hello")]
    assert (work.text, work.params.temperature, work.params.stop) == ("how are you?", 0, ("x",))
    assert work.params.seed == (1 << 63) - 1
    assert not door.journal._entries  # nobody can ask for it again
    assert [*door.worker.state().senders] == ["http:127.0.0.1"]


@pytest.mark.parametrize("model", ["scripted", "edged", "edged/reply", "edged/message"])
def test_a_stream_joins_to_the_whole_answer(door: Door, model: str) -> None:
    create: Any = door.client().chat.completions.create
    whole = create(model=model, messages=HELLO).choices[0].message.content
    chunks = list(create(model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}))
    told = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(each.delta.content or "" for each in told) == whole == "You said: hello there"
    assert [each.finish_reason for each in told if each.finish_reason] == ["stop"]
    assert [bool(each.delta.role) for each in told] == [True] + [False] * (len(told) - 1)
    assert chunks[-1].usage is not None
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_task_that_judges_gives_its_label_with_probabilities(door: Door) -> None:
    answer = door.client().chat.completions.create(
        model="edged/sentiment", messages=HELLO, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    assert choice.message.content == "positive"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    (label,) = choice.logprobs.content
    assert [each.token for each in label.top_logprobs] == ["positive", "negative"]
    assert answer.model_extra is not None
    assert answer.model_extra["edged"]["sentiment"]["emoji"] == "😄"
    completion = door.client().completions.create(model="edged/sentiment", prompt="it is bad")
    assert completion.choices[0].text == "negative"


def test_a_schema_holds_the_answer(door: Door) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    create: Any = door.client().chat.completions.create
    create(
        model="edged",
        messages=HELLO,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    create(model="edged", messages=HELLO, response_format={"type": "json_object"})
    assert [work.spec.schema for work in door.engine.submitted if isinstance(work.spec, GenerateSpec)] == [
        schema,
        {"type": "object"},
    ]


def test_a_completion_continues_the_text_itself(door: Door) -> None:
    stream = door.client().completions.create(model="edged", prompt="Once upon", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "You said: Once upon"
    (work,) = door.engine.submitted
    assert isinstance(work.spec, GenerateSpec)
    assert work.spec.is_raw
    assert not work.continues


def test_the_models_are_the_model_and_the_tasks(door: Door) -> None:
    client = door.client()
    assert [each.id for each in client.models.list()] == [
        "scripted",
        "edged",
        "edged/message",
        "edged/sentiment",
        "edged/reply",
    ]
    assert client.models.retrieve("edged/reply").id == "edged/reply"
    for ask in (lambda: client.models.retrieve("x"), lambda: client.chat.completions.create(model="x", messages=HELLO)):
        with pytest.raises(openai.NotFoundError, match="there is no such model"):
            ask()


def test_the_same_key_gets_the_same_answer(door: Door) -> None:
    """A client that lost the connection repeats its request under its Idempotency-Key."""
    answers = [
        door.client().chat.completions.create(
            model="edged", messages=HELLO, extra_headers={"Idempotency-Key": "order-7"}
        )
        for _ in range(2)
    ]
    assert answers[0].id == answers[1].id == "chatcmpl-order-7"
    assert len(door.engine.submitted) == 1
    assert post(door, b"{}", Idempotency_Key="x" * 200)[1]["error"]["message"].startswith("the Idempotency-Key has")


@pytest.mark.parametrize("is_stream", [False, True])
def test_home_assistants_llama_cpp_integration_is_served(door: Door, is_stream: bool) -> None:
    """It tries a model with a tool before it takes it, and names a conversation in `user`."""
    tool = {"name": "test_function", "description": "Test.", "parameters": {"type": "object", "properties": {}}}
    create: Any = door.client().chat.completions.create
    answer = create(
        model=next(iter(door.client().models.list())).id,
        messages=[{"role": "system", "content": "You are a helpful assistant."}, *HELLO],
        tools=[{"type": "function", "function": tool}],
        max_tokens=3,
        top_p=1.0,
        temperature=1.0,
        user="01J",
        stream=is_stream,
    )
    *_, last = answer if is_stream else (answer,)
    assert last.choices[0].finish_reason == "length"


def test_a_stream_that_waits_long_shows_that_it_is_alive(slow: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_SILENT_S", 0.02)
    connection = http.client.HTTPConnection("127.0.0.1", slow.port, timeout=TIMEOUT)
    body = json.dumps({"messages": HELLO, "stream": True})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert [answer.readline() for _ in range(3)] == [b": waiting\n", b"\n", b": waiting\n"]
    slow.engine.finish()
    assert answer.read().endswith(b"data: [DONE]\n\n")
    connection.close()


# ---------------------------------------------------------------------------------------------------- the faults


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "function"}], "tool_choice": "required"}, "tool_choice"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"n": 2}, "n"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "messages"),
        ({"model": "edged/reply", "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(door: Door, more: dict[str, Any], param: str) -> None:
    status, body = post(door, json.dumps({"model": "edged", "messages": HELLO, **more}).encode())
    assert (status, body["error"]["param"], body["error"]["type"]) == (400, param, "invalid_request_error")
    assert not door.engine.submitted


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b'{"messages":' + b"[" * 5000])
def test_a_body_that_is_no_request_is_refused_and_the_next_is_answered(door: Door, body: bytes) -> None:
    assert post(door, body)[0] == 400
    assert door.client().chat.completions.create(model="edged", messages=HELLO).choices


def test_a_fault_of_the_model_is_told_before_and_during_a_stream(slow: Door) -> None:
    slow.engine.faults["hello there"] = ModelError("no numbers")
    slow.engine.auto = True
    for is_stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="no numbers"):
            slow.client().chat.completions.create(model="edged", messages=HELLO, stream=is_stream)
    slow.engine.auto = False
    told = queue.SimpleQueue[str]()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_read, slow, told)
        slow.say("Well")
        assert told.get(timeout=TIMEOUT) == "Well"
        slow.engine.finish()
        with pytest.raises(openai.APIError, match="no numbers"):
            reading.result(TIMEOUT)


def _read(door: Door, told: "queue.SimpleQueue[str]") -> None:
    with door.client().chat.completions.create(model="edged", messages=HELLO, stream=True) as stream:
        for chunk in stream:
            told.put(chunk.choices[0].delta.content or "")


def test_a_wrong_key_is_refused_at_every_path_but_health() -> None:
    door = Door(token=KEY)
    door.start()
    try:
        for wrong in ("", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Basic {KEY}", "Bearer \u00e9"):
            headers = {"Authorization": wrong.encode().decode("latin-1")}
            assert post(door, json.dumps({"messages": HELLO}).encode(), **headers)[0] == 401, wrong
        with pytest.raises(openai.AuthenticationError):
            door.client(api_key="wrong").models.list()
        assert [ask(door, "GET", path)[0] for path in ("/metrics", "/v1/models", "/health", "/")] == [
            401,
            401,
            200,
            404,
        ]
        assert door.client().chat.completions.create(model="edged", messages=HELLO).choices
        assert len(door.engine.submitted) == 1
    finally:
        door.stop()


def test_without_a_key_only_programs_of_this_box_are_served(door: Door) -> None:
    """A web page may send a form without asking, or have its name resolve to this box."""
    body = json.dumps({"messages": HELLO}).encode()
    assert post(door, body, Content_Type="text/plain")[0] == 415
    assert post(door, body, Host="evil.example:8080")[0] == 403
    assert post(door, body, Host=f"localhost:{door.port}", Content_Type="application/json; charset=utf-8")[0] == 200


def test_a_body_over_the_limit_is_refused_before_it_is_read(door: Door) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=TIMEOUT)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    assert post(door, iter([b"x" * 60_000] * 2))[0] == 413
    long: list[Any] = [{"role": "user", "content": "x" * (PAYLOAD_BYTES - 3000)}]
    with pytest.raises(openai.APIStatusError, match="at most 60000 are taken"):
        door.client().chat.completions.create(model="edged", messages=long)


def test_while_it_loads_and_drains_callers_are_told_when_to_come_back(door: Door) -> None:
    door.state = State.LOADING
    with pytest.raises(openai.InternalServerError, match="is being loaded") as loading:
        door.client().chat.completions.create(model="edged", messages=HELLO)
    assert loading.value.response.headers["Retry-After"] == "5"
    assert ask(door, "GET", "/health")[0] == 503
    door.state = State.READY
    door.worker.drain()
    with pytest.raises(openai.InternalServerError, match="shutting down"):
        door.client().chat.completions.create(model="edged", messages=HELLO)


# ---------------------------------------------------------------------------------------------- many, and gone


def test_a_hundred_at_once_share_the_queue_and_the_rest_is_told_when_to_come_back(slow: Door) -> None:
    refusals: list[openai.RateLimitError] = []

    async def ask_one(client: openai.AsyncOpenAI, number: int) -> str:
        try:
            asked: list[Any] = [{"role": "user", "content": f"number {number}"}]
            answer = await client.chat.completions.create(model="edged", messages=asked)
        except openai.RateLimitError as error:
            refusals.append(error)
            if len(refusals) == 100 - slow.capacity:
                all_refused.set()
            return "busy"
        return str(answer.choices[0].message.content)

    async def ask_all() -> list[str]:
        async with slow.async_client() as client:
            asking = [asyncio.create_task(ask_one(client, number)) for number in range(100)]
            await asyncio.wait_for(all_refused.wait(), TIMEOUT)
            slow.wait_jobs(slow.capacity)
            for _ in range(slow.capacity):
                slow.engine.finish(slow.begun().key)
            return await asyncio.gather(*asking)

    all_refused = asyncio.Event()
    answers = asyncio.run(ask_all())
    assert answers.count("busy") == 100 - slow.capacity
    assert all(int(each.response.headers["Retry-After-Ms"]) > 0 for each in refusals)
    assert all(answer in {"busy", f"You said: number {number}"} for number, answer in enumerate(answers))


@pytest.mark.parametrize("is_stream", [False, True])
def test_who_hangs_up_is_not_worked_for(slow: Door, is_stream: bool) -> None:
    body = json.dumps({"model": "edged", "messages": HELLO, "stream": is_stream})
    connection = http.client.HTTPConnection("127.0.0.1", slow.port, timeout=TIMEOUT)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    slow.wait_jobs(1)
    if is_stream:
        slow.say("Well")
        with connection.getresponse() as answer:
            assert b"Well" in answer.readline()
    connection.close()
    slow.wait_jobs(0)


def test_who_hangs_up_does_not_end_what_another_waits_for(slow: Door) -> None:
    body = json.dumps({"model": "edged", "messages": HELLO})
    headers = {"Content-Type": "application/json", "Idempotency-Key": "shared"}
    first, second = (http.client.HTTPConnection("127.0.0.1", slow.port, timeout=TIMEOUT) for _ in range(2))
    first.request("POST", "/v1/chat/completions", body, headers)
    slow.wait_jobs(1)
    second.request("POST", "/v1/chat/completions", body, headers)
    eventually(lambda: sum(len(job.addressees) for job in slow.worker._in_hand) == 2)
    first.close()
    time.sleep(0.1)  # for a cancellation that must not come
    slow.engine.finish()
    assert json.loads(second.getresponse().read())["choices"][0]["message"]["content"] == "You said: hello there"
    second.close()


def test_a_reader_that_takes_nothing_is_cut_and_others_are_served(slow: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_SILENT_S", 0.3)
    body = json.dumps({"model": "edged", "messages": HELLO, "stream": True})
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.connect(("127.0.0.1", slow.port))
    lazy.sendall(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    slow.wait_jobs(1)
    for _ in range(160):  # far more than the sockets and the server keep
        slow.say("x" * 50_000)
    slow.wait_jobs(0)
    slow.engine.auto = True
    assert slow.client().chat.completions.create(model="edged", messages=HELLO).choices
    lazy.close()


def test_a_connection_without_a_request_is_cut(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_SILENT_S", 0.1)
    with socket.create_connection(("127.0.0.1", door.port), timeout=TIMEOUT) as silent:
        silent.sendall(b"POST /v1/chat")
        assert silent.recv(1) == b""


def test_a_port_that_is_taken_is_said_by_name(door: Door) -> None:
    with pytest.raises(SettingsError, match=rf"http.port: .* 127.0.0.1:{door.port}: Address already in use"):
        server.listen("127.0.0.1", door.port)
    assert server.is_served("127.0.0.1", door.port, node="box")
    assert not server.is_served("127.0.0.1", door.port, node="other")


# ----------------------------------------------------------------------------------------------- the whole daemon


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    more = {"EDGED_HTTP__PORT": str(free_port()), "EDGED_HTTP__TOKEN": KEY}
    with daemon_on_a_broker(more=more) as daemon:
        yield daemon


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def client_of(daemon: Daemon) -> openai.OpenAI:
    url = f"http://127.0.0.1:{daemon.more['EDGED_HTTP__PORT']}/v1"
    return openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=TIMEOUT)


def test_a_daemon_answers_by_mqtt_and_http_and_stops_with_an_answer_under_way(
    daemon: Daemon, closing: contextlib.ExitStack
) -> None:
    daemon.start()
    daemon.wait_ready()
    client = client_of(daemon)
    closing.callback(client.close)
    assert client.chat.completions.create(model="edged/message", messages=HELLO).choices
    watcher = Watcher(daemon.broker, f"{daemon.root}/out/#")
    publish(daemon.broker, f"{daemon.root}/in/message", "how are you?")
    assert watcher.next_json()["status"] == "ok"
    watcher.stop()
    host = f"127.0.0.1:{daemon.more['EDGED_HTTP__PORT']}"
    asking = http.client.HTTPConnection(host, timeout=TIMEOUT)
    asking.request("GET", "/metrics", headers={"Authorization": f"Bearer {KEY}"})
    assert b"\nedged_requests_answered_total 2.0\n" in asking.getresponse().read()
    slow: list[Any] = [{"role": "user", "content": "[slow:700] what is it?"}]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: client.chat.completions.create(model="edged", messages=slow))
        eventually(lambda: '"task": "chat"' in daemon.log)
        assert daemon.stop() == 0
        assert answer.result(TIMEOUT).choices[0].message.content == "You said: [slow:700] what is it?"
    asking.close()
    assert KEY not in daemon.log
    assert "what is it" not in daemon.log


def test_the_small_model_talks_writes_json_and_tells_its_probabilities() -> None:
    more = {"EDGED_HTTP__PORT": str(free_port()), "EDGED_HTTP__TOKEN": KEY}
    with daemon_on_a_broker(program=("-m", "edged", "run"), more=more) as daemon, contextlib.ExitStack() as stack:
        daemon.start()
        daemon.wait_ready()
        client = stack.enter_context(client_of(daemon))
        asked: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
        greedy: Any = {"model": "edged", "messages": asked, "temperature": 0, "max_tokens": 8}
        whole = client.chat.completions.create(**greedy, logprobs=True, top_logprobs=3)
        (choice,) = whole.choices
        assert choice.message.content  # which words a model so small finds depends on the instructions of the CPU
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        tokens = choice.logprobs.content
        assert "".join(each.token for each in tokens) == choice.message.content
        assert all(each.top_logprobs[0].logprob >= each.logprob for each in tokens)
        streamed = [chunk.choices[0] for chunk in client.chat.completions.create(**greedy, stream=True, logprobs=True)]
        assert "".join(each.delta.content or "" for each in streamed) == choice.message.content
        told = [token for each in streamed if each.logprobs for token in each.logprobs.content or ()]
        assert [each.logprob for each in told] == [each.logprob for each in tokens]
        schema = {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "big": {"type": "boolean"}},
            "required": ["city", "big"],
            "additionalProperties": False,
        }
        form: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
        data = client.chat.completions.create(model="edged", messages=asked, response_format=form, max_tokens=60)
        assert set(json.loads(data.choices[0].message.content or "")) == {"city", "big"}
        cut = client.chat.completions.create(model="edged", messages=asked, response_format=form, max_tokens=3)
        assert (cut.choices[0].finish_reason, (cut.choices[0].message.content or "")[:1]) == ("length", "{")
        form["json_schema"]["schema"] = {"type": "nothing"}
        with pytest.raises(openai.BadRequestError, match="the schema cannot be used"):
            client.chat.completions.create(model="edged", messages=asked, response_format=form)
        ends = client.completions.create(
            model="edged", prompt="One, two, three, four,", temperature=0, max_tokens=12, stop="seven", logprobs=2
        )
        assert "seven" not in ends.choices[0].text
        assert ends.choices[0].logprobs is not None
        drawn = [client.completions.create(model="edged", prompt="I like", seed=5, max_tokens=6) for _ in range(2)]
        assert drawn[0].choices[0].text == drawn[1].choices[0].text
        assert daemon.stop() == 0
