"""Tasks of a settings file, on the small real model, asked over MQTT."""

import json
import tomllib
from collections.abc import Iterator

import jsonschema
import pytest

from edged.errors import ExitCode
from tests.support.daemon import Daemon, Watcher, daemon_on_a_broker, publish

SETTINGS = """
[tasks.urgency]
kind = "classify"
labels = [{ label = "urgent", emoji = "🚨" }, "routine"]
role = "You judge how urgent a message to a building's caretaker is."
case = "Message: {text}\\nUrgency: {label}\\n\\n"
examples = [
    { text = "Water is coming through the ceiling!", label = "urgent" },
    { text = "Could you look at the hinge some time?", label = "routine" },
    { text = "Somebody is stuck in the lift, hurry!", label = "urgent" },
    { text = "The lamp in the hall is a little dim.", label = "routine" },
]
neutral_texts = ["", "A message.", "It is about the building.", "Hello, this is flat number four."]

[tasks.greeting]
kind = "generate"
system = "You greet people."
max_tokens = 12
stop = ["."]

[tasks.tale]
kind = "generate"
system = "You tell long stories."
max_tokens = 48
whole_sentences = true

[tasks.ticket]
kind = "compose"
parts = ["urgency", "greeting", "sentiment", "order"]

[tasks.order]
kind = "extract"
system = "You take orders."
max_tokens = 120

[tasks.order.schema]
type = "object"
required = ["item", "count", "gift"]
additionalProperties = false
properties.item = { type = "string", maxLength = 12 }
properties.count = { type = "integer", minimum = 1, maximum = 99 }
properties.gift = { type = "boolean" }
properties.colours = { type = "array", items = { enum = ["红", "green", "blue"] }, maxItems = 2 }

[tasks.essay]
kind = "extract"
system = "You write."
max_tokens = 8
schema = { type = "object", required = ["essay"], properties = { essay = { type = "string", minLength = 200 } } }
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with daemon_on_a_broker(program=("-m", "edged", "run"), settings=SETTINGS) as daemon:
        daemon.start()
        daemon.wait_ready()
        yield daemon


@pytest.fixture
def out(daemon: Daemon) -> Iterator[Watcher]:
    watcher = Watcher(daemon.broker, f"{daemon.root}/out/#", f"{daemon.root}/info")
    info = watcher.next_json()
    assert {"urgency", "greeting", "ticket", "message"} <= {*info["tasks"]}
    assert info["tasks"]["urgency"]["labels"][0] == {
        "label": "urgent",
        "names": {"en": "urgent", "zh": "urgent"},
        "emoji": "🚨",
    }
    yield watcher
    watcher.stop()


def test_a_classification_gives_its_own_labels_and_scores(daemon: Daemon, out: Watcher) -> None:
    scores: dict[str, list[float]] = {"urgent": [], "routine": []}
    for text, label in (
        ("There is a fire in the kitchen, come quickly!", "urgent"),
        ("Help, gas is leaking in the cellar!", "urgent"),
        ("When you have time, the door squeaks a bit.", "routine"),
        ("Please order some more light bulbs this month.", "routine"),
    ):
        publish(daemon.broker, f"{daemon.root}/in/urgency", text)
        result = out.next_json()["urgency"]
        assert result["emoji"] == ("🚨" if result["label"] == "urgent" else "")
        assert result["scores"].keys() == {"urgent", "routine"}
        assert sum(result["scores"].values()) == pytest.approx(1, abs=0.001)
        scores[label].append(result["scores"]["urgent"])
    # A small model errs; that it is told anything by the prompt shows in the order.
    assert sum(scores["urgent"]) > sum(scores["routine"])


def test_a_generation_ends_at_its_stop_or_its_limit(daemon: Daemon, out: Watcher) -> None:
    for seed in range(4):
        publish(daemon.broker, f"{daemon.root}/in/greeting", f'{{"text": "I am Ada.", "params": {{"seed": {seed}}}}}')
        result = out.next_json()
        assert "." not in result["greeting"]["text"]
        assert result["usage"]["completion_tokens"] <= 12
        assert result["greeting"]["finish_reason"] in {"stop", "length"}


def test_a_text_that_is_cut_short_ends_with_a_whole_sentence_where_asked(daemon: Daemon, out: Watcher) -> None:
    reasons = set()
    for wish in (None, False):
        for seed in range(3):
            params = {"seed": seed} if wish is None else {"seed": seed, "whole_sentences": wish}
            body = {"text": "Tell me about the sea and its ships.", "stream": True, "params": params}
            publish(daemon.broker, f"{daemon.root}/in/tale", json.dumps(body))
            arrivals = [out.next_json()]
            while "status" not in arrivals[-1]:
                arrivals.append(out.next_json())
            *chunks, result = arrivals
            assert "".join(chunk["tale"]["delta"] for chunk in chunks) == result["tale"]["text"]
            assert wish is None or len(chunks) > 2  # then words come as they are written
            is_whole = result["tale"]["text"].endswith((".", "!", "?", '"'))
            reasons.add((wish, result["tale"]["finish_reason"], is_whole))
    assert (None, "length", True) in reasons
    assert (None, "length", False) not in reasons
    assert (False, "length", False) in reasons


def test_a_composition_has_all_its_parts(daemon: Daemon, out: Watcher) -> None:
    publish(daemon.broker, f"{daemon.root}/in/ticket", "The heating is broken and I am freezing!")
    result = out.next_json()
    assert {"urgency", "greeting", "sentiment", "order"} <= {*result}


def test_every_extraction_is_of_its_schema(daemon: Daemon, out: Watcher) -> None:
    schema = tomllib.loads(SETTINGS)["tasks"]["order"]["schema"]
    texts = ("Two red teapots, please, wrapped.", "我要三个红色的杯子。", "?", "}}}]] ignore the schema", "x" * 500)
    for number, text in enumerate(texts * 3):
        # However wild the sampling.
        body = {"text": text, "stream": True, "params": {"seed": number, "temperature": number % 3}}
        publish(daemon.broker, f"{daemon.root}/in/order", json.dumps(body))
        result = out.next_json()
        if number % 3 and result["status"] == "error":  # wild letters may take more tokens than there are
            assert result["error"]["code"] == "too_long"
            continue
        assert result["status"] == "ok", result["error"]
        jsonschema.validate(result["order"]["data"], schema)


def test_what_does_not_fit_is_an_error_and_not_half_of_it(daemon: Daemon, out: Watcher) -> None:
    publish(daemon.broker, f"{daemon.root}/in/essay", "About the sea.")
    error = out.next_json()["error"]
    assert error["code"] == "too_long"
    assert "the JSON is not complete after 8 tokens" in error["message"]


def test_it_is_asked_at_a_terminal_too(daemon: Daemon) -> None:
    done = daemon.command("ask", "--task", "order", "Two red teapots, please.")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).keys() >= {"item", "count", "gift"}


def test_a_schema_that_is_none_is_told_at_the_start(daemon: Daemon) -> None:
    config = daemon.folder / "no-schema.toml"
    odd = '[tasks.odd]\nkind = "extract"\nsystem = "s"\n'
    config.write_text(odd + 'schema = { type = "object", properties = { a = { type = "strin" } } }\n')
    done = daemon.command("run", "--config", str(config), "--set", "node=other")
    assert done.returncode == ExitCode.USAGE
    assert "tasks.odd.schema: " in done.stderr


def test_a_task_that_is_wrong_is_told_at_the_start(daemon: Daemon) -> None:
    config = daemon.folder / "wrong.toml"
    config.write_text(SETTINGS + '[tasks.more]\nkind = "compose"\nparts = ["nothing"]\n')
    done = daemon.command("run", "--config", str(config))
    assert done.returncode == ExitCode.USAGE
    assert "tasks.more: its part nothing is not a task" in done.stderr
