"""Secrets and users' words are planted, and everything that the daemon says or keeps is searched for them."""

import ast
import os
import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.errors import ExitCode
from tests.support.broker import free_port
from tests.support.daemon import Daemon, Watcher, daemon_on_a_broker, publish, run_edged

PASSWORD = "hunter2-planted-password"
WORDS = "planted-words-of-a-user"
SOURCES = Path(__file__).parents[2] / "edged"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    more = {
        "EDGED_LOG__LEVEL": "info",
        "EDGED_MQTT__USERNAME": "edged",
        "EDGED_MQTT__PASSWORD": PASSWORD,
        "EDGED_METRICS__PORT": str(free_port()),
        "EDGED_HOMEASSISTANT__DISCOVERY": "true",
    }
    with daemon_on_a_broker(more=more) as daemon:
        yield daemon


def talk(daemon: Daemon) -> list[str]:
    """Say the planted words in every way; gives all that the daemon publishes but replies and conversations."""
    watcher = Watcher(daemon.broker, "edged/#", "homeassistant/#")
    daemon.start()
    daemon.wait_ready()
    asked = (
        ("in/message", WORDS),
        ("in/message/ada", f'{{"text": "{WORDS}", "stream": true}}'),
        ("in/message", f'{{"text": "{WORDS}", "params": {{"temperature": 9}}}}'),
        ("in/message", f'{{"text": "{WORDS}", "more": "{WORDS}"}}'),
        ("in/message", f'{{"text": ["{WORDS}"]}}'),
        ("in/message", f'{{"text": "{WORDS}", "history": [{{"role": "{WORDS}", "content": "{WORDS}"}}]}}'),
        ("in/nothing", WORDS),
        ("in/message", WORDS.encode() + b"\xff"),
        ("in/message", WORDS * 1000),
        ("in/reply", f"[fail] {WORDS}"),
        ("request/session", '{"session": "ada"}'),
        ("request/forget", f'["{WORDS}"]'),
        ("request/log_level", '{"level": "loud"}'),
    )
    for topic, payload in asked:
        publish(daemon.broker, f"{daemon.root}/{topic}", payload)
    publish(daemon.broker, f"{daemon.root}/request/drain", "")
    said: list[str] = []
    while True:
        arrival = watcher.next()
        kind = arrival.topic.split("/")[2] if arrival.topic.startswith(daemon.root) else "discovery"
        is_reply = kind == "out" and '"status":"error"' not in arrival.payload
        if kind not in {"in", "request"} and not is_reply and not arrival.topic.endswith("response/session"):
            said.append(arrival.payload)
        if kind == "status" and '"stopped"' in arrival.payload:
            break
    watcher.stop()
    assert daemon.wait() == 0
    assert sum('"status":"error"' in each for each in said) >= 9
    return said


def test_nothing_private_is_said_or_logged(daemon: Daemon) -> None:
    for text in [*talk(daemon), daemon.log]:
        assert PASSWORD not in text
        assert WORDS not in text
    assert "ready" in daemon.log  # it was a log


def test_debug_shows_words_and_no_password(daemon: Daemon) -> None:
    daemon.more = {**daemon.more, "EDGED_LOG__LEVEL": "debug"}
    for text in [*talk(daemon), daemon.log]:
        assert PASSWORD not in text


def test_a_journal_that_keeps_no_text_has_none(daemon: Daemon) -> None:
    daemon.more = {**daemon.more, "EDGED_JOURNAL__KEEP_TEXT": "false"}
    talk(daemon)
    kept = [each for each in (daemon.folder / "state").rglob("*") if each.is_file()]
    assert kept
    for each in kept:
        assert WORDS.encode() not in each.read_bytes(), each


def test_figures_and_commands_tell_no_secret(daemon: Daemon) -> None:
    daemon.start()
    daemon.wait_ready()
    publish(daemon.broker, f"{daemon.root}/in/message", WORDS)
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.more['EDGED_METRICS__PORT']}/metrics", timeout=120) as page:
        told = [page.read().decode()]
    for command in (["check"], ["config", "--show"], ["top", "--once"], ["run", "--set", "mqtt.keepalive=soon"]):
        done = daemon.command(*command)
        told.append(done.stdout + done.stderr)
    for text in told:
        assert text
        assert PASSWORD not in text
        assert WORDS not in text


@pytest.mark.parametrize(
    "more",
    [
        {"EDGED_MQTT__HOST": f"mqtt://edged:{PASSWORD}@box.lan"},
        {"EDGED_MQTT__HOST": f"edged:{PASSWORD}@box.lan"},
        {"EDGED_MQTT__PASWORD": PASSWORD},
        {"EDGED_MQTT__KEEPALIVE": "soon", "EDGED_MQTT__PASSWORD": PASSWORD},
    ],
)
def test_a_secret_in_wrong_settings_is_not_repeated(more: dict[str, str]) -> None:
    done = run_edged(["check"], {**os.environ, **more})
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith("edged: ")
    assert PASSWORD not in done.stdout + done.stderr


def test_others_of_the_box_read_nothing_of_ours(daemon: Daemon) -> None:
    before = os.umask(0)  # whatever the box allows
    try:
        daemon.start()
    finally:
        os.umask(before)
    daemon.wait_ready()
    watcher = Watcher(daemon.broker, f"{daemon.root}/out/#")
    publish(daemon.broker, f"{daemon.root}/in/message/ada", WORDS)
    watcher.next()
    watcher.stop()
    state = daemon.folder / "state"
    modes = {str(each.relative_to(state)): stat.S_IMODE(each.stat().st_mode) for each in [state, *state.rglob("*")]}
    assert {"journal.db", "journal.db-wal"} <= {*modes}
    assert [name for name, mode in modes.items() if mode & 0o077] == []


def test_no_code_runs_that_came_with_a_model() -> None:
    """No pickle, no torch.load, and trust_remote_code is never anything but False."""
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & {*names}, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"torch.load", "eval", "exec", "pickle.load", "pickle.loads"}, path
                for keyword in node.keywords:
                    if keyword.arg in {"trust_remote_code", "weights_only"}:
                        assert ast.unparse(keyword.value) == str(keyword.arg == "weights_only"), path
                if called.endswith(".from_pretrained"):
                    given = {keyword.arg for keyword in node.keywords}
                    assert "trust_remote_code" in given, f"{path}:{node.lineno}"
