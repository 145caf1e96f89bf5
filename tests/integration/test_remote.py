"""The engine elsewhere: on a real llama.cpp server, and on one that does what servers do to their clients."""

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edged.engine.remote.engine import RemoteEngine
from edged.errors import EdgedError, ExitCode, ModelUnavailable
from edged.ports.engine import Classified, Failed, Generated, Params, TextDelta, Work, WorkEvent
from edged.settings.schema import Settings
from edged.tasks.built_in import BUILT_IN, REPLY, SENTIMENT
from edged.tasks.conversation import Turn
from edged.tasks.specs import ExtractSpec, GenerateSpec, Tasks
from tests.support.daemon import Watcher, daemon_on_a_broker, publish
from tests.support.llama_server import LlamaServer

TIMEOUT = 600.0  # spent only by a test that fails: where others take the cores, a real server writes a token a second


def settings(url: str, **model: Any) -> Settings:
    return Settings.model_validate(
        {"node": "box", "model": {"backend": "remote", "url": url, **model}, "engine": {"max_new_tokens": 96}}
    )


@contextmanager
def engine(url: str, tasks: Tasks = BUILT_IN, **model: Any) -> Iterator[RemoteEngine]:
    engine = RemoteEngine(settings(url, **model), tasks=tasks)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop(10.0)


def run(engine: RemoteEngine, *works: Work) -> list[list[WorkEvent]]:
    """All events of each, to its end."""
    events: queue.SimpleQueue[WorkEvent] = queue.SimpleQueue()
    for work in works:
        engine.submit(work, events.put)
    found: dict[str, list[WorkEvent]] = {work.key: [] for work in works}
    left = len(works)
    while left:
        event = events.get(timeout=TIMEOUT)
        found[event.key].append(event)
        left -= not isinstance(event, TextDelta)
    return [found[work.key] for work in works]


def reply(key: str = "1", text: str = "I passed my exam today!", **fields: Any) -> Work:
    return Work(**{"key": key, "spec": REPLY, "text": text, "language": "en", **fields})


def sentiment(text: str, key: str = "1") -> Work:
    return Work(key=key, spec=SENTIMENT, text=text, language="en")


# ------------------------------------------------------------------------------------------------- a real server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    server = LlamaServer(folder=tmp_path_factory.mktemp("llama"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def real(server: LlamaServer) -> Iterator[RemoteEngine]:
    with engine(server.url) as running:
        assert running.wait_ready(TIMEOUT)
        yield running


def test_it_asks_for_the_first_model_that_there_is(real: RemoteEngine) -> None:
    assert "SmolLM2-135M" in real.model.id


def test_labels_are_scored(real: RemoteEngine) -> None:
    texts = ("A joy from start to finish.", "The worst meal of my life.", "Superb acting and a great story.", "Dull.")
    ends = [events[-1] for events in run(real, *(sentiment(text, str(i)) for i, text in enumerate(texts)))]
    scores = [end.scores["positive"] for end in ends if isinstance(end, Classified)]
    assert [score > 0.5 for score in scores] == [True, False, True, False]
    assert all(0.0 < score < 1.0 for score in scores)
    assert all(end.usage.prompt_tokens > 50 for end in ends if isinstance(end, Classified))


def test_labels_that_begin_alike_are_told_apart(server: LlamaServer) -> None:
    labels = tuple(
        type(SENTIMENT.labels[0])(canonical=word, names={"en": word, "zh": word}) for word in ("notable", "nothing")
    )
    odd = type(SENTIMENT)(
        name="odd",
        labels=labels,
        prompts={
            language: type(prompt)(role="", case="{text}: {label}\n", examples=(), neutral_texts=("x",))
            for language, prompt in SENTIMENT.prompts.items()
        },
    )
    with engine(server.url, Tasks((odd,))) as other:
        assert other.wait_ready(TIMEOUT)
        [[end]] = run(other, Work(key="1", spec=odd, text="I have", language="en"))
    assert isinstance(end, Classified)
    assert sum(end.scores.values()) == pytest.approx(1.0)


def test_a_reply_is_streamed_and_the_same_seed_says_the_same(real: RemoteEngine) -> None:
    [first] = run(real, reply(stream=True, params=Params(seed=7, max_tokens=24)))
    *deltas, end = first
    assert isinstance(end, Generated)
    assert "".join(each.text for each in deltas if isinstance(each, TextDelta)) == end.text
    assert len(deltas) > 3
    assert end.usage.completion_tokens == 24
    assert end.finish_reason == "length"
    [[again]] = run(real, reply(params=Params(seed=7, max_tokens=24)))
    assert isinstance(again, Generated)
    assert again.text == end.text


def test_many_at_a_time_have_an_end_each(real: RemoteEngine) -> None:
    works = [reply(f"r{i}", params=Params(max_tokens=8)) for i in range(12)]
    works += [sentiment("Great!", f"s{i}") for i in range(12)]
    ends = [events[-1] for events in run(real, *works)]
    assert not any(isinstance(end, Failed) for end in ends)
    state = real.state()
    assert (state.running, state.waiting) == (0, 0)
    assert state.completion_tokens >= 12 * 8


def test_the_conversation_is_sent_along_as_far_as_it_fits(real: RemoteEngine) -> None:
    turns = (Turn(role="user", content="My name is Zelda. " * 400), Turn(role="assistant", content="Hello Zelda."))
    few = (Turn(role="user", content="My name is Zelda."), Turn(role="assistant", content="Hello Zelda."))
    params = Params(max_tokens=4)
    [[long], [short], [none]] = run(
        real, reply("1", turns=turns, params=params), reply("2", turns=few, params=params), reply("3", params=params)
    )
    assert isinstance(long, Generated)
    assert isinstance(short, Generated)
    assert isinstance(none, Generated)
    assert long.usage.prompt_tokens == none.usage.prompt_tokens < short.usage.prompt_tokens


def test_json_keeps_to_its_schema(real: RemoteEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["happy", "sad"]}, "score": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["mood", "score"],
        "additionalProperties": False,
    }
    spec = ExtractSpec(name="x", system={"en": "How do they feel?", "zh": "?"}, schema=schema)
    # The server's grammar allows much white space, and a penalty on repetition makes the model write all of it.
    params = Params(temperature=0.0, repetition_penalty=1.0)
    [[end]] = run(real, Work(key="1", spec=spec, text="I won!", language="en", params=params))
    assert isinstance(end, Generated)
    assert set(json.loads(end.text)) == {"mood", "score"}


def test_cancelled_and_late_work_ends(real: RemoteEngine) -> None:
    events: queue.SimpleQueue[WorkEvent] = queue.SimpleQueue()
    real.submit(reply("c", stream=True), events.put)
    first = events.get(timeout=TIMEOUT)
    assert isinstance(first, TextDelta)
    real.cancel("c")
    while isinstance(end := events.get(timeout=TIMEOUT), TextDelta):
        pass
    assert isinstance(end, Generated)
    assert end.finish_reason == "cancelled"
    [[late]] = run(real, reply("d", deadline=time.monotonic() - 1.0))
    assert isinstance(late, Failed)
    assert late.error.code == "expired"


def test_a_daemon_answers_by_a_server_and_waits_for_one_that_is_not_there_yet(tmp_path: Path) -> None:
    server = LlamaServer(folder=tmp_path)
    # Enough retries for a server that loads its model: until then it listens, and says 503.
    more = {"EDGED_MODEL__BACKEND": "remote", "EDGED_MODEL__URL": server.url, "EDGED_MODEL__RETRIES": "9"}
    with daemon_on_a_broker(program=("-m", "edged", "run"), more=more) as box:
        status = Watcher(box.broker, f"{box.root}/status")
        out = Watcher(box.broker, f"{box.root}/out/#")
        try:
            box.start()
            status.until(state="loading")
            server.start()
            status.until(state="ready")
            publish(box.broker, f"{box.root}/in/message", "I love this phone, it makes my day!")
            body = out.next_json()
            assert body["status"] == "ok"
            assert body["sentiment"]["label"] == "positive"
            assert body["reply"]["text"]
            server.stop()
            publish(box.broker, f"{box.root}/in/reply", '{"text":"anybody?","deadline_ms":1500}')
            assert out.next_json()["error"]["code"] in {"expired", "model_error"}
            server.start()
            publish(box.broker, f"{box.root}/in/reply", "and now?")
            assert out.next_json()["status"] == "ok"
            assert box.command("check").returncode == ExitCode.DONE
            assert box.stop() == ExitCode.DONE
        finally:
            status.stop()
            out.stop()
            server.stop()


# ------------------------------------------------------------------------------------------ a server with a script


@dataclass
class Script:
    """Answers by path: a status and a body (a list is sent piece by piece); notes what it was asked."""

    answers: dict[str, Callable[[dict[str, Any]], tuple[int, Any]]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    headers: dict[str, str] = field(default_factory=dict)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    script.answers["/v1/models"] = lambda _: (200, {"data": [{"id": "one"}, {"id": "two"}]})
    script.answers["/v1/completions"] = lambda _: (200, {"choices": [{"logprobs": {"top_logprobs": [_TOP]}}]})
    script.answers["/v1/chat/completions"] = lambda _: (200, sse("OK"))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: dict[str, Any]) -> None:
            script.asked.append((self.path, body))
            script.keys.add(self.headers.get("Authorization", ""))
            status, answer = script.answers[self.path](body)
            pieces = answer if isinstance(answer, list) else [answer]
            pieces = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in pieces]
            self.send_response(status)
            self.send_header("Content-Length", str(sum(map(len, pieces))))
            self.send_header("Content-Type", "application/json" if isinstance(answer, dict) else "text/event-stream")
            for name, value in script.headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # nobody may want it any more
                for piece in pieces:
                    self.wfile.write(piece)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield script
    server.shutdown()
    server.server_close()


# In the form of OpenAI and vLLM.
_TOP = {f" {word}": -1.0 - 0.1 * i for i, word in enumerate(("positive", "good", "love", "joy", "happy", "great"))} | {
    f" {word}": -3.0 - 0.1 * i for i, word in enumerate(("negative", "bad", "hate", "anger", "sad", "terrible"))
}


def sse(*pieces: str, finish: str = "stop") -> bytes:
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    chunks.append({"choices": [{"delta": {}, "finish_reason": finish}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(pieces)}})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def test_a_fault_of_the_server_is_tried_again(script: Script) -> None:
    faults = iter([(503, b"busy"), (429, b""), (200, sse("Hello", " there"))])
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/chat/completions"] = lambda _: next(faults)
        [[end]] = run(running, reply())
    assert isinstance(end, Generated)
    assert (end.text, end.usage.prompt_tokens, end.usage.completion_tokens) == ("Hello there", 9, 2)


@pytest.mark.parametrize("pieces", [["One, ", "two, th", "ree", ", four", ", five"], ["One, two, ", "three, four"]])
def test_stop_strings_beyond_those_that_servers_take_are_kept_to(script: Script, pieces: list[str]) -> None:
    script.answers["/v1/chat/completions"] = lambda _: (200, sse(*pieces, finish="length"))
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        stops = ("a", "b", "c", "d", "three")
        [[*deltas, end]] = run(running, reply(params=Params(stop=stops), stream=True))
        [[plain]] = run(running, reply("2", params=Params(stop=("four",))))
    assert script.asked[-2][1]["stop"] == [*stops[:4]]
    assert isinstance(end, Generated)
    assert (end.text, end.finish_reason) == ("One, two,", "stop")
    assert "".join(each.text for each in deltas if isinstance(each, TextDelta)) == end.text
    assert isinstance(plain, Generated)
    assert plain.text == "One, two, three,"


def test_a_server_that_stays_at_fault_is_an_error_of_this_request(script: Script) -> None:
    with engine(script.url, retries=1) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/chat/completions"] = lambda _: (500, b"no")
        [[end]] = run(running, reply(text="Anybody?"))
    assert isinstance(end, Failed)
    assert (end.error.code, end.error.retry_after_ms) == ("model_error", 5000)
    assert sum(body.get("messages", [{}])[-1].get("content") == "Anybody?" for _, body in script.asked) == 2


def test_a_server_that_stays_at_fault_is_away_until_it_answers(script: Script) -> None:
    refused, failed, answered = (400, b"no"), (500, b"no"), (200, sse("Hello"))
    says = [refused, refused, refused, failed, failed, failed, refused, answered]
    is_away = [False, False, False, False, False, True, True, False]  # what it refuses is no fault of its own
    answers = iter(says)
    told = []
    with engine(script.url, retries=0) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/chat/completions"] = lambda _: next(answers)
        for _ in says:
            run(running, reply())
            told.append(running.state().away)
    assert [each is not None for each in told] == is_away
    assert "the model's server" in str(told[5])


def test_what_the_server_says_of_the_users_words_is_not_passed_on(script: Script) -> None:
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/chat/completions"] = lambda body: (400, {"error": f"bad: {body['messages']}"})
        [[end]] = run(running, reply(text="my secret"))
    assert isinstance(end, Failed)
    assert "secret" not in str(end.error)


def test_a_text_over_the_servers_context_is_too_long(script: Script) -> None:
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/chat/completions"] = lambda _: (400, {"error": "maximum context length is 2048 tokens"})
        [[end]] = run(running, reply())
    assert isinstance(end, Failed)
    assert end.error.code == "too_long"


def test_a_server_that_knows_only_openais_own_sampling_is_asked_without_the_rest(script: Script) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        return (400, {"error": "unknown field top_k"}) if "top_k" in body else (200, sse("Hi"))

    script.answers["/v1/chat/completions"] = answer
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        [[end]] = run(running, reply())
        assert isinstance(end, Generated)
        run(running, reply("2"))
    assert sum("top_k" in body for path, body in script.asked if path.endswith("chat/completions")) == 1


def text_of(script: Script, *pieces: str, finish: str = "stop", **params: Any) -> str:
    """The streamed reply to what the server says, which its pieces join to."""
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/chat/completions"] = lambda _: (200, sse(*pieces, finish=finish))
        [[*deltas, end]] = run(running, reply(stream=True, params=Params(**params)))
    assert isinstance(end, Generated)
    assert "".join(each.text for each in deltas if isinstance(each, TextDelta)) == end.text
    return end.text


def test_a_reply_is_without_white_space_at_its_ends_streamed_too(script: Script) -> None:
    assert text_of(script, "\n", " Hello", " \n", "there", " \n\n") == "Hello \nthere"


def test_more_stop_strings_than_servers_take_end_a_text_too(script: Script) -> None:
    assert text_of(script, "One, t", "wo, # ", "#", " three", stop=("v", "w!", "x", "y", "##", "# #")) == "One, two,"
    [*_, (_, asked)] = script.asked
    assert asked["stop"] == ["v", "w!", "x", "y"]


def test_what_the_server_cut_short_ends_with_a_whole_sentence_where_asked(script: Script) -> None:
    pieces = ("I see. ", "Go on", "! And th")
    assert text_of(script, *pieces, finish="length", whole_sentences=True) == "I see. Go on!"
    assert text_of(script, *pieces, finish="stop", whole_sentences=True) == "I see. Go on! And th"
    assert text_of(script, *pieces, finish="length") == "I see. Go on! And th"


def test_a_callers_own_prompt_and_schema_are_passed_on_and_a_bare_text_is_refused(script: Script) -> None:
    schema = {"type": "object"}
    free = GenerateSpec(name="reply", system={}, schema=schema)
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/chat/completions"] = lambda _: (200, sse('{"a":', "1", finish="length"))
        [[cut]] = run(running, reply(spec=free))
        asked = script.asked[-1][1]
        [[raw]] = run(running, reply("2", spec=replace(free, schema=None, is_raw=True)))
    assert isinstance(cut, Generated)
    assert (cut.text, cut.finish_reason) == ('{"a":1', "length")
    assert [each["role"] for each in asked["messages"]] == ["user"]
    assert asked["response_format"]["json_schema"]["schema"] == schema
    assert isinstance(raw, Failed)
    assert raw.error.code == "bad_request"


def test_a_server_that_writes_nothing_is_an_error_and_no_empty_reply(script: Script) -> None:
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/chat/completions"] = lambda _: (200, sse(" ", "\n", finish="length"))
        [[end]] = run(running, reply())
    assert isinstance(end, Failed)
    assert end.error.code == "model_error"
    [*_, (_, asked)] = script.asked
    assert asked["chat_template_kwargs"] == {"enable_thinking": False}


def test_without_log_probabilities_the_server_is_held_to_the_labels(script: Script) -> None:
    script.answers["/v1/completions"] = lambda _: (200, {"choices": [{"text": " x"}]})
    word = SENTIMENT.labels[1].words("en")[0]
    script.answers["/v1/chat/completions"] = lambda _: (
        200,
        {"choices": [{"message": {"content": json.dumps(word)}}], "usage": {"prompt_tokens": 5}},
    )
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        [[end]] = run(running, sentiment("Dull."))
    assert isinstance(end, Classified)
    assert end.scores == {"positive": 0.0, "negative": 1.0}
    [*_, (_, asked)] = script.asked
    assert word in asked["response_format"]["json_schema"]["schema"]["enum"]


def test_log_probabilities_in_vllms_form_are_read(script: Script) -> None:
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        [[end]] = run(running, sentiment("Whatever."))
    assert isinstance(end, Classified)
    assert end.scores["positive"] == pytest.approx(0.5)  # the same as of the neutral texts


def test_other_prompts_are_learnt_while_it_runs(script: Script) -> None:
    prompts = {language: replace(prompt, role="You are a judge.\n\n") for language, prompt in SENTIMENT.prompts.items()}
    other = replace(SENTIMENT, prompts=prompts, further={}, doubt=0.0)
    told: queue.SimpleQueue[EdgedError | None] = queue.SimpleQueue()
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        running.prepare(Tasks([other]), told.put)
        assert told.get(timeout=TIMEOUT) is None
        [[end]] = run(running, Work(key="1", spec=other, text="Whatever.", language="en"))
        assert isinstance(end, Classified)
        assert end.scores["positive"] == pytest.approx(0.5)  # the bias of the new prompt is known
        script.answers["/v1/completions"] = lambda _: (400, {"error": {"message": "no"}})
        third = replace(other, prompts={**prompts, "en": replace(prompts["en"], role="x")})
        running.prepare(Tasks([third]), told.put)
        assert isinstance(told.get(timeout=TIMEOUT), EdgedError)
    running.prepare(Tasks([other]), told.put)
    assert isinstance(told.get(timeout=TIMEOUT), EdgedError)


def test_the_key_goes_along(script: Script) -> None:
    with engine(script.url, api_key="geheim") as running:
        assert running.wait_ready(TIMEOUT)
    assert script.keys == {"Bearer geheim"}


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [({"id": "three"}, 200, "has no model three"), ({}, 401, "API_KEY"), ({}, 404, "where the API begins")],
)
def test_a_server_that_cannot_serve_us_is_told_at_the_start(
    script: Script, model: dict[str, Any], status: int, words: str
) -> None:
    script.answers["/v1/models"] = lambda _: (status, {"data": [{"id": "one"}]})
    with engine(script.url, **model) as running, pytest.raises(ModelUnavailable, match=words):
        running.wait_ready(TIMEOUT)


def test_stopping_answers_what_is_open(script: Script) -> None:
    gate = threading.Event()

    def hang(_: dict[str, Any]) -> tuple[int, Any]:
        gate.wait(20.0)
        return 200, sse("late")

    events: queue.SimpleQueue[WorkEvent] = queue.SimpleQueue()
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/chat/completions"] = hang
        running.submit(reply(), events.put)
        time.sleep(0.2)
        threading.Timer(0.5, gate.set).start()
    end = events.get(timeout=TIMEOUT)
    assert isinstance(end, Failed)
    assert end.error.code == "shutting_down"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"backend": "remote"}, "given together"),
        ({"url": "http://x/v1"}, "given together"),
        ({"backend": "remote", "url": "http://user:secret@x/v1"}, "url"),
        ({"backend": "remote", "url": "ftp://x"}, "url"),
    ],
)
def test_settings_that_name_no_server_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Settings.model_validate({"model": wrong})


# ------------------------------------------------------------------------------- a server that is not at its best


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"data: " + piece + b"\n\n" for piece in pieces)


def said(text: str) -> bytes:
    return json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False).encode()


END = json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}).encode()


def answer(script: Script, raw: bytes | list[bytes], **model: Any) -> WorkEvent:
    with engine(script.url, **model) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/chat/completions"] = lambda _: (200, raw)
        [[end]] = run(running, reply())
    return end


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        chunks(said("Hello")),
        chunks(said("Hello"), b'{"error":{"message":"out of memory"}}', b"[DONE]"),
        chunks(b'{"error":{"message":"out of memory"}}', b"[DONE]"),
        chunks(said("Hello"), b"{garb"),
        chunks(b"3"),
        b'{"choices":[{"message":{"content":"not streamed"}}]}',
        chunks(b'{"choices":{"delta":{"content":"Hello"}}}', END),
        chunks(b'{"choices":["Hello"]}', END),
        chunks(b'{"choices":[{"delta":{"content":"\\ud83d"}}]}', END),
        chunks(b'{"choices":[{"delta":{"content":7}}]}', END),
        chunks(said("Hello"), b'{"choices":[],"usage":{"prompt_tokens":-1}}', END),
        chunks(b'{"choices":' * 3000, END),
    ],
    ids=[
        *("nothing", "half", "fault after words", "fault", "garbage", "no object", "no stream", "no list", "no words"),
        *("half a character", "no text", "no count", "too deep"),
    ],
)
def test_an_answer_without_its_end_is_an_error_and_no_reply(script: Script, raw: bytes) -> None:
    end = answer(script, raw, retries=0)
    assert isinstance(end, Failed)
    assert (end.error.code, end.error.retry_after_ms) == ("model_error", 5000)
    assert "memory" not in end.error.message


@pytest.mark.parametrize(
    "told",
    [
        b'{"error":"no"}',
        b'{"choices":null}',
        b'{"choices":[]}',
        b'{"choices":[{"logprobs":{"top_logprobs":[{" positive":NaN}]}}]}',
        b'{"choices":[{"logprobs":{"top_logprobs":[{" positive":Infinity}]}}]}',
        b'{"choices":[{"logprobs":{"top_logprobs":[{" positive":null}]}}]}',
        b'{"choices":[{"logprobs":{"content":[{"top_logprobs":[{"token":" positive"}]}]}}]}',
        b'{"choices":[{"logprobs":[]}]}',
    ],
)
def test_log_probabilities_that_are_none_are_an_error_and_no_scores(script: Script, told: bytes) -> None:
    with engine(script.url, retries=0) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/completions"] = lambda _: (200, told)
        [[end]] = run(running, sentiment("Dull."))
    assert isinstance(end, Failed)
    assert end.error.code == "model_error"
    assert "OpenAI" in end.error.message
    assert "positive" not in end.error.message  # what the model says of a user's words


@pytest.mark.parametrize("never", ["-Infinity", "-3.4028234663852886e+38"])
def test_what_the_server_rules_out_is_as_good_as_impossible(script: Script, never: str) -> None:
    ruled_out = ",".join(f'" {word}":{never}' for word in SENTIMENT.labels[1].words("en"))
    told = f'{{"choices":[{{"logprobs":{{"top_logprobs":[{{" positive":-0.1,{ruled_out}}}]}}}}]}}'.encode()
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/completions"] = lambda _: (200, told)
        [[end]] = run(running, sentiment("Superb."))
    assert isinstance(end, Classified)
    assert end.scores == {"positive": pytest.approx(1.0), "negative": pytest.approx(0.0)}


def test_a_server_whose_log_probabilities_nobody_can_read_is_held_to_the_labels(script: Script) -> None:
    script.answers["/v1/completions"] = lambda _: (200, {"choices": [{"logprobs": [[1, 2]]}]})
    script.answers["/v1/chat/completions"] = lambda _: (200, {"choices": [{"message": {"content": '"negative"'}}]})
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        [[end]] = run(running, sentiment("Dull."))
    assert isinstance(end, Classified)
    assert end.scores == {"positive": 0.0, "negative": 1.0}


def test_words_that_hold_other_ends_of_lines_are_whole(script: Script) -> None:
    end = answer(script, chunks(said("a\u2028b\u2029c\u0085d"), END))
    assert isinstance(end, Generated)
    assert end.text == "a\u2028b\u2029c\u0085d"


@pytest.mark.parametrize("size", [1, 3, 7])
def test_events_are_read_in_whatever_pieces_they_come(script: Script, size: int) -> None:
    raw = b": a comment\r\n" + chunks(said("你好 😄"), b"", END, b"[DONE]").replace(b"\n", b"\r\n")
    end = answer(script, [raw[at : at + size] for at in range(0, len(raw), size)])
    assert isinstance(end, Generated)
    assert end.text == "你好 😄"


def test_a_server_that_knows_only_openais_own_sampling_needs_no_retry_for_it(script: Script) -> None:
    script.answers["/v1/chat/completions"] = lambda body: (
        (400, {"error": "unknown field top_k"}) if "top_k" in body else (200, sse("Hi"))
    )
    with engine(script.url, retries=0) as running:
        assert running.wait_ready(TIMEOUT)
        [[end]] = run(running, reply())
    assert isinstance(end, Generated)
    assert end.text == "Hi"


def test_a_server_that_asks_for_a_pause_gets_it(script: Script) -> None:
    faults = iter([(429, b""), (200, sse("Hello"))])
    script.headers = {"Retry-After": "2"}
    with engine(script.url, retries=1) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/chat/completions"] = lambda _: next(faults)
        begin = time.monotonic()
        [[end]] = run(running, reply())
    assert isinstance(end, Generated)
    assert time.monotonic() - begin >= 2.0


@pytest.mark.parametrize(
    ("pause", "deadline_s", "code", "retry_after_ms"),
    [
        ("600", None, "model_error", 600_000),
        ("9" * 400, None, "model_error", 86_400_000),
        ("30", 1.0, "expired", None),
    ],
    ids=["too long", "beyond all measure", "too long for the deadline"],
)
def test_a_pause_is_not_waited_for_beyond_patience_and_deadline(
    script: Script, pause: str, deadline_s: float | None, code: str, retry_after_ms: int | None
) -> None:
    script.headers = {"Retry-After": pause}
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers["/v1/chat/completions"] = lambda _: (429, b"")
        begin = time.monotonic()
        [[end]] = run(running, reply(deadline=None if deadline_s is None else begin + deadline_s))
    assert isinstance(end, Failed)
    assert (end.error.code, end.error.retry_after_ms) == (code, retry_after_ms)
    assert time.monotonic() - begin < 25.0  # the shortest of these pauses is 30 s


@pytest.fixture
def silent(script: Script) -> Iterator[threading.Event]:
    """A server that takes requests for a chat, after the start, and does not answer them until this is set."""
    gate = threading.Event()

    def hang(body: dict[str, Any]) -> tuple[int, Any]:
        if body["messages"][-1]["content"] == "Say OK.":  # asked at the start
            return 200, sse("OK")
        gate.wait(600.0)
        return 200, sse("late")

    script.answers["/v1/chat/completions"] = hang
    yield gate
    gate.set()


@pytest.mark.parametrize("uses", [1, 2], ids=["a new connection", "one used before"])
def test_cancelled_work_ends_although_the_server_is_silent(script: Script, silent: threading.Event, uses: int) -> None:
    events: queue.SimpleQueue[WorkEvent] = queue.SimpleQueue()
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        for number in range(uses):  # in the pool's one thread, and so on its one connection
            running.submit(reply(str(number)), events.put)
            time.sleep(0.5)
            running.cancel(str(number))
            end = events.get(timeout=TIMEOUT)
            assert isinstance(end, Failed)
            assert end.error.code == "cancelled"
        assert running.state().running == 0


def test_a_daemon_stops_although_the_server_is_silent(script: Script, silent: threading.Event) -> None:
    more = {"EDGED_MODEL__BACKEND": "remote", "EDGED_MODEL__URL": script.url, "EDGED_SHUTDOWN_TIMEOUT": "1"}
    more["EDGED_MODEL__ID"] = "one"
    with daemon_on_a_broker(program=("-m", "edged", "run"), more=more) as box:
        box.start()
        box.wait_ready()
        publish(box.broker, f"{box.root}/in/reply", "anybody?")
        time.sleep(1.0)
        begin = time.monotonic()
        assert box.stop() == ExitCode.DONE
        assert time.monotonic() - begin < 120.0  # the server is silent for 600 s


@pytest.mark.parametrize("status", [503, 200])  # the second from a proxy before it
def test_a_server_that_is_busy_at_the_start_is_waited_for(
    script: Script, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr("edged.engine.remote.start._START_PAUSE_S", 0.05)
    is_loading = iter([True] * 3 + [False] + [True] * 9)
    tells = script.answers["/v1/completions"]
    script.answers["/v1/completions"] = lambda body: (
        (status, b"loading the model") if next(is_loading, False) else tells(body)
    )
    with engine(script.url, retries=1) as running:
        assert running.wait_ready(TIMEOUT)
        [[end]] = run(running, sentiment("Whatever."))
    assert isinstance(end, Classified)
    assert 0.0 < end.scores["positive"] < 1.0


def test_a_server_that_has_no_model_yet_is_asked_for_the_one_that_is_set(script: Script) -> None:
    script.answers["/v1/models"] = lambda _: (200, {"object": "list", "data": None})  # as Ollama says it
    with engine(script.url, id="mine") as running:
        assert running.wait_ready(TIMEOUT)
        assert running.model.id == "mine"


def test_a_prompt_that_the_server_refuses_is_told_at_the_start(script: Script) -> None:
    tells = script.answers["/v1/completions"]
    script.answers["/v1/completions"] = lambda body: tells(body) if "One, two" in body["prompt"] else (400, b"no")
    with engine(script.url) as running, pytest.raises(ModelUnavailable, match="refuses"):
        running.wait_ready(TIMEOUT)


def test_the_line_end_of_a_key_is_not_sent_and_what_is_no_key_is_refused(script: Script) -> None:
    with engine(script.url, api_key="geheim\n") as running:
        assert running.wait_ready(TIMEOUT)
    assert script.keys == {"Bearer geheim"}
    with pytest.raises(ValueError, match="ASCII"):
        settings(script.url, api_key="ge\nheim")
