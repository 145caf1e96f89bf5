"""The engine on servers that answer as Ollama, llama.cpp, vLLM, LM Studio, TGI and SGLang are reported to."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from edged.engine.remote.server_check import try_server
from edged.errors import ExitCode, ModelUnavailable
from edged.ports.engine import Classified, Failed, Generated, Params, TextDelta, WorkEvent
from edged.tasks.conversation import Turn
from tests.integration.test_remote import TIMEOUT, Script, engine, reply, run, script, sentiment, settings, sse
from tests.support.daemon import Watcher, daemon_on_a_broker, publish
from tests.support.waiting import eventually

__all__ = ["script"]  # a fixture

Body = dict[str, Any]
Reply = tuple[int, Any]

_CHAT = "/v1/chat/completions"
_REASONING = ("Okay, ", "the user ", "says hi.")
_NO_LOG_PROBABILITIES = {"choices": [{"text": " four", "finish_reason": "length"}]}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of the start and between looks in hundredths of a second."""
    monkeypatch.setattr("edged.engine.remote.start._START_PAUSE_S", 0.05)
    monkeypatch.setattr("edged.engine.remote.start._LOOK_PAUSE_S", 0.05)


def streamed(*deltas: Body, finish: str = "stop") -> bytes:
    chunks: list[Body] = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"delta": {}, "finish_reason": finish}]})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def said(body: Body, *deltas: Body, finish: str = "stop") -> Reply:
    """An answer, streamed if that was asked for."""
    if body.get("stream"):
        return 200, streamed(*deltas, finish=finish)
    whole: Body = {"role": "assistant"}
    for name in {name for delta in deltas for name in delta}:
        whole[name] = "".join(delta.get(name, "") for delta in deltas)
    return 200, {"choices": [{"message": whole, "finish_reason": finish}]}


def words(body: Body) -> list[Body]:
    """What a model says when it does not reason."""
    return [{"content": '"positive"'}] if "response_format" in body else [{"content": "Good"}, {"content": " to hear!"}]


def refusal(message: str, status: int = 400) -> Reply:
    return status, {"object": "error", "message": message, "code": status}


def ends(script: Script, **model: Any) -> list[WorkEvent]:
    """The ends of a reply, streamed, and of a classification."""
    with engine(script.url, **model) as running:
        assert running.wait_ready(TIMEOUT)
        assert running.state().away is None
        [[*deltas, end], [label]] = run(running, reply("1", stream=True), sentiment("I love it.", "2"))
    assert isinstance(end, Generated), end
    assert "".join(each.text for each in deltas if isinstance(each, TextDelta)) == end.text
    return [end, label]


# --------------------------------------------------------------------------------------------- models that reason


def thinks_at_ollama(body: Body) -> Reply:
    if body.get("reasoning_effort") == "none":
        return said(body, *words(body))
    return said(body, *({"content": "", "reasoning": each} for each in _REASONING), finish="length")


def thinks_before_ollamas_own_api(body: Body) -> Reply:
    if body.get("think") is False:
        return said(body, *words(body))
    return said(body, *({"content": "", "thinking": each} for each in _REASONING), finish="length")


def thinks_at_llama_cpp(body: Body) -> Reply:
    if body.get("chat_template_kwargs", {}).get("enable_thinking") is False:
        return said(body, *words(body))
    return said(body, *({"reasoning_content": each} for each in _REASONING), finish="length")


def thinks_at_an_older_vllm(body: Body) -> Reply:
    if body.get("reasoning_effort") not in {None, "low", "medium", "high"}:
        return refusal("[{'type': 'literal_error', 'loc': ('body', 'reasoning_effort'), 'input': 'none'}]")
    return thinks_at_llama_cpp(body)


def thinks_behind_a_strict_form(body: Body) -> Reply:
    known = {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options"}
    known |= {"reasoning_effort", "response_format"}
    if unknown := body.keys() - known:
        return 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", min(unknown)]}]}
    return thinks_at_ollama(body)


def thinks_and_says_nothing_of_what_it_refuses(body: Body) -> Reply:
    return refusal("Bad Request") if "think" in body else thinks_at_ollama(body)


@pytest.mark.parametrize(
    "server",
    [
        thinks_at_ollama,
        thinks_before_ollamas_own_api,
        thinks_at_llama_cpp,
        thinks_at_an_older_vllm,
        thinks_behind_a_strict_form,
        thinks_and_says_nothing_of_what_it_refuses,
    ],
)
def test_a_model_is_kept_from_reasoning(script: Script, server: Callable[[Body], Reply]) -> None:
    script.answers["/v1/completions"] = lambda _: (200, _NO_LOG_PROBABILITIES)
    script.answers[_CHAT] = server
    [end, label] = ends(script)
    assert isinstance(end, Generated)
    assert end.text == "Good to hear!"
    assert isinstance(label, Classified)
    assert label.scores == {"positive": 1.0, "negative": 0.0}


@pytest.mark.parametrize(
    "reasoning",
    [
        [{"reasoning_content": each} for each in _REASONING],
        [{"reasoning": each, "content": ""} for each in _REASONING],
        [{"content": each} for each in ("<th", "ink>\n", *_REASONING, "</thi", "nk>\n\n")],
        [{"content": each} for each in (*_REASONING, "\n</think>", "\n\n")],  # the prompt had the opening mark
        [{"content": each} for each in ("[THINK]", *_REASONING, "[/THINK]")],
    ],
    ids=["reasoning_content", "reasoning", "marks", "the closing mark", "Magistral's marks"],
)
def test_reasoning_that_comes_all_the_same_is_left_out(script: Script, reasoning: list[Body]) -> None:
    script.answers["/v1/completions"] = lambda _: (200, _NO_LOG_PROBABILITIES)

    def server(body: Body) -> Reply:
        if body["max_tokens"] < 500:  # as with every model that reasons
            return said(body, *reasoning[:-1], finish="length")
        return said(body, *reasoning, *words(body))

    # The first look sees how it reasons only if the reasoning has its end.
    script.answers[_CHAT] = lambda body: (
        said(body, *reasoning, *words(body)) if "Say OK." in str(body) else server(body)
    )
    [end, label] = ends(script)
    assert isinstance(end, Generated)
    assert (end.text, end.finish_reason) == ("Good to hear!", "stop")
    assert isinstance(label, Classified)
    assert label.scores["positive"] == 1.0


def test_a_model_that_reasons_keeps_to_the_tokens_of_its_reply(script: Script) -> None:
    deltas = [{"content": "<think>Hm.</think>"}, *({"content": f" {number}"} for number in range(100))]
    script.answers[_CHAT] = lambda body: said(body, *deltas)
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        [[end]] = run(running, reply(params=Params(max_tokens=8)))
    assert isinstance(end, Generated)
    assert (end.text, end.finish_reason) == ("0 1 2 3 4 5 6 7", "length")


def test_reasoning_without_an_end_is_no_reply(script: Script) -> None:
    script.answers[_CHAT] = lambda body: said(
        body, *({"reasoning_content": each} for each in _REASONING), finish="length"
    )
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        [[end]] = run(running, reply())
        [[token]] = run(running, reply("2", params=Params(max_tokens=1)))  # as the daemon probes
    assert isinstance(end, Failed)
    assert "reasoning" in end.error.message
    assert isinstance(token, Generated)


def test_reasoning_that_shows_only_by_its_end_is_left_out_of_the_result_and_then_of_the_stream(script: Script) -> None:
    with engine(script.url) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers[_CHAT] = lambda body: said(
            body, {"content": "Hm."}, {"content": "</think>"}, {"content": "Hello"}
        )
        [[*_, first]] = run(running, reply("1", stream=True))
        [[*deltas, second]] = run(running, reply("2", stream=True))
    assert isinstance(first, Generated)
    assert isinstance(second, Generated)
    assert (first.text, second.text) == ("Hello", "Hello")
    assert [each.text for each in deltas if isinstance(each, TextDelta)] == ["Hello"]


# --------------------------------------------------------------------------------------- roles and their order


def roles(body: Body) -> list[str]:
    return [message["role"] for message in body["messages"]]


def no_system_at_vllm(body: Body) -> Reply:
    return refusal("System role not supported") if "system" in roles(body) else said(body, *words(body))


def no_system_at_sglang(body: Body) -> Reply:
    return (500, b"Internal Server Error") if "system" in roles(body) else said(body, *words(body))


def old_mistral_at_llama_cpp(body: Body) -> Reply:
    if any((role == "user") != (at % 2 == 0) for at, role in enumerate(roles(body))):
        jinja = "Jinja Exception: Conversation roles must alternate user/assistant/user/assistant/..."
        return 500, {"error": {"code": 500, "message": jinja, "type": "server_error"}}
    return said(body, *words(body))


def newer_mistral_at_tgi(body: Body) -> Reply:
    said_by = roles(body)[1:] if roles(body)[0] == "system" else roles(body)
    if any((role == "user") != (at % 2 == 0) for at, role in enumerate(said_by)):
        return 422, {"error": "Template error: Conversation roles must alternate", "error_type": "template_error"}
    return said(body, *words(body))


@pytest.mark.parametrize(
    "server", [no_system_at_vllm, no_system_at_sglang, old_mistral_at_llama_cpp, newer_mistral_at_tgi]
)
def test_turns_are_put_as_the_models_template_wants_them(script: Script, server: Callable[[Body], Reply]) -> None:
    script.answers[_CHAT] = server
    turns = (
        Turn(role="assistant", content="Welcome."),
        Turn(role="user", content="My name"),
        Turn(role="user", content="is Zelda."),
        Turn(role="assistant", content="Hello Zelda."),
    )
    with engine(script.url, retries=0) as running:
        assert running.wait_ready(TIMEOUT)
        assert running.state().away is None
        [[plain], [talk]] = run(running, reply("1"), reply("2", text="Who am I?", turns=turns))
    for end in (plain, talk):
        assert isinstance(end, Generated), end
        assert end.text == "Good to hear!"
    sent = str([body["messages"] for path, body in script.asked if path == _CHAT and "Zelda" in str(body)][-1])
    for text in ("Welcome.", "My name\\n\\nis Zelda.", "Hello Zelda.", "Who am I?"):
        assert text in sent


def test_the_instruction_goes_before_the_users_words(script: Script) -> None:
    script.answers[_CHAT] = no_system_at_vllm
    ends(script)
    [*_, (_, body)] = [(path, body) for path, body in script.asked if path == _CHAT]
    [message] = body["messages"]
    assert message["role"] == "user"
    assert message["content"].endswith("\n\nI passed my exam today!")


# ----------------------------------------------------------------------------------- servers that fail and heal


@pytest.mark.parametrize(
    "failing",
    [
        lambda _: (400, {"error": "no"}),
        lambda _: (404, {"error": "no such endpoint"}),
        lambda _: (500, {"error": "out of memory"}),
        lambda _: (502, b"<html>Bad Gateway</html>"),
        lambda _: (200, sse("")),
        lambda _: (200, sse("", finish="length")),
        lambda _: (200, {"choices": []}),
        lambda _: (200, b'data: {"error":{"message":"out of memory"}}\n\n'),
    ],
)
@pytest.mark.parametrize("fails", ["chats", "everything"])
def test_a_server_that_fails_every_request_is_away_until_it_answers(
    script: Script, failing: Callable[[Body], Reply], fails: str
) -> None:
    script.answers[_CHAT] = failing
    well = script.answers["/v1/completions"]
    if fails == "everything":  # a stream is no answer to a request for a completion
        script.answers["/v1/completions"] = failing if isinstance(failing({})[1], dict) else lambda _: (500, b"no")
    with engine(script.url, retries=0) as running:
        assert running.wait_ready(TIMEOUT)
        away = running.state().away
        assert away is not None
        assert "the model's server" in away
        assert "memory" not in away  # what a server says may hold a user's words
        [[end]] = run(running, reply())
        assert isinstance(end, Failed)
        script.answers |= {_CHAT: lambda body: said(body, *words(body)), "/v1/completions": well}
        eventually(lambda: running.state().away is None, "the server is back")
        [[text], [label]] = run(running, reply("1"), sentiment("I love it.", "2"))
    assert isinstance(text, Generated)
    assert isinstance(label, Classified)
    assert 0.0 < label.scores["positive"] < 1.0


@pytest.mark.parametrize("endpoint", [_CHAT, "/v1/completions"])
def test_a_server_that_begins_to_refuse_everything_is_away_until_it_answers(script: Script, endpoint: str) -> None:
    well = script.answers[endpoint]
    with engine(script.url, retries=0) as running:
        assert running.wait_ready(TIMEOUT)
        assert running.state().away is None
        script.answers[endpoint] = lambda _: (500, b"no") if endpoint != _CHAT else (400, b"no")
        works = reply() if endpoint == _CHAT else sentiment("Well.")
        run(running, works)
        eventually(lambda: running.state().away, "the server is away")
        script.answers[endpoint] = well
        eventually(lambda: running.state().away is None, "the server is back")


def test_a_refusal_of_one_text_alone_is_no_fault_of_the_server(script: Script) -> None:
    well = script.answers[_CHAT]
    script.answers[_CHAT] = lambda body: (400, b"no") if "odd" in str(body["messages"]) else well(body)
    with engine(script.url, retries=0) as running:
        assert running.wait_ready(TIMEOUT)
        for number in range(5):
            [[end]] = run(running, reply(str(number), text="odd"))
            assert isinstance(end, Failed)
        time.sleep(0.5)
        assert running.state().away is None


def test_another_model_behind_the_server_is_learned_when_it_refuses(script: Script) -> None:
    with engine(script.url, retries=0) as running:
        assert running.wait_ready(TIMEOUT)
        script.answers[_CHAT] = no_system_at_vllm

        def answers() -> bool:
            [[end]] = run(running, reply())
            return isinstance(end, Generated)

        eventually(answers, "the reply of a model without a system role")


def test_a_daemon_on_a_server_that_fails_every_request_is_degraded(script: Script) -> None:
    script.answers["/v1/completions"] = script.answers[_CHAT] = lambda _: (500, b"no")
    more = {"EDGED_MODEL__BACKEND": "remote", "EDGED_MODEL__URL": script.url, "EDGED_MODEL__RETRIES": "0"}
    more["EDGED_MODEL__ID"] = "one"
    with daemon_on_a_broker(program=("-m", "edged", "run"), more=more) as box:
        status = Watcher(box.broker, f"{box.root}/status")
        out = Watcher(box.broker, f"{box.root}/out/#")
        try:
            box.start()
            found = [status.until(state="loading")]
            while found[-1]["state"] == "loading":
                found.append(status.until())
            assert found[-1]["state"] == "degraded"  # and not ready first
            assert "the model's server" in str(found[-1]["reasons"])
            publish(box.broker, f"{box.root}/in/reply", "anybody?")
            assert out.next_json()["error"]["code"] == "model_error"
            script.answers["/v1/completions"] = lambda _: (200, _NO_LOG_PROBABILITIES)
            script.answers[_CHAT] = thinks_at_ollama
            status.until(state="ready")
            assert box.stop() == ExitCode.DONE
        finally:
            status.stop()
            out.stop()


# --------------------------------------------------------------------------------------------------- the check


def test_the_check_tells_the_model_and_the_way(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    assert try_server(settings(script.url), timeout=TIMEOUT) == f"one at {script.url}"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    told = try_server(settings(script.url), timeout=TIMEOUT)
    assert "without the proxy of the environment" in told
    with pytest.raises(ModelUnavailable, match=r"by the proxy of the environment, http://127\.0\.0\.1:9"):
        try_server(settings(script.url, proxy="environment"), timeout=1.0)


def test_the_check_fails_on_a_server_that_fails_every_chat(script: Script) -> None:
    script.answers[_CHAT] = lambda _: (400, b"no")
    with pytest.raises(ModelUnavailable, match="chat/completions: HTTP 400"):
        try_server(settings(script.url), timeout=TIMEOUT)
