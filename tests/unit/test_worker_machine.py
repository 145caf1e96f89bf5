"""The worker against a model broker: whatever breaks, in whatever order, nothing is lost and nothing is doubled.

The broker is in `FakeLink`: it keeps what was not acked and brings it again. A crash takes all but the broker's and the
journal's memory.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edged.contract.requests import Contract
from edged.contract.topics import TaskRoute, Topics
from edged.errors import JournalFault
from edged.journal.buffered import RETRY_S
from edged.monitoring.metrics import Metrics
from edged.ports.journal import Entry, Recorded
from edged.ports.link import Delivery, Message
from edged.serving.languages import LanguageRule
from edged.serving.worker import Worker
from edged.tasks.built_in import BUILT_IN
from edged.testing import FakeLink, MemoryJournal, ScriptedEngine

CONTRACT = Contract(
    topics=Topics(prefix="edged", node="box"),
    tasks=BUILT_IN,
    reply_topics=("edged/#",),
    payload_bytes=4096,
    text_chars=1000,
)


class Disk(MemoryJournal):
    """Is full at times; what it could not write is lost in a crash."""

    is_broken = False

    def open(self) -> None:
        if self.is_broken:
            raise JournalFault("the disk is full")

    def record(self, entries: Sequence[Entry], settled: Iterable[tuple[str, str]] = ()) -> list[Recorded]:
        self.open()
        return super().record(entries, settled)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request; its text is made of its id and its session, so that each request has turns of its own."""

    id: str
    session: str | None

    @property
    def text(self) -> str:
        return f"text {self.id} {self.session}"

    def message(self) -> Message:
        body: dict[str, Any] = {"id": self.id, "text": self.text}
        if self.session is not None:
            body["session"] = self.session
        return Message(topic="edged/box/in/reply", payload=json.dumps(body).encode(), qos=1)


class WorkerMachine(RuleBasedStateMachine):
    """Requests, answers and confirmations in any order, with a broker, a disk and a process that fail."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.link = FakeLink(auto=False, clock=self.clock)
        self.disk = Disk()
        self.asked: dict[int, Asked] = {}  # by delivery
        self.confirmed: Counter[str] = Counter()  # ids
        self.seen = 0
        self.has_lost_writes = False
        self.begin()

    def clock(self) -> float:
        return self.now

    def wall_clock(self) -> float:
        self.now += 1e-3  # no two answers are written at one time: a second inference shows
        return 1_700_000_000.0 + self.now

    def begin(self) -> None:
        self.engine = ScriptedEngine(auto=False, clock=self.clock)
        self.worker = Worker(
            contract=CONTRACT,
            engine=self.engine,
            link=self.link,
            journal=self.disk,
            metrics=Metrics(),
            capacity=100,
            languages=LanguageRule(fixed="en"),
            on_control=lambda _, __: None,
            clock=self.clock,
            wall_clock=self.wall_clock,
        )
        self.link.on_delivery = self.take

    def take(self, delivery: Delivery) -> None:
        route = CONTRACT.topics.route(delivery.message.topic)
        assert isinstance(route, TaskRoute)
        self.worker.on_delivery(route, delivery)

    def turn(self) -> None:
        for _ in range(4):
            self.worker.turn(0)
        assert self.worker.state().died is None
        assert self.link.errors == []

    @property
    def is_connected(self) -> bool:
        return self.link.state().connected_since is not None

    # ------------------------------------------------------------------------------------------------ what happens

    @precondition(lambda self: self.is_connected)
    @rule(request_id=st.sampled_from("abcd"), session=st.sampled_from((None, "s", "t")))
    def ask(self, request_id: str, session: str | None) -> None:
        asked = Asked(request_id, session)
        message = asked.message()
        self.asked[id(message)] = asked
        self.kept = [*getattr(self, "kept", []), message]  # so that no id() is given twice
        self.link.deliver(message)
        self.turn()

    @precondition(lambda self: self.engine._open)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.engine.finish(data.draw(st.sampled_from(sorted(self.engine._open))))
        self.turn()

    @precondition(lambda self: self.link._in_flight)
    @rule()
    def confirm(self) -> None:
        self.confirmed[json.loads(self.link.finish().payload)["id"]] += 1
        self.turn()

    @rule()
    def lose_the_connection(self) -> None:
        if self.is_connected:
            self.link.disconnect()
        self.turn()

    @precondition(lambda self: not self.is_connected)
    @rule()
    def connect(self) -> None:
        self.link.reconnect()
        self.turn()

    @rule()
    def crash(self) -> None:
        if self.is_connected:
            self.link.disconnect()
        self.link._waiting.clear()  # the publications that were in the process
        self.has_lost_writes = self.has_lost_writes or self.disk.is_broken
        self.begin()

    @rule(is_broken=st.booleans())
    def break_or_mend_the_disk(self, is_broken: bool) -> None:
        self.disk.is_broken = is_broken
        self.now += RETRY_S
        self.turn()

    # ------------------------------------------------------------------------------------------- what always holds

    @invariant()
    def what_is_acked_was_confirmed_before(self) -> None:
        acked = {self.of(delivery).id for delivery in self.link.acked}
        assert acked <= set(self.confirmed)

    @invariant()
    def an_id_has_one_answer(self) -> None:
        answers: dict[str, set[bytes]] = {}
        for each in self.link.published:
            body = json.loads(each.payload)
            assert body["status"] == "ok"
            answers.setdefault(f"{body['id']} {body.get('session')}", set()).add(
                json.dumps(body["reply"]).encode() if self.has_lost_writes else each.payload
            )
        assert all(len(each) == 1 for each in answers.values())

    @invariant()
    def no_turn_is_doubled(self) -> None:
        for session in "st":
            turns = Counter(turn.content for turn in self.worker.recorder.turns(session) if turn.role == "user")
            assert not turns or max(turns.values()) == 1

    def teardown(self) -> None:
        """When all is well again, all is answered, acked, and in the history once."""
        self.break_or_mend_the_disk(is_broken=False)
        if not self.is_connected:
            self.connect()
        while self.engine._open or self.link._in_flight:
            while self.engine._open:
                self.engine.finish()
                self.turn()
            while self.link._in_flight:
                self.confirm()
        assert self.worker.state().jobs == 0
        assert len(self.link.acked) == len(self.asked)
        self.an_id_has_one_answer()
        self.no_turn_is_doubled()
        if not self.has_lost_writes:
            said = {turn.content for session in "st" for turn in self.disk.turns(session) if turn.role == "user"}
            assert said == {asked.text for asked in self.asked.values() if asked.session is not None}

    def of(self, delivery: Delivery) -> Asked:
        return self.asked[id(delivery.message)]


TestWorkerMachine = WorkerMachine.TestCase
TestWorkerMachine.settings = settings(deadline=None, stateful_step_count=40)
