"""The daemon as its users meet it: a process, a real broker, the small real model, and clients that are not ours."""

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import Broker
from tests.support.brokers import AnyBroker
from tests.support.daemon import Daemon, Watcher, publish
from tests.support.waiting import eventually

LOVE = "I love this phone"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One daemon for the tests that do it no harm."""
    with tempfile.TemporaryDirectory(prefix="edged-") as root:
        broker = Broker(folder=Path(root))
        broker.start()
        daemon = Daemon(folder=Path(root), broker=broker, more={"EDGED_ENGINE__THREADS": "2"})
        daemon.start()
        try:
            daemon.wait_ready()
            yield daemon
            assert daemon.stop() == 0
        finally:
            daemon.kill()
            broker.stop()


@pytest.fixture
def out(daemon: Daemon) -> Iterator[Watcher]:
    """What the daemon publishes as results and to private addresses, once the subscription stands."""
    watcher = Watcher(daemon.broker, f"{daemon.root}/out/#", "edged/app/#")
    until_subscribed(daemon.broker, watcher)
    yield watcher
    watcher.stop()


def until_subscribed(broker: AnyBroker, watcher: Watcher) -> None:
    """Publish until it is heard: from then on nothing is missed."""
    heard = threading.Event()

    def knock() -> None:
        while not heard.is_set():
            publish(broker, "edged/app/ready", "knock")
            heard.wait(0.2)

    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        watcher.next()
    finally:
        heard.set()
        knocking.join()
    publish(broker, "edged/app/ready", "last")
    while watcher.next().payload != "last":
        pass


def test_a_device_that_knows_only_mqtt_3_and_plain_text(daemon: Daemon, out: Watcher) -> None:
    publish(daemon.broker, f"{daemon.root}/in/message", LOVE, version="311")
    arrival = out.next()
    answer = arrival.json
    assert arrival.topic == f"{daemon.root}/out/message"
    assert answer["status"] == "ok"
    assert (answer["sentiment"]["label"], answer["sentiment"]["emoji"]) == ("positive", "😄")
    assert len(answer["reply"]["text"].split()) > 1
    assert "<|" not in answer["reply"]["text"]
    assert answer["usage"]["completion_tokens"] > 1
    assert answer["timings"]["total_ms"] >= answer["timings"]["first_token_ms"] > 0


def test_a_negative_text_is_negative(daemon: Daemon, out: Watcher) -> None:
    publish(daemon.broker, f"{daemon.root}/in/sentiment", "The food was cold and the waiter was rude.")
    answer = out.next_json()
    assert (answer["sentiment"]["label"], answer["sentiment"]["emoji"]) == ("negative", "😢")
    assert "reply" not in answer
    assert answer["usage"]["completion_tokens"] == 0
    assert answer["usage"]["cached_tokens"] > answer["usage"]["prompt_tokens"] / 2


def test_mqtt_5_request_and_response_with_a_stream(daemon: Daemon, out: Watcher) -> None:
    request = json.dumps({"text": LOVE, "stream": True, "params": {"seed": 5, "max_tokens": 24}})
    publish(
        daemon.broker,
        f"{daemon.root}/in/message",
        request,
        *("-D", "publish", "response-topic", "edged/app/reply"),
        *("-D", "publish", "correlation-data", "job-17"),
    )
    arrivals = [out.next()]
    while arrivals[-1].topic != "edged/app/reply":
        arrivals.append(out.next())
    assert {each.correlation for each in arrivals} == {"job-17"}
    assert {each.topic for each in arrivals[:-1]} == {"edged/app/reply/stream"}
    chunks = [each.json for each in arrivals[:-1]]
    assert [chunk["seq"] for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0]["sentiment"]["label"] == "positive"
    assert len(chunks) >= 2  # a reply comes by sentences; that words come as they are written: test_own_tasks
    result = arrivals[-1].json
    assert result["id"] == "job-17"
    assert "".join(chunk["reply"]["delta"] for chunk in chunks[1:]) == result["reply"]["text"]


def test_a_conversation_goes_on_and_is_read_back(daemon: Daemon, out: Watcher) -> None:
    for text in ("My name is Ada.", "Do you remember me?"):
        publish(daemon.broker, f"{daemon.root}/in/reply/talk", text)
        assert out.next().topic == f"{daemon.root}/out/reply/talk"
    publish(
        daemon.broker,
        f"{daemon.root}/request/session",
        json.dumps({"session": "talk", "transaction": 1}),
        *("-D", "publish", "response-topic", "edged/app/control"),
    )
    answer = out.next_json()
    assert (answer["status"], answer["transaction"]) == ("ok", 1)
    turns = answer["data"]["turns"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    assert turns[2]["content"] == "Do you remember me?"


def test_the_same_id_gets_the_same_answer(daemon: Daemon, out: Watcher) -> None:
    request = json.dumps({"text": "Tell me something.", "id": "once"})
    answers = []
    for _ in range(2):
        publish(daemon.broker, f"{daemon.root}/in/reply", request)
        answers.append(out.next_json())
    assert answers[0] == answers[1]


DEEP = b'{"text":' + b"[" * 30000 + b"]" * 30000 + b"}"
BAD_MESSAGES: list[tuple[str, str, bytes, str]] = [
    ("invalid UTF-8", "message", b"\xff\xfe", "bad_encoding"),
    ("invalid JSON", "message", b'{"text": ', "bad_request"),
    ("unknown key", "message", b'{"text": "a", "txet": "b"}', "bad_request"),
    ("wrong type", "message", b'{"text": 5}', "bad_request"),
    ("empty", "message", b"", "bad_request"),
    ("blank", "message", b"  \n ", "bad_request"),
    ("NUL", "message", b'{"text": "a\\u0000b"}', "bad_request"),
    ("lone surrogate", "message", b'{"text": "\\ud800"}', "bad_request"),
    ("NaN", "message", b'{"text": "a", "params": {"temperature": NaN}}', "bad_request"),
    ("out of range", "message", b'{"text": "a", "params": {"top_p": 7}}', "bad_request"),
    ("deep", "message", DEEP, "bad_request"),
    ("10 MB", "message", b"x" * 10_000_000, "too_large"),
    ("long text", "message", b"x" * 9000, "too_large"),
    ("too many tokens", "message", "ü€ß".encode() * 1300, "too_long"),
    ("unknown task", "mesage", b"hello", "unknown_task"),
    ("deep session", "message/a/b", b"hello", "bad_request"),
    ("huge session", "message/" + "s" * 10_000, b"hello", "bad_request"),
    ("session with wildcard", "message", b'{"text": "a", "session": "a/#"}', "bad_request"),
    ("reply_to outside", "message", b'{"text": "a", "reply_to": "other/topic"}', "forbidden_topic"),
    ("reply_to with wildcard", "message", b'{"text": "a", "reply_to": "edged/app/+"}', "forbidden_topic"),
    ("reply_to of a broker", "message", b'{"text": "a", "reply_to": "$SYS/x"}', "forbidden_topic"),
    ("reply_to that loops", "message", b'{"text": "a", "reply_to": "edged/box/in/message"}', "forbidden_topic"),
]


@pytest.mark.parametrize(
    ("tail", "payload", "code"), [row[1:] for row in BAD_MESSAGES], ids=[row[0] for row in BAD_MESSAGES]
)
def test_bad_input_gets_an_error_and_the_next_message_an_answer(
    daemon: Daemon, out: Watcher, tail: str, payload: bytes, code: str
) -> None:
    publish(daemon.broker, f"{daemon.root}/in/{tail}", payload)
    publish(daemon.broker, f"{daemon.root}/in/sentiment", "good")
    answers = {each.json["status"]: each for each in (out.next(), out.next())}
    assert answers["error"].json["error"]["code"] == code
    assert answers["error"].topic == f"{daemon.root}/out/{tail}"
    assert len(answers["error"].json["error"]["message"]) > 10
    assert answers["ok"].json["sentiment"]["label"] == "positive"


def test_a_forbidden_response_topic_is_answered_at_the_usual_place(daemon: Daemon, out: Watcher) -> None:
    publish(daemon.broker, f"{daemon.root}/in/message", "hi", "-D", "publish", "response-topic", "elsewhere/x")
    arrival = out.next()
    assert arrival.topic == f"{daemon.root}/out/message"
    assert arrival.json["error"]["code"] == "forbidden_topic"


def test_status_info_and_health_are_retained(daemon: Daemon) -> None:
    watcher = Watcher(daemon.broker, *(f"{daemon.root}/{name}" for name in ("status", "info", "health")))
    bodies = {arrival.topic.rpartition("/")[2]: arrival.json for arrival in (watcher.next() for _ in range(3))}
    watcher.stop()
    assert bodies["status"]["state"] == "ready"
    assert set(bodies["info"]["tasks"]) == {"message", "sentiment", "reply"}
    health = bodies["health"]
    assert health["boot_id"] == bodies["status"]["boot_id"]
    assert health["model"]["parameters"] == 134_515_008
    assert health["probe"] is None or health["probe"]["ok"]


def test_ping_decodes_a_token(daemon: Daemon) -> None:
    watcher = Watcher(daemon.broker, f"{daemon.root}/response/ping", "edged/app/ready")
    until_subscribed(daemon.broker, watcher)
    publish(daemon.broker, f"{daemon.root}/request/ping", "")
    answer = watcher.next_json()
    watcher.stop()
    assert answer["status"] == "ok"
    assert answer["data"]["ms"] > 0


def test_two_hundred_messages_take_no_more_memory(daemon: Daemon, out: Watcher) -> None:
    def serve(count: int, begin: int) -> None:
        for i in range(begin, begin + count):
            body = {"text": f"Message number {i}: {LOVE}", "params": {"max_tokens": 8}}
            publish(daemon.broker, f"{daemon.root}/in/message", json.dumps(body))
        for _ in range(count):
            assert out.next_json()["status"] == "ok"

    serve(40, 0)
    before = daemon.rss
    serve(200, 40)
    # What the last of them took has gone back once the engine is at rest.
    eventually(lambda: daemon.rss <= 1.05 * before, "no more memory than before")


def test_users_words_are_not_in_the_log_above_debug(daemon: Daemon, out: Watcher) -> None:
    publish(daemon.broker, f"{daemon.root}/in/message", "the secret of the xylophone")
    assert out.next_json()["status"] == "ok"
    lines: list[dict[str, Any]] = [json.loads(line) for line in daemon.log.splitlines() if line.startswith("{")]
    assert any(line["event"] == "request_answered" for line in lines)
    assert not any("xylophone" in json.dumps(line) for line in lines if line["level"] != "debug")


def test_ask_chat_and_check(daemon: Daemon) -> None:
    asked = daemon.command("ask", LOVE, "--stream")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("sentiment: 😄 positive")
    as_json = daemon.command("ask", LOVE, "--task", "sentiment", "--json")
    assert json.loads(as_json.stdout)["sentiment"]["label"] == "positive"
    assert daemon.command("ask", LOVE, "--task", "nonsense").returncode == 2
    talked = daemon.command("chat", text="I am sad today.\n\n退出\n")
    assert talked.returncode == 0, talked.stderr
    assert talked.stdout.count("sentiment: ") == 1
    checked = daemon.command("check")
    assert checked.returncode == 0, checked.stdout
    assert "FAIL" not in checked.stdout


def test_ask_without_a_daemon_says_so(daemon: Daemon) -> None:
    lonely = Daemon(folder=daemon.folder, broker=daemon.broker, node="nobody").command("ask", "hi", "--timeout", "1")
    assert lonely.returncode == 4
    assert "no daemon of this name" in lonely.stderr


def test_a_wrong_setting_is_refused_by_name(daemon: Daemon) -> None:
    wrong = Daemon(folder=daemon.folder, broker=daemon.broker, more={"EDGED_QUEUE__CAPACITY": "many"}).command("run")
    assert wrong.returncode == 2
    assert "EDGED_QUEUE__CAPACITY = 'many'" in wrong.stderr


def test_a_model_that_is_not_there_is_told_and_ends_the_daemon(daemon: Daemon, tmp_path: Path) -> None:
    missing = Daemon(
        folder=tmp_path,
        broker=daemon.broker,
        node="empty",
        more={"EDGED_MODEL__ID": "qwen3-0.6b", "EDGED_MODEL_DIR": str(tmp_path)},
    )
    ended = missing.command("run")
    assert ended.returncode == 3
    assert "edged models pull qwen3-0.6b" in ended.stderr
    watcher = Watcher(daemon.broker, "edged/empty/status")
    status = watcher.next_json()
    watcher.stop()
    assert status["state"] == "stopped"
    assert "edged models pull qwen3-0.6b" in status["reasons"][0]


def test_a_second_daemon_of_the_same_name_is_refused_and_the_first_goes_on(
    tmp_path: Path, make_broker: Callable[[], Broker]
) -> None:
    broker = make_broker()
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    first, second = (Daemon(folder=folder, broker=broker) for folder in folders)
    try:
        first.start()
        first.wait_ready()
        second.start()
        assert second.wait() == 4
        assert "runs already with this broker" in second.log
        assert "Traceback" not in second.log
        assert first.command("ask", "Hello", "--json", "--task", "sentiment").returncode == 0
        assert first.stop() == 0
    finally:
        first.kill()
        second.kill()


@pytest.mark.parametrize("victim", ["broker", "daemon"])
def test_a_kill_in_the_midst_of_work_loses_no_request(
    victim: str, tmp_path: Path, make_broker: Callable[[], Broker]
) -> None:
    broker = make_broker()
    daemon = Daemon(folder=tmp_path, broker=broker, more={"EDGED_ENGINE__MAX_BATCH": "2"})
    daemon.start()
    try:
        daemon.wait_ready()
        watcher = Watcher(broker, f"{daemon.root}/out/#")
        ids = [f"job-{i}" for i in range(8)]
        for each in ids:
            body = {"text": f"{LOVE} {each}", "id": each, "params": {"max_tokens": 24}}
            publish(broker, f"{daemon.root}/in/message", json.dumps(body))
        watcher.next()  # some are answered, some run, some wait
        watcher.stop()
        if victim == "broker":
            time.sleep(2.5)  # a queue survives what the broker has written down: here once a second
            broker.kill()
            broker.start()
        else:
            daemon.kill()
            daemon.start()
        answered = collect(broker, daemon, ids)
        assert set(answered) == set(ids)
        assert all(len(set(texts)) == 1 for texts in answered.values())
        assert daemon.stop() == 0
    finally:
        daemon.kill()


def collect(broker: Broker, daemon: Daemon, ids: list[str]) -> dict[str, list[str]]:
    """Ask again for every id: what was answered while nobody watched is in the journal."""
    watcher = Watcher(broker, f"{daemon.root}/out/#", "edged/app/ready")
    until_subscribed(broker, watcher)
    answered: dict[str, list[str]] = {}
    for each in ids:
        body = {"text": f"{LOVE} {each}", "id": each, "params": {"max_tokens": 24}}
        publish(broker, f"{daemon.root}/in/message", json.dumps(body))
    while set(answered) != set(ids):
        answer = watcher.next_json()
        assert answer["status"] == "ok"
        answered.setdefault(answer["id"], []).append(answer["reply"]["text"])
    watcher.stop()
    return answered
