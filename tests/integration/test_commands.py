"""The command line as a process: what it imports, prints and exits with."""

import contextlib
import importlib.util
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import pytest

from edged import build, extras
from edged.commands import cli
from edged.errors import ExitCode
from tests.support.broker import Broker
from tests.support.daemon import SCRIPTED, Daemon, Watcher, daemon_on_a_broker
from tests.support.waiting import TIMEOUT

SLOW_LIBRARIES = {"torch", "transformers", "paho", "rich", "structlog", "pydantic_settings", "asyncio", "numpy", "tqdm"}
IMPORTED = """
import json, sys
from edged.commands.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
print()
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.mark.parametrize("command", ["", "run", "demo", "ask", "check", "top", "models prepare", "bench", "eval"])
def test_help_is_quick(command: str) -> None:
    arguments = [sys.executable, "-c", IMPORTED, *command.split(), "--help"]
    output = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=60).stdout
    code, modules = json.loads(output.splitlines()[-1])
    assert code == 0
    assert not SLOW_LIBRARIES & set(modules)


def edged(
    *arguments: str | bytes, environment: Mapping[str, str] | None = None, text: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "edged", *arguments],
        env={**os.environ, **(environment or {})},
        input=text,
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
    )


NO_BROKER = {"EDGED_MQTT__HOST": "127.0.0.1", "EDGED_MQTT__PORT": "1"}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with daemon_on_a_broker(program=SCRIPTED) as daemon:
        daemon.start()
        daemon.wait_ready()
        yield daemon


# ------------------------------------------------------------------------- terminals that are not UTF-8, odd arguments


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "gbk", "cp1252"])
@pytest.mark.parametrize(
    "command",
    ["--help", "chat --help", "eval --help", "config --example", "config --show", "config --schema", "asyncapi"],
)
def test_every_terminal_is_written_to(command: str, encoding: str) -> None:
    done = edged(*command.split(), environment={"PYTHONIOENCODING": encoding, "EDGED_PREFIX": "küche"})
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    if command.startswith("config --s") or command == "asyncapi":
        tomllib.loads(done.stdout.decode()) if command == "config --show" else json.loads(done.stdout.decode("ascii"))


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "gbk"])
@pytest.mark.parametrize("options", [[], ["--json"], ["--stream"], ["--stream", "--json"]])
def test_an_answer_is_written_to_every_terminal(daemon: Daemon, encoding: str, options: list[str]) -> None:
    done = edged("ask", "I love it", *options, environment={**daemon.environment, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert b"positive" in done.stdout or b"neutral" in done.stdout or b"negative" in done.stdout
    if "--json" in options:
        labels = [json.loads(line).get("sentiment") for line in done.stdout.decode("ascii").splitlines()]
        assert {each["emoji"] for each in labels if each} == {"😄"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", b"caf\xe9"),
        ("ask", "hi", "--task", b"caf\xe9"),
        ("ask", "hi", "--session", b"caf\xe9"),
        ("ask", "hi", "--group", b"caf\xe9"),
        ("chat", "--session", b"caf\xe9"),
        ("check", "--set", b"node=caf\xe9"),
        ("config", "--show", "--set", b"caf\xe9=1"),
        ("config", "--show", "--config", b"caf\xe9.toml"),
        ("models", "verify", b"caf\xe9"),
        ("models", "pull", b"caf\xe9"),
        ("eval", "--data", b"caf\xe9.tsv", "--labels", b"a=caf\xe9"),
        ("bench", "--model", b"caf\xe9"),
        ("demo", "--model", b"caf\xe9"),
    ],
)
def test_arguments_that_are_no_text_are_refused(arguments: tuple[str | bytes, ...]) -> None:
    done = edged(*arguments, environment=NO_BROKER)
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"\\udce9" in done.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "utf-8:surrogateescape"])
def test_standard_input_that_is_no_text_is_refused(encoding: str) -> None:
    done = edged("ask", "-", environment={**NO_BROKER, "PYTHONIOENCODING": encoding}, text=b"caf\xe9")
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert b"standard input is not" in done.stderr
    assert b"Traceback" not in done.stderr


def test_standard_input_is_of_the_terminals_encoding(daemon: Daemon) -> None:
    done = edged("ask", "-", environment={**daemon.environment, "PYTHONIOENCODING": "latin-1"}, text=b"caf\xe9")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "codes"),
    [
        ("config --example", {ExitCode.INTERRUPTED}),
        # Some releases of argparse hide the fault of a help text that nobody reads, others do not.
        ("--help", {ExitCode.INTERRUPTED, ExitCode.DONE}),
    ],
)
def test_a_reader_that_goes_away_is_no_fault(command: str, codes: set[ExitCode]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "edged", *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in codes


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--session", "a/b"),
        ("--session", ""),
        ("--session", "a+"),
        ("--session", "x" * 129),
        ("--task", "a/b"),
        ("--group", "#"),
    ],
)
def test_names_that_stand_in_no_topic_are_refused_at_once(option: str, name: str) -> None:
    done = edged("ask", "hello", option, name, environment=NO_BROKER)
    assert done.returncode == ExitCode.USAGE
    assert f"{option} {name!r}: it is one level of a topic".encode() in done.stderr


# --------------------------------------------------------------------------------------- the model of a running daemon


def test_a_running_daemon_tells_of_its_model_and_why_it_does_not_change_it(daemon: Daemon) -> None:
    told = edged("models", "status", "--json", environment=daemon.environment)
    assert told.returncode == 0, told.stderr
    report = json.loads(told.stdout)
    assert (report["in_progress"], report["previous"]) == (False, None)
    done = edged("models", "switch", "nobody/none", environment=daemon.environment)
    assert done.returncode == ExitCode.MODEL, done.stderr
    assert b"nobody/none is not used: the model nobody/none is not in" in done.stderr
    assert f"{report['installed_version']} stays in use".encode() in done.stderr


def test_a_command_without_a_daemon_says_so(daemon: Daemon) -> None:
    done = edged("models", "switch", "none", environment={**daemon.environment, "EDGED_NODE": "attic"})
    assert done.returncode == ExitCode.BROKER
    assert b"no daemon edged/attic runs" in done.stderr


# ----------------------------------------------------------------------------------------------- ask, chat and Ctrl-C


@pytest.mark.parametrize("options", [[], ["--group", "box"]], ids=["node", "group"])
def test_ctrl_c_cancels_what_was_asked(daemon: Daemon, options: list[str]) -> None:
    watcher = Watcher(daemon.broker, "edged/box/in/#", "edged/box/request/cancel")
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "edged", "ask", "[slow:60000]", "--stream", *options],
            env=daemon.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        asked = watcher.next_json()
        time.sleep(0.5)  # it waits for the answer now
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == ExitCode.INTERRUPTED
        assert b"Traceback" not in errors
        assert watcher.next_json() == {"id": asked["id"]}
    finally:
        watcher.stop()


class Terminal:
    """A command at a terminal: what is typed, and what is seen."""

    def __init__(self, environment: Mapping[str, str], *arguments: str) -> None:
        self._main, side = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edged", *arguments],
            env={**environment, "TERM": "xterm", "COLUMNS": "120"},
            stdin=side,
            stdout=side,
            stderr=side,
        )
        os.close(side)
        self.seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)

    def type(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def until(self, text: str) -> str:
        """Read until a text is seen; gives what was seen since the last call."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self.seen:
            ready, _, _ = select.select([self._main], [], [], 1.0)
            assert time.monotonic() < deadline, self.seen
            if ready:
                self.seen += os.read(self._main, 65536).decode(errors="replace")
        seen, _, self.seen = self.seen.partition(text)
        return seen + text

    def ended(self) -> int:
        with contextlib.suppress(OSError):  # the other side is closed
            while chunk := os.read(self._main, 65536):
                self.seen += chunk.decode(errors="replace")
        return self.process.wait(TIMEOUT)


def test_chat_has_commands_and_ctrl_c_cancels_only_the_answer(daemon: Daemon) -> None:
    watcher = Watcher(daemon.broker, "edged/box/in/#", "edged/box/request/cancel")
    try:
        with Terminal(daemon.environment, "chat", "--session", "first") as terminal:
            terminal.until("> ")
            terminal.type("/help\r")
            assert "/new" in terminal.until("Arrow keys")
            terminal.type("/session\r")
            terminal.until("session first")
            terminal.type("/nothing\r")
            terminal.until("there is no command /nothing")
            terminal.type("/session a/b\r")
            terminal.until("one level of a topic")
            terminal.type("hello\r")
            terminal.until("tokens]")
            assert watcher.next_json()["session"] == "first"
            terminal.type("\x1b[A\r")  # arrow up: the line before
            terminal.until("tokens]")
            assert watcher.next_json()["text"] == "hello"
            terminal.type("/new\r")
            terminal.until("session chat-")
            terminal.type("[slow:60000]\r")
            asked = watcher.next_json()
            assert asked["session"].startswith("chat-")
            time.sleep(0.5)
            terminal.process.send_signal(signal.SIGINT)
            terminal.until("[cancelled]")
            assert watcher.next_json() == {"id": asked["id"]}
            terminal.type("/etc/hosts is a file\r")  # no command
            terminal.until("tokens]")
            terminal.type("quit\r")
            assert terminal.ended() == 0
            assert "Traceback" not in terminal.seen
    finally:
        watcher.stop()


# ------------------------------------------------------------------------------------------- nothing is silent for long


def test_waiting_for_an_answer_shows_at_a_terminal(daemon: Daemon) -> None:
    with Terminal(daemon.environment, "ask", "[slow:4000]") as terminal:
        terminal.until("waiting for the answer: 2 s")
        terminal.until("tokens]")
        assert terminal.ended() == 0


def test_check_without_a_daemon_takes_seconds(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    settings = {
        "EDGED_NODE": "nobody",
        "EDGED_STATE_DIR": str(tmp_path),
        "EDGED_MODEL__ID": str(tmp_path),
        "EDGED_MQTT__HOST": "127.0.0.1",
        "EDGED_MQTT__PORT": str(broker.port),
    }
    done = edged("check", environment=settings)
    assert b"no answer in 5 s" in done.stdout, done
    done = edged("check", "--timeout", "1", environment=settings)
    assert b"no answer in 1 s" in done.stdout, done


def test_a_missing_extra_is_told_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    missing = {"prometheus_client", "redis", "llguidance", "rich", "amqtt"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    monkeypatch.setattr(build, "make_engine", None)
    options = ["--set", "metrics.port=9464", "--set", "journal.url=redis://localhost", "--set", "mqtt.share_group=team"]
    assert cli.main(["run", *options]) == ExitCode.USAGE
    told = capsys.readouterr().err.splitlines()[-2:]
    for line, setting, extra in zip(told, ("metrics.port", "journal.url"), ("metrics", "fleet"), strict=True):
        assert setting in line
        assert f"{sys.prefix}/bin/python -m pip install 'edged[{extra}]'" in line
        assert f"sh deploy/install.sh --venv {sys.prefix} --extras {extra}" in line
    assert cli.main(["top"]) == ExitCode.USAGE
    assert "--extras top" in capsys.readouterr().err
    assert cli.main(["demo"]) == ExitCode.USAGE
    assert "--extras demo" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["models", "prepare", "smollm2-135m-instruct"], ["run"], ["bench", "--only", "decode"]]
)
def test_without_torch_a_command_says_what_needs_it(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(extras, "only_serves", lambda: True)
    for name, value in {"MODEL_DIR": tmp_path, "STATE_DIR": tmp_path, "MODEL__ID": tmp_path, "MQTT__PORT": 1}.items():
        monkeypatch.setenv(f"EDGED_{name}", str(value))
    (tmp_path / "config.json").write_text("{}")
    assert cli.main(command) == ExitCode.MODEL
    told = capsys.readouterr().err
    assert "torch and transformers are needed, and this installation is without them" in told
    assert f"sh deploy/install.sh --venv {sys.prefix}" in told
    assert [each.name for each in tmp_path.glob("*") if "smollm2" in each.name] == []  # nothing was fetched


def test_without_torch_an_extra_is_installed_without_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "only_serves", lambda: True)
    told = extras.how_to_install("metrics")
    assert f"{sys.prefix}/bin/python -m pip install prometheus-client " in told
    assert f"sh deploy/install.sh --serve --venv {sys.prefix} --extras metrics" in told


@pytest.mark.parametrize("serves", [True, False])
def test_without_pip_nothing_is_told_to_be_installed_by_it(monkeypatch: pytest.MonkeyPatch, *, serves: bool) -> None:
    monkeypatch.setattr(extras, "only_serves", lambda: serves)
    monkeypatch.setattr(extras, "_has_pip", lambda: False)
    for told in (extras.how_to_install("demo"), extras.how_to_get_torch()):
        assert "a Debian package or an image" in told
        assert sys.prefix not in told
        assert "-m pip" not in told
    assert ("--serve" in extras.how_to_install("demo")) is serves


def test_variables_of_a_cluster_are_warned_of_beside_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    done = edged("config", "--show", environment={"EDGED_PORT": "tcp://10.0.0.1:9464"})
    assert done.returncode == 0
    assert b"EDGED_PORT" in done.stderr
    tomllib.loads(done.stdout.decode())
