"""Tasks of a settings file, on the small real model, asked over MQTT."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.errors import ExitCode
from tests.support.broker import Broker
from tests.support.daemon import Daemon, Watcher, publish

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

[tasks.ticket]
kind = "compose"
parts = ["urgency", "greeting", "sentiment"]
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="edged-") as root:
        broker = Broker(folder=Path(root))
        broker.start()
        config = Path(root) / "edged.toml"
        config.write_text(SETTINGS)
        daemon = Daemon(folder=Path(root), broker=broker, more={"EDGED_CONFIG": str(config)})
        daemon.start()
        try:
            daemon.wait_ready()
            yield daemon
        finally:
            daemon.kill()
            broker.stop()


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


def test_a_composition_has_all_its_parts(daemon: Daemon, out: Watcher) -> None:
    publish(daemon.broker, f"{daemon.root}/in/ticket", "The heating is broken and I am freezing!")
    result = out.next_json()
    assert {"urgency", "greeting", "sentiment"} <= {*result}


def test_a_task_that_is_wrong_is_told_at_the_start(daemon: Daemon) -> None:
    config = daemon.folder / "wrong.toml"
    config.write_text(SETTINGS + '[tasks.more]\nkind = "compose"\nparts = ["nothing"]\n')
    done = daemon.command("run", "--config", str(config))
    assert done.returncode == ExitCode.USAGE
    assert "tasks.more: there is no task nothing to be its part" in done.stderr
