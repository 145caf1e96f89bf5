"""How a server wants a chat: what is left out, how turns are put, and what to try after a refusal."""

import pytest

from edged.engine.remote.dialect import Dialect, further_dialects
from edged.tasks.conversation import Role, Turn


def turns(*said: tuple[Role, str]) -> list[Turn]:
    return [Turn(role=role, content=content) for role, content in said]


def sent(dialect: Dialect, *said: tuple[Role, str]) -> list[tuple[str, str]]:
    return [(each["role"], each["content"]) for each in dialect.messages("Be kind.", turns(*said))]


FOLDS = Dialect(folds_system=True)


@pytest.mark.parametrize(
    ("dialect", "said", "expected"),
    [
        (Dialect(), [("user", "a")], [("system", "Be kind."), ("user", "a")]),
        (
            Dialect(),
            [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e")],
            [("system", "Be kind."), ("user", "a\n\nb"), ("assistant", "c\n\nd"), ("user", "e")],
        ),
        (
            Dialect(),
            [("assistant", "a"), ("user", "b")],
            [("system", "Be kind."), ("assistant", "a"), ("user", "b")],
        ),
        (
            Dialect(alternates=True),
            [("assistant", "a"), ("user", "b")],
            [("user", "Be kind."), ("assistant", "a"), ("user", "b")],
        ),
        (Dialect(alternates=True), [("user", "b")], [("system", "Be kind."), ("user", "b")]),
        (FOLDS, [("user", "a")], [("user", "Be kind.\n\na")]),
        (
            FOLDS,
            [("user", "a"), ("assistant", "b"), ("user", "c")],
            [("user", "Be kind.\n\na"), ("assistant", "b"), ("user", "c")],
        ),
        (
            FOLDS,
            [("assistant", "a"), ("user", "b")],
            [("user", "Be kind."), ("assistant", "a"), ("user", "b")],
        ),
    ],
)
def test_turns_are_put_as_the_server_wants_them(
    dialect: Dialect, said: list[tuple[Role, str]], expected: list[tuple[str, str]]
) -> None:
    assert sent(dialect, *said) == expected


def test_a_request_asks_for_no_reasoning_in_every_servers_words() -> None:
    body = Dialect().body(max_tokens=9, top_k=4)
    assert body["reasoning_effort"] == "none"
    assert body["think"] is False
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert (body["max_tokens"], body["top_k"]) == (9, 4)


def test_what_a_server_refuses_is_left_out() -> None:
    dialect = Dialect(without=frozenset({"think", "top_k"}), max_tokens="max_completion_tokens")
    body = dialect.body(max_tokens=9, top_k=4)
    assert not body.keys() & {"think", "top_k", "max_tokens"}
    assert body["max_completion_tokens"] == 9


def test_a_model_that_reasons_gets_tokens_for_it() -> None:
    assert Dialect(reasons=True).body(max_tokens=100)["max_tokens"] > 500
    assert Dialect(reasons=True).body(max_tokens=1)["max_tokens"] == 1


@pytest.mark.parametrize(
    ("refusal", "first"),
    [
        (
            '{"error":{"message":"Unrecognized request argument supplied: think"}}',
            Dialect(without=frozenset({"think"})),
        ),
        (
            "[{'type': 'literal_error', 'loc': ('body', 'reasoning_effort'), 'input': 'none'}]",
            Dialect(without=frozenset({"reasoning_effort"})),
        ),
        (
            '{"detail":[{"loc":["body","think"],"msg":"Extra inputs"},{"loc":["body","chat_template_kwargs"]}]}',
            Dialect(without=frozenset({"think", "chat_template_kwargs"})),
        ),
        ("unknown field top_k", Dialect(without=frozenset({"top_k", "repeat_penalty", "repetition_penalty"}))),
        (
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            Dialect(max_tokens="max_completion_tokens"),
        ),
        ("System role not supported", FOLDS),
        ("Conversation roles must alternate user/assistant/user/assistant/...", FOLDS),
        ("Only user, assistant and tool roles are supported, got system.", FOLDS),
    ],
)
def test_what_a_server_says_tells_what_to_try(refusal: str, first: Dialect) -> None:
    assert further_dialects(Dialect(), refusal)[0] == first


@pytest.mark.parametrize(
    "refusal", ["", "Internal Server Error", '{"input":{"temperature":0,"seed":1,"stream_options":{},"think":false}}']
)
def test_where_it_says_nothing_one_thing_after_the_other_is_left_out(refusal: str) -> None:
    further = further_dialects(Dialect(), refusal)
    assert FOLDS in further
    assert Dialect(without=frozenset({"reasoning_effort"})) in further
    assert all(further_dialects(each, refusal) == [] for each in further)


def test_without_an_instruction_there_is_no_system_message() -> None:
    turns = [Turn(role="user", content="Hi")]
    for dialect in (Dialect(), Dialect(folds_system=True), Dialect(alternates=True)):
        assert dialect.messages(None, turns) == [{"role": "user", "content": "Hi"}]
