"""Sessions that belong to users, as an attacker sees them: what mallory may send reaches nothing of ada's."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from edged.contract.owners import OwnerRule
from edged.contract.requests import Contract
from edged.contract.topics import ControlRoute, RuleRoute, TaskRoute, Topics
from edged.monitoring.metrics import Metrics
from edged.monitoring.probe import Prober
from edged.ports.link import Delivery, Message
from edged.serving.control import Control
from edged.serving.live_settings import LiveSettings
from edged.serving.worker import Worker
from edged.settings.load import Loaded
from edged.settings.routes import RouteSettings, rules_of
from edged.settings.schema import Settings
from edged.tasks.built_in import BUILT_IN
from edged.tasks.conversation import Turn
from edged.testing import FakeLink, MemoryJournal, ScriptedEngine

ROUTE = RouteSettings.model_validate(
    {"subscribe": "chat/+", "task": "reply", "publish": "answers", "session": "{topic[1]}"}
)
SECRET = "my PIN is 4711"


class Bench:
    """A daemon whose sessions belong to users."""

    def __init__(self, rule: OwnerRule) -> None:
        self.rule = rule
        self.link = FakeLink()
        self.engine = ScriptedEngine()
        self.journal = MemoryJournal()
        self.contract = Contract(
            topics=Topics(prefix="edged", node="box", rules=rules_of({"chat": ROUTE})),
            tasks=BUILT_IN,
            reply_topics=("edged/#",),
            payload_bytes=4096,
            text_chars=1000,
            owners=rule,
        )
        self.worker = Worker(
            contract=self.contract,
            engine=self.engine,
            link=self.link,
            journal=self.journal,
            metrics=Metrics(),
            capacity=10,
            language="en",
            on_control=self.obey,
        )
        self.control = Control(
            contract=self.contract,
            worker=self.worker,
            prober=Prober(self.engine, clock=lambda: 0.0, timeout_s=5.0),
            set_log_level=lambda _: None,
            live=LiveSettings(
                Settings.model_validate({"node": "box"}),
                read=self.read,
                contract_of=lambda _, __: self.contract,
                prepare=self.engine.prepare,
                post=self.worker.call,
            ),
            change_model=lambda _, __: None,
            drain=lambda: None,
            is_late=lambda _: False,
        )
        self.link.on_delivery = self.take

    def read(self, *, options: Mapping[str, Any] | None = None) -> Loaded:
        raise AssertionError(options)

    def obey(self, route: ControlRoute, delivery: Delivery) -> None:
        self.control.handle(route, delivery)

    def take(self, delivery: Delivery) -> None:
        route = self.contract.topics.route(delivery.message.topic)
        assert isinstance(route, TaskRoute | ControlRoute | RuleRoute)
        self.worker.on_delivery(route, delivery)

    def send(self, user: str, topic: str, body: Any = None, **fields: Any) -> dict[str, Any]:
        """Send as the broker lets this user; gives the answer. By topic: {user} stands for the user's name."""
        properties = (("username", user),) if self.rule.kind == "user_property" and user else ()
        fields["user_properties"] = (*fields.get("user_properties", ()), *properties)
        payload = body.encode() if isinstance(body, str) else json.dumps(body or {}).encode()
        self.link.deliver(Message(topic=topic.replace("{user}", user), payload=payload, qos=1, **fields))
        before = len(self.link.published)
        for _ in range(6):
            self.worker.turn(0)
        assert self.worker.state().died is None
        answer: dict[str, Any] = json.loads(self.link.published[-1].payload)
        assert len(self.link.published) > before
        return answer

    def ask(self, user: str, text: str, session: str | None = None, **body: Any) -> dict[str, Any]:
        topic = "edged/box/in/reply/{user}" if self.rule.kind == "topic" else "edged/box/in/reply"
        own = {} if session is None else {"session": session}
        return self.send(user, topic, {"text": text, **own, **body})

    def command(self, user: str, command: str, **body: Any) -> dict[str, Any]:
        last = "{user}" if self.rule.kind == "topic" else "own"
        return self.send(user, f"edged/box/request/{command}/{last}", body)

    def turns(self, conversation: str) -> int:
        return len(self.journal.turns(conversation))


TOPIC, PROPERTY = OwnerRule(kind="topic"), OwnerRule(kind="user_property", name="username")


@pytest.fixture(params=[TOPIC, PROPERTY], ids=["topic", "user property"])
def bench(request: pytest.FixtureRequest) -> Bench:
    bench = Bench(request.param)
    for session in (None, "holiday") if bench.rule.kind == "topic" else ("ada", "holiday"):
        assert bench.ask("ada", SECRET, session, id="ada-1")["status"] == "ok"
    assert bench.turns("ada") == bench.turns("ada/holiday") == 2
    return bench


def test_users_have_their_sessions(bench: Bench) -> None:
    told = bench.command("ada", "session", session="holiday")["data"]["turns"]
    assert told[0] == {"role": "user", "content": SECRET}
    bench.ask("ada", "and now?", "holiday")
    assert bench.engine.submitted[-1].turns[0].content == SECRET
    assert bench.command("ada", "session")["data"]["turns"][0]["content"] == SECRET
    assert bench.command("ada", "forget", session="holiday")["data"] == {"turns": 4}
    assert (bench.turns("ada"), bench.turns("ada/holiday")) == (2, 0)


@pytest.mark.parametrize("session", ["ada", "holiday", "ada/holiday"])
def test_another_cannot_read_continue_or_forget_a_session(bench: Bench, session: str) -> None:
    bench.ask("mallory", "what is the PIN?", session)
    assert not any(SECRET in turn.content for work in bench.engine.submitted for turn in work.turns)
    for body in ({"session": session}, {"session": session, "owner": "ada"}, {"owner": "ada"}):
        for command in ("session", "forget"):
            answer = bench.command("mallory", command, **body)
            assert SECRET not in json.dumps(answer)
            assert answer["status"] == "error" if "owner" in body else "turns" in answer["data"]
    assert bench.turns("ada") == bench.turns("ada/holiday") == 2


def test_another_gets_no_recorded_answer_of_a_session(bench: Bench) -> None:
    done = len(bench.engine.submitted)
    answer = bench.ask("mallory", SECRET, "holiday", id="ada-1")
    assert (answer["status"], len(bench.engine.submitted)) == ("ok", done + 1)
    repeated = bench.ask("ada", SECRET, "holiday", id="ada-1")
    assert (repeated["status"], len(bench.engine.submitted)) == ("ok", done + 1)


def test_another_cannot_cancel_a_request(bench: Bench) -> None:
    bench.engine.auto = False
    topic = "edged/box/in/reply/ada" if bench.rule.kind == "topic" else "edged/box/in/reply"
    named = (("username", "ada"),) if bench.rule.kind == "user_property" else ()
    payload = json.dumps({"text": "long", "id": "job", "session": "holiday"}).encode()
    bench.link.deliver(Message(topic=topic, payload=payload, qos=1, user_properties=named))
    for _ in range(4):
        bench.worker.turn(0)
    assert bench.command("mallory", "cancel", id="job")["data"] == {"cancelled": 0}
    assert bench.command("mallory", "cancel", id="job", owner="ada")["status"] == "error"
    assert bench.worker.state().jobs == 1
    bench.command("ada", "cancel", id="job")
    assert bench.worker.state().jobs == 0


def test_a_route_of_the_settings_has_sessions_of_its_own(bench: Bench) -> None:
    bench.send("mallory", "chat/ada", "what is the PIN?")
    assert not bench.engine.submitted[-1].turns
    bench.send("mallory", "chat/holiday", "what is the PIN?")
    assert not bench.engine.submitted[-1].turns
    assert bench.turns("/chat/ada") == 2
    assert bench.turns("ada") == 2


def test_an_operator_names_the_owner(bench: Bench) -> None:
    told = bench.send("", "edged/box/request/session", {"session": "holiday", "owner": "ada"})
    assert told["data"]["turns"][0]["content"] == SECRET
    assert bench.send("", "edged/box/request/forget", {"owner": "ada"})["data"] == {"turns": 2}


@pytest.mark.parametrize("command", ["drain", "options", "reload", "log_level"])
def test_no_other_command_has_topics_of_users(bench: Bench, command: str) -> None:
    assert bench.command("mallory", command, level="debug")["error"]["code"] == "bad_request"


def test_a_session_without_an_owner_is_refused() -> None:
    by_topic = Bench(TOPIC).send("mallory", "edged/box/in/reply", {"text": "hi", "session": "ada"})
    assert (by_topic["error"]["code"], by_topic["error"]["field"]) == ("bad_request", "session")
    assert Bench(TOPIC).send("mallory", "edged/box/in/reply", {"text": "hi"})["status"] == "ok"
    bench = Bench(PROPERTY)
    assert bench.send("", "edged/box/in/reply/ada", "hi")["error"]["field"] == "session"
    assert bench.send("/chat", "edged/box/in/reply/ada", "hi")["error"]["field"] == "session"
    assert bench.send("", "edged/box/request/session/own", {"session": "ada"})["error"]["field"] == "owner"
    assert bench.send("", "edged/box/in/reply", "hi")["status"] == "ok"


def test_what_a_client_forges_stands_before_what_the_broker_adds() -> None:
    bench = Bench(PROPERTY)
    bench.send("mallory", "edged/box/in/reply", {"text": "x", "session": "s"}, user_properties=(("username", "ada"),))
    assert (bench.turns("mallory/s"), bench.turns("ada/s")) == (2, 0)


def test_a_topic_of_two_levels_is_no_user() -> None:
    bench = Bench(TOPIC)
    assert bench.send("mallory", "edged/box/in/reply/{user}/ada", "hi")["error"]["field"] == "session"
    assert bench.send("mallory", "edged/box/request/session/{user}/ada")["error"]["code"] == "bad_request"


def test_without_owners_a_users_topic_is_no_command() -> None:
    bench = Bench(OwnerRule())
    bench.journal._turns["ada"] = [Turn(role="user", content=SECRET)]
    assert "there is no such command" in bench.send("x", "edged/box/request/session/ada")["error"]["message"]
