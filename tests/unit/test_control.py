import base64
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import pytest

from edged.contract.requests import Contract
from edged.contract.topics import ControlRoute, TaskRoute, Topics
from edged.errors import ModelError
from edged.monitoring.metrics import Metrics
from edged.monitoring.probe import Prober
from edged.ports.journal import Entry
from edged.ports.link import Delivery, Message, Outcome, Sent
from edged.serving.control import Control
from edged.serving.live_settings import LiveSettings
from edged.serving.worker import Worker
from edged.settings.faults import Given
from edged.settings.load import Loaded
from edged.settings.schema import Settings
from edged.tasks.built_in import BUILT_IN
from edged.tasks.conversation import Turn
from edged.testing import FakeLink, MemoryJournal, ScriptedEngine


def settings(**given: Any) -> Settings:
    return Settings.model_validate({"node": "box", "state_dir": "/nonexistent"} | given)


class Bench:
    """A worker and its control, run by hand."""

    def __init__(self) -> None:
        self.link = FakeLink()
        self.engine = ScriptedEngine()
        self.journal = MemoryJournal()
        self.levels: list[str] = []
        self.drains = 0
        self.is_late = False
        contract = Contract(
            topics=Topics(prefix="edged", node="box"),
            tasks=BUILT_IN,
            reply_topics=("edged/#",),
            payload_bytes=4096,
            text_chars=100,
        )
        self.worker = Worker(
            contract=contract,
            engine=self.engine,
            link=self.link,
            journal=self.journal,
            metrics=Metrics(),
            capacity=4,
            language=None,
            on_control=self.obey,
        )
        self.control = Control(
            contract=contract,
            worker=self.worker,
            prober=Prober(self.engine, clock=lambda: 0.0, timeout_s=5.0),
            set_log_level=self.set_level,
            live=LiveSettings(
                settings(),
                read=self.read,
                contract_of=lambda _, __: contract,
                prepare=self.engine.prepare,
                post=self.worker.call,
            ),
            change_model=lambda order, respond: respond({"action": order.action, "id": order.id}),
            drain=self.drain,
            is_late=lambda _: self.is_late,
        )
        self.topics = contract.topics
        self.link.on_delivery = self.take

    def take(self, delivery: Delivery) -> None:
        route = self.topics.route(delivery.message.topic)
        assert isinstance(route, TaskRoute | ControlRoute)
        self.worker.on_delivery(route, delivery)

    def obey(self, route: ControlRoute, delivery: Delivery) -> None:
        self.control.handle(route, delivery)

    def read(self, *, options: Mapping[str, Any] | None = None) -> Loaded:
        given = Given(flags={}, file={}, path=None, variables={}, secrets=())
        return Loaded(settings=settings(**{"log": {"level": "debug"}} | dict(options or {})), given=given)

    def set_level(self, level: str) -> None:
        if level not in {"debug", "info"}:
            raise ValueError("there is no such level")
        self.levels.append(level)

    def drain(self) -> None:
        self.drains += 1

    def send(self, command: str, body: object = None, **fields: Any) -> None:
        payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.link.deliver(Message(topic=f"edged/box/request/{command}", payload=payload, qos=1, **fields))
        self.turn()

    def turn(self) -> None:
        for _ in range(4):
            self.worker.turn(0)
        assert self.worker.state().died is None

    def last(self, topic: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads([p for p in self.link.published if p.topic == topic][-1].payload)
        return body


@pytest.fixture
def bench() -> Bench:
    return Bench()


def talk(bench: Bench, reply: str = "hello") -> None:
    turns = (Turn(role="user", content="hi"), Turn(role="assistant", content=reply))
    entry = Entry(request_id="1", fingerprint="f", packet_id=None, payload=b"{}", session="s", turns=turns, at=0.0)
    bench.journal.record([entry])


def test_ping_decodes_one_token_and_echoes_the_transaction(bench: Bench) -> None:
    bench.send("ping", {"transaction": "t-1"})
    assert bench.last("edged/box/response/ping") == {"status": "ok", "data": {"ms": 0.0}, "transaction": "t-1"}
    (work,) = bench.engine.submitted
    assert work.params.max_tokens == 1


def test_a_ping_that_decodes_nothing_is_an_error(bench: Bench) -> None:
    bench.engine.faults["OK"] = ModelError("broken")
    bench.send("ping")
    assert bench.last("edged/box/response/ping")["error"]["code"] == "model_error"


def test_session_and_forget(bench: Bench) -> None:
    talk(bench)
    bench.send("session", {"session": "s"})
    assert bench.last("edged/box/response/session")["data"]["turns"][1] == {"role": "assistant", "content": "hello"}
    bench.send("forget", {"session": "s"})
    assert bench.last("edged/box/response/forget")["data"] == {"turns": 2}
    bench.send("session", {"session": "s"})
    assert bench.last("edged/box/response/session")["data"] == {"turns": []}
    assert bench.engine.forgotten == ["s"]


def test_cancel_ends_what_runs(bench: Bench) -> None:
    bench.engine.auto = False
    request = json.dumps({"text": "hello", "id": "job"}).encode()
    bench.link.deliver(Message(topic="edged/box/in/reply", payload=request, qos=1))
    bench.turn()
    bench.send("cancel", {"id": "job"})
    assert bench.last("edged/box/response/cancel")["data"] == {"cancelled": 1}
    assert bench.last("edged/box/out/reply")["error"]["code"] == "cancelled"


def test_log_level_and_drain(bench: Bench) -> None:
    bench.send("log_level", {"level": "debug"})
    bench.send("drain")
    assert bench.levels == ["debug"]
    assert bench.drains == 1
    assert bench.last("edged/box/response/drain")["data"] == {"state": "draining"}


@pytest.mark.parametrize(
    ("command", "body"), [("drain", None), ("log_level", {"level": "debug"}), ("cancel", {"id": "1"})]
)
def test_a_command_for_an_earlier_daemon_is_not_obeyed(bench: Bench, command: str, body: object) -> None:
    payload = b"" if body is None else json.dumps(body).encode()
    bench.link.deliver(Message(topic=f"edged/box/request/{command}", payload=payload, qos=1))
    bench.is_late = True
    bench.turn()
    assert bench.last(f"edged/box/response/{command}")["error"]["code"] == "expired"
    bench.is_late = False
    bench.link.auto = False
    bench.send(command, body)
    bench.link.disconnect()
    done = (bench.drains, list(bench.levels))
    bench.link.reconnect()
    bench.turn()
    assert bench.last(f"edged/box/response/{command}")["error"]["code"] == "expired"
    assert (bench.drains, bench.levels) == done


def test_what_is_to_be_forgotten_is_forgotten_however_late(bench: Bench) -> None:
    talk(bench)
    bench.is_late = True
    bench.send("forget", {"session": "s"})
    assert bench.last("edged/box/response/forget")["data"] == {"turns": 2}


def test_a_retained_command_is_not_obeyed(bench: Bench) -> None:
    bench.send("drain", retain=True)
    assert bench.last("edged/box/response/drain")["error"]["code"] == "bad_request"
    assert bench.drains == 0


def test_the_answer_goes_to_the_response_topic(bench: Bench) -> None:
    bench.send("ping", response_topic="edged/app/x", correlation_data=b"c")
    (publication,) = bench.link.published
    assert (publication.topic, publication.correlation_data) == ("edged/app/x", b"c")


@pytest.mark.parametrize(
    ("command", "body", "code"),
    [
        ("explode", None, "bad_request"),
        ("ping/now", None, "bad_request"),
        ("PING", None, "bad_request"),
        ("cancel", None, "bad_request"),
        ("cancel", {"id": 5}, "bad_request"),
        ("forget", {"sesion": "s"}, "bad_request"),
        ("log_level", {"level": "loud"}, "bad_request"),
        ("ping", b"\xff", "bad_encoding"),
        ("ping", b"[1]", "bad_request"),
        ("ping", b" " * 5000, "too_large"),
    ],
)
def test_every_bad_request_is_answered_once_and_settled(bench: Bench, command: str, body: object, code: str) -> None:
    bench.send(command, body)
    assert bench.last(f"edged/box/response/{command}")["error"]["code"] == code
    assert len(bench.link.published) == len(bench.link.acked) == 1


def test_a_response_topic_where_daemons_listen_is_refused(bench: Bench) -> None:
    bench.send("ping", response_topic="edged/box/request/drain")
    assert bench.last("edged/box/response/ping")["error"]["code"] == "forbidden_topic"
    assert bench.drains == 0


def test_an_answer_too_large_for_the_broker_becomes_an_error(bench: Bench) -> None:
    talk(bench, "hello " * 50)
    bench.link.auto = False
    bench.send("session", {"session": "s", "transaction": 7})
    bench.link.finish(Outcome(sent=Sent.TOO_LARGE, reason="the broker takes 100 bytes"))
    bench.turn()
    answer = bench.last("edged/box/response/session")
    assert (answer["error"]["code"], answer["transaction"]) == ("too_large", 7)
    assert bench.link.acked == []
    bench.link.finish()
    bench.turn()
    assert len(bench.link.acked) == 1


@pytest.mark.parametrize(
    ("body", "transaction"),
    [
        ({"transaction": "t", "sesion": "s"}, "t"),
        ({"transaction": "t", "session": 5}, "t"),
        ({"transaction": [1]}, None),
        (b"[1]", None),
        ({"transaction": "t", "session": "s" * 5000}, "t"),
    ],
)
def test_a_refused_command_has_its_transaction(bench: Bench, body: object, transaction: str | None) -> None:
    bench.send("session", body)
    answer = bench.last("edged/box/response/session")
    assert answer["status"] == "error"
    assert answer.get("transaction") == transaction


def test_a_reload_is_answered_with_what_came_of_it(bench: Bench) -> None:
    bench.send("reload")
    assert bench.last("edged/box/response/reload")["data"] == {"changed": ["log.level"], "restart_required": []}


def test_a_backup_is_sent_in_base64(bench: Bench) -> None:
    bench.send("backup", {"transaction": 3})
    while not bench.link.published:  # it is made in a thread of its own
        bench.turn()
    answer = bench.last("edged/box/response/backup")
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(answer["data"]["zip"]))) as archive:
        assert archive.namelist() == ["manifest.json"]
    assert answer["transaction"] == 3


def test_tasks_are_told_with_their_prompts(bench: Bench) -> None:
    bench.send("tasks", {"transaction": 2})
    answer = bench.last("edged/box/response/tasks")
    assert [*answer["data"]["tasks"]] == ["message", "sentiment", "reply"]
    assert answer["data"]["tasks"]["reply"]["definition"]["system"]["en"].startswith("You are a warm")
    assert answer["transaction"] == 2


def test_options_are_an_object(bench: Bench) -> None:
    bench.send("options", {"options": ["limits"], "transaction": 1})
    answer = bench.last("edged/box/response/options")
    assert (answer["error"]["code"], answer["error"]["field"], answer["transaction"]) == ("bad_request", "options", 1)


def test_options_that_cannot_be_kept_are_not_used(bench: Bench) -> None:
    bench.send("options", {"options": {"limits": {"text_chars": 5}}})
    assert (
        "nothing was changed: /nonexistent/options.toml" in bench.last("edged/box/response/options")["error"]["message"]
    )
