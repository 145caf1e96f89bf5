"""`edged check` where something is broken: it says what, and what to do. With real brokers; no model is loaded."""

import importlib.util
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis

from edged.commands import checks
from edged.engine import cores
from edged.engine.decoders import native_library
from edged.errors import ExitCode
from edged.monitoring import system
from edged.settings.schema import Settings
from tests.support import assets
from tests.support.broker import Broker, free_port
from tests.support.daemon import Daemon
from tests.support.hardened import HardenedBroker
from tests.support.peer import Peer
from tests.support.redis_server import RedisServer
from tests.support.waiting import TIMEOUT

Checked = Callable[..., tuple[ExitCode, dict[str, str]]]


@pytest.fixture
def checked(broker: Broker, tmp_path: Path) -> Checked:
    """Check settings that are good but for those given; gives the exit code, and of each check its line."""

    def run(
        *, timeout: float = 1.0, mqtt: dict[str, Any] | None = None, **more: Any
    ) -> tuple[ExitCode, dict[str, str]]:
        settings = {
            "node": "box",
            "state_dir": tmp_path / "state",
            "model_dir": tmp_path / "models",
            "model": {"id": str(assets.small_model())},
            "mqtt": {"host": "127.0.0.1", "port": broker.port, **(mqtt or {})},
            **more,
        }
        lines: list[str] = []
        code = checks.run(Settings.model_validate(settings), timeout=timeout, say=lines.append)
        return code, {line[6:].partition(":")[0]: line for line in lines}

    return run


def test_all_is_well(checked: Checked, broker: Broker, tmp_path: Path) -> None:
    daemon = Daemon(folder=tmp_path, broker=broker, program=("-m", "tests.support.scripted_daemon"))
    daemon.start()
    try:
        daemon.wait_ready()
        code, lines = checked(timeout=TIMEOUT)
    finally:
        daemon.kill()
    assert code is ExitCode.DONE, lines
    assert list(lines) == ["settings", "clock", "disk", "cpu", "model", "broker", "daemon"]
    assert all(line.startswith(("ok", "warn")) for line in lines.values())
    assert not (tmp_path / "models").exists()  # nothing was changed


def test_a_task_that_extracts_wants_what_it_is_done_by(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"type": "object", "properties": {"item": {"type": "string"}}}
    order = {"kind": "extract", "system": "Take the order.", "schema": schema}
    code, lines = checked(tasks={"order": order})
    assert lines["tasks"].startswith("ok"), code
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llguidance" else found(name))
    code, lines = checked(tasks={"order": order})
    assert code is ExitCode.USAGE
    assert "pip install 'edged[extract]'" in lines["tasks"]


# ----------------------------------------------------------------------------------------------------- the broker


def test_a_broker_that_is_not_there(checked: Checked) -> None:
    code, lines = checked(mqtt={"port": free_port()})
    assert code is ExitCode.BROKER
    assert "nothing listens at 127.0.0.1" in lines["broker"]
    assert "daemon" not in lines


def test_a_host_that_has_no_address(checked: Checked) -> None:
    code, lines = checked(mqtt={"host": "no-such-host.invalid"})
    assert code is ExitCode.BROKER
    assert "no-such-host.invalid" in lines["broker"]
    assert lines["broker"].startswith("FAIL")


def test_something_that_is_no_broker(checked: Checked) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, lines = checked(mqtt={"port": silent.getsockname()[1]})
    assert code is ExitCode.BROKER
    assert lines["broker"].startswith("FAIL")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # paho leaves the socket of a failed handshake to Python
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"username": "edged", "password": "guessed"}, "not authorized; check mqtt.username and mqtt.password"),
        ({}, "not authorized; it wants a user name and a password: set mqtt.username"),
        ({"tls": {}}, "or it wants TLS (set mqtt.tls.ca or mqtt.tls.enabled)"),
        ({"tls": {"enabled": True}}, "is not trusted"),
        ({"tls": {"ca": "/nowhere.crt"}}, "/nowhere.crt: No such file"),
        ({"transport": "unix", "host": "/nowhere.sock", "port": None, "tls": {}}, "/nowhere.sock"),
    ],
    ids=["password", "no-password", "no-tls", "authority", "no-file", "socket"],
)
def test_the_hardened_broker_asked_wrongly(
    checked: Checked, hardened: HardenedBroker, wrong: dict[str, Any], words: str
) -> None:
    right = {"port": hardened.tls_port, "tls": {"ca": hardened.ca}}
    code, lines = checked(mqtt=right | wrong, timeout=3.0)
    assert code is ExitCode.BROKER
    assert words in lines["broker"]


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of a failed handshake
def test_a_certificate_of_another_name(
    checked: Checked, hardened: HardenedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *more, **named: resolve("127.0.0.1", *more, **named))
    there = {"host": "other.lan", "port": hardened.tls_port, "tls": {"ca": hardened.ca}}
    code, lines = checked(mqtt=there, timeout=3.0)
    assert code is ExitCode.BROKER
    assert "other.lan" in lines["broker"]
    assert "mismatch" in lines["broker"]


def test_a_user_who_may_not_ask(checked: Checked, hardened: HardenedBroker) -> None:
    login = {"username": "operator", "password": hardened.passwords["operator"]}
    code, lines = checked(mqtt={"port": hardened.tls_port, "tls": {"ca": hardened.ca}, **login}, timeout=5.0)
    assert code is ExitCode.BROKER
    assert "edged/box/in/sentiment" in lines["daemon"]
    assert "access list must let this user publish" in lines["daemon"]


# ------------------------------------------------------------------------------------------------------ the group


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(folder=tmp_path)
    server.start()
    yield server
    server.stop()


def test_a_group_whose_broker_and_journal_are_well(checked: Checked, redis: RedisServer) -> None:
    _, lines = checked(mqtt={"share_group": "team"}, journal={"url": redis.url})
    assert lines["group"] == "ok    group: team, a message by a shared subscription came back"
    assert lines["journal"].startswith("ok    journal: written and read")
    with Redis.from_url(redis.url) as there:
        left = list(there.scan_iter())
        assert len(left) == 1
        assert 0 < there.ttl(left[0]) <= 10


def test_a_group_on_a_broker_of_old_is_warned(checked: Checked) -> None:
    _, lines = checked(mqtt={"share_group": "team", "protocol": "3.1.1"})
    assert lines["group"].startswith("warn")
    assert "MQTT 5" in lines["group"]


def test_a_group_on_a_broker_that_delivers_nothing_by_shared_subscriptions(checked: Checked, amqtt: int) -> None:
    code, lines = checked(mqtt={"port": amqtt, "share_group": "team", "protocol": "3.1.1"}, timeout=3.0)
    assert lines["broker"].startswith("ok")
    assert "delivers nothing by shared subscriptions" in lines["group"]
    assert code is ExitCode.BROKER


def test_a_user_who_may_not_share(checked: Checked, hardened: HardenedBroker) -> None:
    there = {"port": hardened.tls_port, "tls": {"ca": hardened.ca}}
    for user, words in (("edged", "ok    group"), ("operator", "access list forbids edged/box/probe to this user")):
        login = {"username": user, "password": hardened.passwords[user], "share_group": "team"}
        code, lines = checked(mqtt=there | login, timeout=3.0)
        assert words in lines["group"]
        assert code is ExitCode.BROKER


def test_a_journal_that_is_not_there(checked: Checked, redis: RedisServer) -> None:
    redis.stop()
    code, lines = checked(mqtt={"share_group": "team"}, journal={"url": redis.url})
    assert code is ExitCode.USAGE
    assert "does that server run" in lines["journal"]


def test_a_journal_that_may_not_be_written(checked: Checked, redis: RedisServer) -> None:
    with Redis.from_url(redis.url) as there:
        there.execute_command("ACL", "SETUSER", "reader", "on", ">sesame", "~*", "+@read", "+@connection")
    url = redis.url.replace("redis://", "redis://reader:sesame@")
    code, lines = checked(mqtt={"share_group": "team"}, journal={"url": url})
    assert code is ExitCode.USAGE
    assert "edged:{edged/team}:*" in lines["journal"]
    assert "sesame" not in lines["journal"]


# ----------------------------------------------------------------------------------------------------- the daemon


def test_no_daemon_of_that_name(checked: Checked) -> None:
    code, lines = checked()
    assert code is ExitCode.BROKER
    assert "no daemon of this name has ever reported (EDGED_NODE, EDGED_PREFIX)" in lines["daemon"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (b'{"state":"offline"}', "its status says: offline"),
        (b'{"state":"stopped","reasons":["the model is broken"]}', "its status says: stopped (the model is broken)"),
    ],
)
def test_a_daemon_that_is_not_there(checked: Checked, broker: Broker, status: bytes, words: str) -> None:
    with Peer(broker.port) as peer:
        peer.publish("edged/box/status", status, retain=True)
    code, lines = checked()
    assert code is ExitCode.BROKER
    assert words in lines["daemon"]


# --------------------------------------------------------------------------------------------------------- the box


@pytest.mark.parametrize(
    ("model", "words"),
    [("/nowhere/model.gguf", "/nowhere/model.gguf"), ("nobody/no-such-model", "edged models pull")],
)
def test_a_model_that_is_not_there(checked: Checked, model: str, words: str) -> None:
    code, lines = checked(model={"id": model})
    assert code is ExitCode.MODEL
    assert words in lines["model"]


def test_a_model_that_was_cut_off(checked: Checked, tmp_path: Path) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(assets.small_model().read_bytes()[:50_000_000])
    code, lines = checked(model={"id": str(half)})
    assert code is ExitCode.MODEL
    assert lines["model"].startswith("FAIL")


def test_a_folder_that_is_no_model(checked: Checked, tmp_path: Path) -> None:
    code, lines = checked(model={"id": str(tmp_path)})
    assert code is ExitCode.MODEL
    assert "config.json" in lines["model"]


def test_too_little_memory(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(available=100 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    _, lines = checked()
    assert "100 MiB are free" in lines["model"]
    assert lines["model"].startswith("warn")


def test_a_cpu_or_box_without_fast_kernels(checked: Checked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native_library, "INSTALLED", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    _, lines = checked()
    assert lines["cpu"].startswith("warn")
    assert "torch's kernels" in lines["cpu"]


def test_a_governor_that_holds_the_cpu_slow(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "saves_power", lambda: True)
    _, lines = checked()
    assert lines["cpu"].startswith("warn")
    assert "powersave" in lines["cpu"]
    assert f"{cores.choose(cores.read()).threads} threads" in lines["cpu"]


def test_a_limit_of_the_temperature_where_there_is_no_thermometer(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "temperature", lambda: None)
    _, lines = checked(engine={"max_temperature": 70})
    assert lines["cpu"].startswith("warn")
    assert "engine.max_temperature has no effect" in lines["cpu"]


def test_a_disk_that_is_full(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=10 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    code, lines = checked()
    assert code is ExitCode.USAGE
    assert "10 MiB free" in lines["disk"]


def test_a_state_folder_that_is_a_file(checked: Checked, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    code, lines = checked(state_dir=file)
    assert code is ExitCode.USAGE
    assert "is no folder" in lines["disk"]


def test_a_state_folder_of_another_user(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who runs tests in CI, may write anywhere
    code, lines = checked()
    assert code is ExitCode.USAGE
    assert "may not be written by user" in lines["disk"]


def test_a_clock_that_was_never_set(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 86400.0)
    code, lines = checked()
    assert code is ExitCode.USAGE
    assert "1970-01-02" in lines["clock"]
    assert "timedatectl" in lines["clock"]
