"""What may befall a daemon from inside or from its disk: it is told, it is bounded, and the next one is answered."""

import contextlib
import json
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edged.errors import ExitCode
from tests.faults.conftest import MakeDaemon
from tests.support.broker import Broker
from tests.support.peer import Peer
from tests.support.waiting import TIMEOUT, eventually

ROOT = "edged/box"


class Talk:
    """A client of one daemon: sends, and keeps what comes back by topic."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        for name in ("out/#", "response/#", "status"):
            peer.subscribe(f"{ROOT}/{name}")

    def listen(self, tail: str) -> None:
        self._peer.subscribe(f"{ROOT}/{tail}")

    def send(self, tail: str, body: object, *, qos: int = 1) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        self._peer.publish(f"{ROOT}/{tail}", payload, qos=qos)

    def until(self, topic: str, **fields: Any) -> dict[str, Any]:
        """The next message of this topic that has these fields."""
        while True:
            message = self._peer.received.get(timeout=TIMEOUT)
            if message.topic != f"{ROOT}/{topic}":
                continue
            body: dict[str, Any] = json.loads(message.payload)
            if all(body.get(name) == value for name, value in fields.items()):
                return body

    def ask(self, text: str, request_id: str = "probe") -> dict[str, Any]:
        self.send("in/reply", {"id": request_id, "text": text})
        return self.until("out/reply", id=request_id)


@pytest.fixture
def talk(broker: Broker) -> Iterator[Talk]:
    with Peer(broker.port) as peer:
        yield Talk(peer)


def test_a_fault_of_one_request_is_its_own(make_daemon: MakeDaemon, talk: Talk) -> None:
    make_daemon().start()
    talk.until("status", state="ready")
    assert talk.ask("[fail]", "1")["error"]["code"] == "model_error"
    assert talk.ask("hello", "2")["status"] == "ok"


@pytest.mark.parametrize("what", ["exit", "die"])
def test_a_request_that_ends_the_daemon_is_given_up_and_the_others_are_answered(
    make_daemon: MakeDaemon, talk: Talk, what: str
) -> None:
    daemon = make_daemon("--work-ms", "50", EDGED_HEALTH__STALL_AFTER="1")
    daemon.start()
    talk.until("status", state="ready")
    for i in range(5):
        talk.send("in/reply", {"id": f"before-{i}", "text": f"[slow:500] {i}"})
    talk.send("in/reply", {"id": "poison", "text": f"[{what}]"})
    for i in range(5):
        talk.send("in/reply", {"id": f"after-{i}", "text": f"[slow:50] {i}"})
    for _ in range(3):
        assert daemon.wait() == (ExitCode.BUG if what != "exit" else -9)
        daemon.start()
    assert talk.until("out/reply", id="poison")["error"]["code"] == "model_error"
    assert talk.ask("hello")["status"] == "ok"
    for i in range(5):  # those that have their answer get it again
        for name, text in ((f"before-{i}", f"[slow:500] {i}"), (f"after-{i}", f"[slow:50] {i}")):
            assert talk.ask(text, name)["status"] == "ok"
    assert daemon.stop() == 0


def test_why_it_ends_is_its_last_word(make_daemon: MakeDaemon, talk: Talk) -> None:
    daemon = make_daemon(EDGED_HEALTH__STALL_AFTER="1")
    daemon.start()
    talk.until("status", state="ready")
    talk.send("in/reply", {"text": "[hang]"})
    degraded = talk.until("status", state="degraded")
    assert "the engine has not finished a step" in degraded["reasons"][0]
    stopped = talk.until("status", state="stopped")
    assert "the engine has not finished a step" in stopped["reasons"][0]
    assert daemon.wait() == ExitCode.BUG


def test_systemd_is_told_and_its_watchdog_starves_when_the_engine_hangs(
    make_daemon: MakeDaemon, talk: Talk, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(TIMEOUT)
        daemon = make_daemon("--load-s", "2", EDGED_HEALTH__STALL_AFTER="2", NOTIFY_SOCKET=systemd.getsockname())
        daemon.start()
        heard = [systemd.recv(4096).decode()]
        while heard[-1] != "WATCHDOG=1":
            heard.append(systemd.recv(4096).decode())
        assert [each for each in heard if each == "READY=1"] == ["READY=1"]
        assert "EXTEND_TIMEOUT_USEC=30000000" in heard[: heard.index("READY=1")]
        assert "STATUS=ready" in heard[heard.index("READY=1") :]
        talk.send("in/reply", {"text": "[hang]"})
        while not (last := systemd.recv(4096).decode()).startswith("STATUS=degraded: the engine has not"):
            heard.append(last)
        assert daemon.wait() == ExitCode.BUG
        systemd.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                assert systemd.recv(4096) != b"WATCHDOG=1"


# ------------------------------------------------------------------------------------------------------- the disk


def test_a_corrupt_journal_is_told_and_stops_no_answer(make_daemon: MakeDaemon, talk: Talk) -> None:
    daemon = make_daemon()
    state = daemon.folder / "state"
    state.mkdir()
    (state / "journal.db").write_bytes(b"no database" * 1000)
    daemon.start()
    reasons = talk.until("status", state="degraded")["reasons"]
    assert any("a new one is begun" in each for each in reasons)
    talk.until("status", state="ready")
    assert talk.ask("hello", "1") == talk.ask("hello", "1")


def test_a_state_folder_that_cannot_be_is_told_and_heals(make_daemon: MakeDaemon, talk: Talk) -> None:
    daemon = make_daemon()
    state = daemon.folder / "state"
    state.write_text("a file where the folder should be")
    daemon.start()
    talk.until("status", state="degraded")
    first = talk.ask("hello", "1")
    assert first == talk.ask("hello", "1")
    state.unlink()
    talk.until("status", state="ready")
    daemon.kill()
    daemon.start()
    assert talk.ask("hello", "1") == first


def test_a_log_that_cannot_be_written_stops_nothing(make_daemon: MakeDaemon, talk: Talk) -> None:
    daemon = make_daemon()
    daemon.start()
    talk.until("status", state="ready")
    size = (daemon.folder / "daemon.log").stat().st_size
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    talk.send("request/log_level", {"level": "debug"})
    for i in range(20):
        assert talk.ask("hello", str(i))["status"] == "ok"
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    talk.until("status", state="ready")
    assert daemon.stop() == 0


# ---------------------------------------------------------------------------------------------- before it is ready


def test_a_stop_while_the_model_loads_is_at_once_and_loses_nothing(make_daemon: MakeDaemon, talk: Talk) -> None:
    daemon = make_daemon("--load-s", "3", EDGED_SHUTDOWN_TIMEOUT="600")
    daemon.start()
    talk.until("status", state="loading")
    talk.listen("in/reply")
    talk.send("in/reply", {"id": "kept", "text": "hello"})
    talk.send("in/reply", {"id": "told", "text": "hello"}, qos=0)
    talk.until("in/reply", id="told")  # what the broker has brought us it has brought the daemon
    assert daemon.stop() == 0
    assert talk.until("out/reply", id="told")["error"]["code"] == "shutting_down"
    daemon.start()
    assert talk.until("out/reply", id="kept")["status"] == "ok"


def test_a_model_that_cannot_be_loaded_ends_the_daemon_with_its_code(make_daemon: MakeDaemon, talk: Talk) -> None:
    daemon = make_daemon("--load-s", "1", "--broken")
    daemon.start()
    assert daemon.wait() == ExitCode.MODEL
    assert talk.until("status", state="stopped")["reasons"] == ["the model is broken"]


# ------------------------------------------------------------------------------------------------------ the broker


def test_what_is_too_large_is_answered_and_what_is_far_too_large_is_not_even_read(
    make_daemon: MakeDaemon, talk: Talk
) -> None:
    daemon = make_daemon()
    daemon.start()
    talk.until("status", state="ready")
    talk.send("in/reply", b"x" * 100_000)
    assert talk.until("out/reply")["error"]["code"] == "too_large"
    talk.send("in/reply", b"x" * (32 << 20))
    assert talk.ask("hello")["status"] == "ok"
    assert daemon.process.memory_info().rss < 150 << 20


def test_a_result_too_large_for_the_broker_is_an_error(
    make_daemon: MakeDaemon, make_broker: Callable[..., Broker]
) -> None:
    narrow = make_broker(["max_packet_size 3000"])
    make_daemon(port=narrow.port).start()
    with Peer(narrow.port) as peer:
        talk = Talk(peer)
        talk.until("status", state="ready")
        answer = talk.ask("long " * 550, "long")
        assert answer["error"]["code"] == "too_large"
        assert talk.ask("short", "short")["status"] == "ok"


# ---------------------------------------------------------------------------------------------------- late commands


@pytest.mark.parametrize("end", ["in order", "killed"])
def test_a_drain_for_a_daemon_that_is_gone_does_not_end_the_next(make_daemon: MakeDaemon, talk: Talk, end: str) -> None:
    daemon = make_daemon()
    daemon.start()
    talk.until("status", state="ready")
    daemon.kill() if end == "killed" else daemon.stop()
    talk.send("request/drain", None)
    daemon.start()
    if end == "killed":
        assert talk.until("response/drain")["error"]["code"] == "expired"
    assert talk.ask("hello")["status"] == "ok"
    talk.send("request/drain", None)
    assert talk.until("response/drain")["status"] == "ok"
    assert daemon.wait() == 0


def test_the_second_sigterm_ends_it_at_once(make_daemon: MakeDaemon, talk: Talk) -> None:
    daemon = make_daemon()
    daemon.start()
    talk.until("status", state="ready")
    talk.send("in/reply", {"id": "1", "text": "[slow:60000]"})
    eventually(lambda: "request_received" in daemon.log)
    daemon.process.terminate()
    talk.until("status", state="draining")
    daemon.process.terminate()
    assert daemon.wait() == ExitCode.INTERRUPTED
    daemon.start()
    talk.until("status", state="ready")
    talk.send("request/cancel", {"id": "1"})
    assert talk.until("out/reply", id="1")["error"]["code"] == "cancelled"
