"""The worker between a fake link, a scripted engine and a journal in memory: what is answered, recorded and settled."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from edged.contract.requests import Address, Contract, Request
from edged.contract.topics import ControlRoute, RuleRoute, TaskRoute, Topics
from edged.errors import JournalFault, ModelError
from edged.journal.buffered import KEPT, RETRY_S
from edged.monitoring.metrics import Metrics
from edged.ports.engine import Classified, Generated, ModelInfo, WorkEvent
from edged.ports.journal import Entry, Recorded
from edged.ports.link import Delivery, Message, Outcome, Publication, Sent
from edged.serving.job import Job, fingerprint_of
from edged.serving.languages import LanguageRule
from edged.serving.worker import Worker
from edged.settings.routes import RouteSettings, rules_of
from edged.tasks.built_in import BUILT_IN
from edged.tasks.calibration import RunningCalibration
from edged.tasks.conversation import Turn
from edged.tasks.languages.unread import UNREAD
from edged.tasks.reading import Unread
from edged.tasks.specs import ExtractSpec, GenerateSpec, Tasks
from edged.testing import FakeLink, MemoryJournal, ScriptedEngine
from tests.support.journal_contract import entry
from tests.support.waiting import eventually

ROOT = "edged/box"


class BrokenJournal(MemoryJournal):
    """A disk that can be broken and mended, and that remembers what processes left."""

    broken = False
    unreadable = False

    def __init__(self) -> None:
        super().__init__()
        self.started: dict[str, int] = {}
        self.begun: list[str] = []

    def open(self) -> None:
        if self.broken:
            raise JournalFault("the disk is full")

    def record(self, entries: Sequence[Entry], settled: Iterable[tuple[str, str]] = ()) -> list[Recorded]:
        self.open()
        return super().record(entries, settled)

    def turns(self, session: str) -> tuple[Turn, ...]:
        if self.unreadable:
            raise JournalFault("the server is gone")
        return super().turns(session)

    def starts(self, fingerprint: str) -> int:
        return self.started.get(fingerprint, 0)

    def begin(self, fingerprint: str) -> None:
        self.begun.append(fingerprint)


class Bench:
    """A worker with everything around it, run by hand."""

    def __init__(
        self,
        *,
        capacity: int = 4,
        batch: int = 1,
        auto: bool = True,
        journal: MemoryJournal | None = None,
        group: str | None = None,
        shards: tuple[str, ...] = (),
        calibration: RunningCalibration | None = None,
        has_shared_journal: bool = False,
        commit_after_s: float = 0.0,
        tasks: Tasks = BUILT_IN,
        link: FakeLink | None = None,
        routes: dict[str, RouteSettings] | None = None,
        languages: LanguageRule = LanguageRule(),  # noqa: B008 - a frozen record
    ) -> None:
        self.now = 100.0
        self.link = link or FakeLink(clock=self.clock)
        self.engine = ScriptedEngine(auto=auto, clock=self.clock)
        self.journal = journal or MemoryJournal()
        self.metrics = Metrics()
        self.controls: list[Delivery] = []
        self.ids = iter(f"made-{i}" for i in range(1000))
        contract = Contract(
            topics=Topics(prefix="edged", node="box", group=group, shards=shards, rules=rules_of(routes or {})),
            tasks=tasks,
            reply_topics=("edged/#",),
            payload_bytes=40960,
            text_chars=20000,
        )
        self.worker = Worker(
            contract=contract,
            engine=self.engine,
            link=self.link,
            journal=self.journal,
            metrics=self.metrics,
            capacity=capacity,
            batch=batch,
            languages=languages,
            on_control=lambda _, delivery: self.controls.append(delivery),
            calibration=calibration,
            has_shared_journal=has_shared_journal,
            commit_after_s=commit_after_s,
            clock=self.clock,
            wall_clock=lambda: 1_700_000_000.0 + self.now,
            new_id=lambda: next(self.ids),
        )
        self.topics = contract.topics
        self.link.on_delivery = self.take

    def take(self, delivery: Delivery) -> None:
        route = self.topics.route(delivery.message.topic)
        assert isinstance(route, TaskRoute | ControlRoute | RuleRoute)
        self.worker.on_delivery(route, delivery)

    def clock(self) -> float:
        return self.now

    def send(
        self,
        payload: str | bytes | dict[str, Any],
        *,
        tail: str = "message",
        qos: int = 1,
        root: str = ROOT,
        **fields: Any,
    ) -> Delivery:
        raw = json.dumps(payload).encode() if isinstance(payload, dict) else payload
        message = Message(
            topic=f"{root}/in/{tail}", payload=raw.encode() if isinstance(raw, str) else raw, qos=qos, **fields
        )
        delivery = self.link.deliver(message)
        self.turn()
        return delivery

    def turn(self) -> None:
        for _ in range(6):
            self.worker.turn(0)
        assert self.worker.state().died is None
        assert not self.link.errors

    def answers(self, topic: str = f"{ROOT}/out/message") -> list[dict[str, Any]]:
        return [json.loads(each.payload) for each in self.link.published if each.topic == topic]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("group", [None, "another"])
def test_work_of_a_group_that_was_left_is_told_to_go_elsewhere(group: str | None) -> None:
    """The broker brings it by a subscription that it kept for our session."""
    bench = Bench(group=group)
    plain = bench.send("hi", root="edged/team", correlation_data=b"one")
    asked = bench.send({"text": "hi", "id": "two", "reply_to": "edged/asker"}, root="edged/team", tail="reply/s")
    [first], [second] = bench.answers("edged/team/out/message"), bench.answers("edged/asker")
    assert [each["error"]["code"] for each in (first, second)] == ["busy", "busy"]
    assert (first["id"], second["id"], second["session"]) == ("one", "two", "s")
    assert bench.link.acked == [plain, asked]
    assert not bench.engine.submitted


def test_plain_text_gets_sentiment_and_reply_and_is_settled_after_it(bench: Bench) -> None:
    bench.link.auto = False
    delivery = bench.send("hello there")
    (answer,) = bench.answers()
    assert answer["status"] == "ok"
    assert answer["sentiment"]["label"] == "positive"
    assert answer["sentiment"]["emoji"] == "😄"
    assert answer["reply"] == {"text": "You said: hello there", "finish_reason": "stop"}
    assert answer["node"] == "box"
    assert bench.link.acked == []
    bench.link.finish()
    bench.turn()
    assert bench.link.acked == [delivery]


def test_chinese_gets_a_chinese_label(bench: Bench) -> None:
    bench.send("今天心情很好")
    assert bench.answers()[0]["sentiment"]["name"] == "正面"


GERMAN_TEXT = "Mein Zug hatte wieder Verspätung und ich habe die Besprechung verpasst."


def test_a_text_that_the_model_does_not_read_is_marked_and_a_reply_says_so_in_its_language(bench: Bench) -> None:
    bench.engine.reads = ("en",)
    bench.send({"text": GERMAN_TEXT, "session": "s"})
    (answer,) = bench.answers(f"{ROOT}/out/message")
    assert (answer["language"], answer["language_supported"]) == ("de", False)
    assert answer["sentiment"]["name"] == "positive"  # asked in English
    assert answer["reply"] == {"text": UNREAD["de"], "finish_reason": "stop"}
    assert [each.spec.name for each in bench.engine.submitted] == ["sentiment"]
    bench.send("My train was late again and I missed the meeting.")
    answer = bench.answers()[-1]
    assert answer["language"] == "en"
    assert "language_supported" not in answer
    assert answer["reply"]["text"].startswith("You said")


def test_what_is_said_instead_of_a_reply_is_streamed_behind_the_sentiment(bench: Bench) -> None:
    bench.engine.reads = ("en",)
    bench.send({"text": GERMAN_TEXT, "stream": True})
    chunks = bench.answers(f"{ROOT}/out/message/stream")
    assert [each.get("reply", {}).get("delta") for each in chunks] == [None, UNREAD["de"]]
    assert chunks[0]["sentiment"]
    assert bench.answers()[0]["reply"]["text"] == UNREAD["de"]


def test_a_language_that_the_model_reads_has_prompts_of_its_own(bench: Bench) -> None:
    bench.engine.reads = ("de", "en")
    bench.send(GERMAN_TEXT)
    (answer,) = bench.answers()
    assert (answer["language"], answer["sentiment"]["name"]) == ("de", "positiv")
    assert "language_supported" not in answer
    assert {each.language for each in bench.engine.submitted} == {"de"}


def test_nothing_is_marked_where_it_is_not_known_what_the_model_reads(bench: Bench) -> None:
    bench.send(GERMAN_TEXT)
    (answer,) = bench.answers()
    assert answer["language"] == "de"
    assert "language_supported" not in answer
    assert {each.language for each in bench.engine.submitted} == {"en"}


@pytest.mark.parametrize(
    ("unread", "reply", "marked"),
    [("mark", f"You said: {GERMAN_TEXT}", False), ("ignore", f"You said: {GERMAN_TEXT}", None)],
)
def test_the_settings_say_what_happens_to_such_a_text(unread: Unread, reply: str, marked: bool | None) -> None:
    bench = Bench(languages=LanguageRule(unread=unread))
    bench.engine.reads = ("en",)
    bench.send(GERMAN_TEXT)
    (answer,) = bench.answers()
    assert answer["reply"]["text"] == reply
    assert answer.get("language_supported") is marked


def test_a_text_that_comes_while_the_model_loads_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(auto=False)

    def loading(_: ScriptedEngine) -> ModelInfo:
        raise ModelError("the model is not loaded yet")

    with monkeypatch.context() as patched:
        patched.setattr(ScriptedEngine, "model", property(loading))
        bench.send(GERMAN_TEXT)
    bench.engine.finish()
    bench.engine.finish()
    bench.turn()
    (answer,) = bench.answers()
    assert (answer["status"], answer["language"]) == ("ok", "de")


def test_such_a_text_may_be_refused() -> None:
    bench = Bench(languages=LanguageRule(unread="error"))
    bench.engine.reads = ("en", "zh")
    delivery = bench.send(GERMAN_TEXT)
    (answer,) = bench.answers()
    assert (answer["error"]["code"], answer["error"]["field"]) == ("unread_language", "text")
    assert "de; it reads en, zh" in answer["error"]["message"]
    assert bench.link.acked == [delivery]
    assert not bench.engine.submitted


def test_the_answer_goes_to_the_response_topic_with_its_correlation(bench: Bench) -> None:
    bench.send("hi", response_topic="edged/app/replies", correlation_data=b"\x01\xff")
    (publication,) = bench.link.published
    assert publication.topic == "edged/app/replies"
    assert publication.correlation_data == b"\x01\xff"


def test_an_error_goes_where_the_result_would_have_gone_and_the_next_is_answered(bench: Bench) -> None:
    bad = bench.send(b"\xff", response_topic="edged/app/replies")
    good = bench.send("fine")
    assert bench.answers("edged/app/replies")[0]["error"]["code"] == "bad_encoding"
    assert bench.answers()[0]["status"] == "ok"
    assert bench.link.acked == [bad, good]


def test_qos_0_is_answered_at_qos_0(bench: Bench) -> None:
    bench.send("hi", qos=0)
    assert [each.qos for each in bench.link.published] == [0]


def test_a_stream_starts_with_the_sentiment(bench: Bench) -> None:
    bench.engine.auto = False
    bench.send({"text": "one two", "stream": True})
    sentiment, reply = bench.engine.submitted
    bench.engine.finish(reply.key)
    bench.turn()
    assert bench.answers(f"{ROOT}/out/message/stream") == []
    bench.engine.finish(sentiment.key)
    bench.turn()
    chunks = bench.answers(f"{ROOT}/out/message/stream")
    assert [chunk["seq"] for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0]["sentiment"]["label"] == "positive"
    text = "".join(chunk["reply"]["delta"] for chunk in chunks[1:])
    assert text == bench.answers()[0]["reply"]["text"] == "You said: one two"


def test_a_repeated_id_gets_the_recorded_answer_without_a_second_inference(bench: Bench) -> None:
    request = {"text": "hello", "id": "a-1", "session": "s"}
    bench.send(request)
    bench.send(request)
    first, second = bench.answers()
    assert first == second
    assert len(bench.engine.submitted) == 2  # sentiment and reply, once
    assert len(bench.journal.turns("s")) == 2


def test_the_log_says_of_each_request_what_became_of_it(bench: Bench) -> None:
    with capture_logs() as logged:
        bench.send({"text": "hello", "id": "a-1"}, tail="sentiment")
        bench.send({"text": "hello", "id": "a-1"}, tail="sentiment")
        bench.engine.faults["boom"] = ModelError("it broke")
        bench.send({"text": "boom", "id": "a-2"}, tail="reply")
    told = [(each["event"], each["request_id"], each["task"], each.get("outcome", each.get("code"))) for each in logged]
    assert [each for each in told if each[0] != "request_received"] == [
        ("request_answered", "a-1", "sentiment", "ok"),
        ("request_answered", "a-1", "sentiment", "repeated"),
        ("request_failed", "a-2", "reply", "model_error"),
    ]
    assert not any("boom" in str(value) for each in logged for value in each.values())


def test_the_same_id_with_another_text_is_another_request(bench: Bench) -> None:
    bench.send({"text": "one", "id": "1"})
    bench.send({"text": "two", "id": "1"})
    assert [answer["reply"]["text"] for answer in bench.answers()] == ["You said: one", "You said: two"]


def test_a_redelivery_joins_the_job_in_hand(bench: Bench) -> None:
    bench.engine.auto = False
    bench.send("hello", tail="reply")
    bench.link.disconnect()
    bench.link.reconnect()
    bench.turn()
    assert len(bench.engine.submitted) == 1
    bench.engine.finish()
    bench.turn()
    assert len(bench.answers(f"{ROOT}/out/reply")) == 1
    assert [each.redelivered for each in bench.link.acked] == [True]


def test_a_delivery_that_was_answered_before_a_crash_is_answered_the_same(bench: Bench) -> None:
    bench.link.auto = False  # the answer leaves, its PUBACK never comes
    bench.send("hello", tail="reply/s")
    before = bench.answers(f"{ROOT}/out/reply/s")[0]

    after = Bench(journal=bench.journal, link=bench.link)
    after.link.auto = True
    bench.link.disconnect()
    bench.link.reconnect()
    after.turn()
    assert after.engine.submitted == []
    assert bench.answers(f"{ROOT}/out/reply/s")[-1] == before
    assert len(after.journal.turns("s")) == 2
    assert len(bench.link.acked) == 1


def test_what_comes_again_under_another_packet_id_is_answered_once(bench: Bench) -> None:
    """RabbitMQ numbers what it sends again anew."""
    bench.link.keeps_packet_ids = False
    bench.send("before", tail="reply/s")
    bench.turn()
    bench.link.auto = False  # the answers leave, their PUBACKs never come
    for text in ("same", "same", "other"):
        bench.send(text, tail="reply/s")
    before = bench.answers(f"{ROOT}/out/reply/s")

    after = Bench(journal=bench.journal, link=bench.link)
    after.link.auto = True
    bench.link.disconnect()
    bench.link.reconnect()
    after.turn()
    assert after.engine.submitted == []
    again = bench.answers(f"{ROOT}/out/reply/s")[len(before) :]
    # The link sends what was never confirmed, and the new process answers what comes again: each of the three twice.
    assert sorted(each["id"] for each in again) == sorted(2 * [each["id"] for each in before[1:]])
    assert len(after.journal.turns("s")) == 8
    assert len(bench.link.acked) == 4


def test_a_job_in_hand_is_joined_by_its_delivery_under_another_packet_id(bench: Bench) -> None:
    bench.link.keeps_packet_ids = False
    bench.send("before", tail="reply")
    bench.turn()
    bench.engine.auto = False
    for _ in range(2):
        bench.send("same", tail="reply")
    bench.link.disconnect()
    bench.link.reconnect()
    bench.turn()
    assert len(bench.engine.submitted) == 3
    for _ in range(2):
        bench.engine.finish()
        bench.turn()
    assert len(bench.answers(f"{ROOT}/out/reply")) == 3
    assert len(bench.link.acked) == 3


def test_turns_of_a_session_wait_for_each_other(bench: Bench) -> None:
    bench.engine.auto = False
    bench.send("first", tail="reply/s")
    bench.send("second", tail="reply/s")
    assert [work.text for work in bench.engine.submitted] == ["first"]
    bench.engine.finish()
    bench.turn()
    assert bench.engine.submitted[1].turns == (
        Turn(role="user", content="first"),
        Turn(role="assistant", content="You said: first"),
    )


def test_history_of_the_callers_own_is_used_and_nothing_is_stored(bench: Bench) -> None:
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    bench.send({"text": "c", "session": "s", "history": history}, tail="reply")
    assert [turn.content for turn in bench.engine.submitted[0].turns] == ["a", "b"]
    assert bench.journal.turns("s") == ()


TEAM = "edged/team"


def test_work_of_the_group_is_answered_below_the_group_and_names_the_node() -> None:
    bench = Bench(group="team")
    bench.send("hello", root=TEAM)
    [answer] = bench.answers(f"{TEAM}/out/message")
    assert answer["node"] == "box"
    assert bench.metrics.snapshot(1.0).requests.shared == 1
    bench.send("hello")
    assert len(bench.answers()) == 1
    assert bench.metrics.snapshot(1.0).requests.shared == 1


def test_a_shard_is_a_level_before_the_task() -> None:
    bench = Bench(group="team", shards=("0", "1"))
    bench.send("hello", root=TEAM, tail="1/reply/s")
    [answer] = bench.answers(f"{TEAM}/out/1/reply/s")
    assert (answer["task"], answer["session"]) == ("reply", "s")


@pytest.mark.parametrize(
    ("root", "turn", "missing"),
    [(TEAM, None, True), (TEAM, 1, False), (TEAM, 2, True), (ROOT, None, False), (ROOT, 1, False), (ROOT, 3, True)],
)
def test_a_box_says_when_it_was_not_there_for_the_turns_before(root: str, turn: int | None, missing: bool) -> None:
    bench = Bench(group="team")
    body: dict[str, Any] = {"text": "and then?"} | ({} if turn is None else {"turn": turn})
    bench.send(body, root=root, tail="reply/s")
    [answer] = bench.answers(f"{root}/out/reply/s")
    assert answer.get("history") == ("missing" if missing else None)


def test_a_box_that_was_there_says_nothing_and_one_that_missed_a_turn_does() -> None:
    bench = Bench(group="team")
    bench.send({"text": "one", "turn": 1}, root=TEAM, tail="reply/s")
    bench.send({"text": "two", "turn": 2}, root=TEAM, tail="reply/s")
    bench.send("three", root=TEAM, tail="reply/s")
    bench.send({"text": "five", "turn": 5}, root=TEAM, tail="reply/s")
    told = [answer.get("history") for answer in bench.answers(f"{TEAM}/out/reply/s")]
    assert told == [None, None, None, "missing"]


def test_history_of_the_callers_own_lacks_nothing() -> None:
    bench = Bench(group="team")
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    bench.send({"text": "and?", "history": history, "turn": 2}, root=TEAM, tail="reply/s")
    assert "history" not in bench.answers(f"{TEAM}/out/reply/s")[0]


@pytest.mark.parametrize(
    ("root", "attempt", "has_shared_journal", "told"),
    [(TEAM, 1, False, None), (TEAM, 2, False, "possible"), (TEAM, 2, True, None), (ROOT, 2, False, None)],
)
def test_what_another_box_may_have_answered_is_told(
    root: str, attempt: int, has_shared_journal: bool, told: str | None
) -> None:
    bench = Bench(group="team", has_shared_journal=has_shared_journal)
    bench.send({"text": "hi", "id": "1", "attempt": attempt}, root=root)
    assert bench.answers(f"{root}/out/message")[0].get("duplicate") == told


def test_while_the_shared_journal_is_at_fault_it_keeps_nobody_from_answering_twice() -> None:
    journal = BrokenJournal()
    bench = Bench(group="team", has_shared_journal=True, journal=journal)
    journal.broken = True
    bench.send("its fault is known now", root=TEAM, tail="reply")
    bench.send({"text": "hi", "id": "1", "attempt": 2}, root=TEAM)
    assert bench.answers(f"{TEAM}/out/message")[0]["duplicate"] == "possible"


@pytest.mark.parametrize("turn", [None, 2])
def test_a_conversation_that_cannot_be_read_whole_is_told(turn: int | None) -> None:
    journal = BrokenJournal()
    bench = Bench(group="team", has_shared_journal=True, journal=journal)
    journal.broken = journal.unreadable = True
    numbered = {} if turn is None else {"turn": turn}
    for _ in range(2):  # of the second, the first is known, and what may have been before is not
        bench.send({"text": "hi", **numbered}, root=TEAM, tail="reply/s")
    assert [each["history"] for each in bench.answers(f"{TEAM}/out/reply/s")] == ["missing", "missing"]


def answer_after(bench: Bench, seconds: float, *keys: str) -> None:
    """Let these pieces of work end together, so much later."""
    bench.now += seconds
    for key in keys:
        bench.engine.finish(key)
    bench.turn()


def test_speed_is_measured_while_there_is_work_and_not_while_there_is_none() -> None:
    bench = Bench(auto=False, capacity=16)
    for _ in range(2):
        bench.send("hi", tail="reply")
    answer_after(bench, 0.5, "1/reply")
    answer_after(bench, 0.5, "2/reply")
    assert bench.worker.state().service_s == pytest.approx(0.5)
    bench.now += 3600.0
    for _ in range(2):
        bench.send("hi", tail="reply")
    answer_after(bench, 0.5, "3/reply")
    answer_after(bench, 0.5, "4/reply")
    assert bench.worker.state().service_s == pytest.approx(0.5)


def test_a_box_with_little_to_do_is_not_taken_for_a_slow_one() -> None:
    busy, idle = (Bench(auto=False, capacity=16, batch=4) for _ in range(2))
    for _ in range(8):
        busy.send("hi", tail="reply")
    answer_after(busy, 1.0, *(f"{number}/reply" for number in range(1, 5)))
    for number in range(1, 4):
        idle.now += 60.0
        idle.send("hi", tail="reply")
        answer_after(idle, 1.0, f"{number}/reply")
    assert busy.worker.state().service_s == idle.worker.state().service_s == pytest.approx(0.25)


def test_answers_that_come_together_share_the_time() -> None:
    bench = Bench(auto=False, capacity=16)
    for _ in range(6):
        bench.send("hi", tail="reply")
    answer_after(bench, 1.0, "1/reply")
    answer_after(bench, 1.0, "2/reply", "3/reply", "4/reply", "5/reply")
    assert bench.worker.state().service_s == pytest.approx(0.9**4 * 1.0 + (1 - 0.9**4) * 0.25)


def test_where_another_box_was_first_its_answer_is_given() -> None:
    bench = Bench(auto=False, group="team", has_shared_journal=True)
    bench.send({"text": "hi", "id": "1"}, root=TEAM, tail="reply")
    [job] = jobs(bench)
    theirs = b'{"node":"other"}'
    bench.journal.record(
        [
            Entry(
                request_id="1",
                fingerprint=job.fingerprint,
                packet_id=None,
                payload=theirs,
                session=None,
                turns=(),
                at=0.0,
            )
        ]
    )
    bench.engine.finish(bench.engine.submitted[0].key)
    bench.turn()
    assert bench.answers(f"{TEAM}/out/reply") == [{"node": "other"}]


def test_a_running_calibration_learns_of_what_was_answered_before_and_of_nothing_twice() -> None:
    bench = Bench(calibration=RunningCalibration())
    scores = []
    for name in ("1", "2", "3", "2"):
        bench.send({"text": "hello", "id": name}, tail="sentiment")
        scores.append(bench.answers(f"{ROOT}/out/sentiment")[-1]["sentiment"]["scores"]["positive"])
    assert scores[0] > scores[1] > scores[2]
    assert scores[3] == scores[1]
    assert len(bench.journal.observations()) == 3


def test_a_running_calibration_goes_on_where_the_process_before_ended() -> None:
    before = Bench(calibration=RunningCalibration())
    for number in range(3):
        before.send({"text": "hello", "id": str(number)}, tail="sentiment")
    after = Bench(calibration=RunningCalibration(), journal=before.journal)
    after.worker.start()
    try:
        topic, again = f"{ROOT}/out/sentiment", {"text": "hello", "id": "next"}
        before.send(again, tail="sentiment")
        after.link.deliver(Message(topic=f"{ROOT}/in/sentiment", payload=json.dumps(again).encode(), qos=1))
        eventually(lambda: after.answers(topic), "an answer")
        assert after.answers(topic)[-1]["sentiment"] == before.answers(topic)[-1]["sentiment"]
    finally:
        after.worker.stop()


def test_a_stream_and_its_result_have_the_same_calibration() -> None:
    bench = Bench(calibration=RunningCalibration())
    bench.send({"text": "hello", "id": "1"})
    bench.send({"text": "hello", "id": "2", "stream": True})
    [chunk, *_] = bench.answers(f"{ROOT}/out/message/stream")
    assert chunk["sentiment"] == bench.answers()[-1]["sentiment"]


def test_a_full_house_is_busy_for_qos_0_and_keeps_qos_1(bench: Bench) -> None:
    bench.engine.auto = False
    for i in range(4):
        bench.send(f"text {i}", tail="sentiment")
    bench.send("too much", tail="sentiment", qos=0)
    error = bench.answers(f"{ROOT}/out/sentiment")[0]["error"]
    assert error["code"] == "busy"
    assert error["retry_after_ms"] >= 100
    bench.send("waits", tail="sentiment")
    for _ in range(5):
        bench.engine.finish()
        bench.turn()
    assert len(bench.link.acked) == 5


def test_a_message_that_expired_on_the_way_is_not_worked_on(bench: Bench) -> None:
    bench.send("late", expiry_s=0)
    assert bench.answers()[0]["error"]["code"] == "expired"
    assert bench.engine.submitted == []


def test_a_deadline_passes_while_the_session_is_busy(bench: Bench) -> None:
    bench.engine.auto = False
    bench.send("first", tail="reply/s")
    bench.send({"text": "second", "deadline_ms": 500}, tail="reply/s")
    bench.now += 1.0
    bench.turn()
    assert bench.answers(f"{ROOT}/out/reply/s")[0]["error"]["code"] == "expired"


def test_a_part_that_fails_fails_the_request_and_stops_the_other(bench: Bench) -> None:
    bench.engine.auto = False
    bench.send("boom")
    bench.engine.faults["boom"] = ModelError("it broke")
    bench.engine.finish()
    bench.turn()
    assert [answer["error"]["code"] for answer in bench.answers()] == ["model_error"]
    assert bench.engine.state().running == 0
    assert len(bench.link.acked) == 1


def test_a_cancelled_request_is_answered_once(bench: Bench) -> None:
    bench.engine.auto = False
    bench.send({"text": "hello", "id": "x"})
    counts: list[int] = []
    bench.worker.call(lambda: counts.append(bench.worker.cancel("x")))
    bench.turn()
    assert counts == [1]
    assert [answer["error"]["code"] for answer in bench.answers()] == ["cancelled"]


def test_a_broken_journal_stops_no_answer_and_loses_no_turn() -> None:
    journal = BrokenJournal()
    bench = Bench(journal=journal)
    journal.broken = True
    bench.send("one", tail="reply/s")
    assert bench.answers(f"{ROOT}/out/reply/s")[0]["status"] == "ok"
    assert bench.worker.state().journal_fault == "the disk is full"
    bench.send("two", tail="reply/s")
    assert [turn.content for turn in bench.engine.submitted[1].turns] == ["one", "You said: one"]
    journal.broken = False
    bench.now += RETRY_S
    bench.send("three", tail="reply/s")
    assert bench.worker.state().journal_fault is None
    assert [turn.content for turn in journal.turns("s")][::2] == ["one", "two", "three"]


def test_the_more_a_broken_journal_could_not_keep_the_sooner_it_is_tried_again() -> None:
    journal = BrokenJournal()
    bench = Bench(journal=journal)
    recorder = bench.worker.recorder
    journal.broken = True
    recorder.commit([entry(str(number)) for number in range(KEPT // 2)], ())
    journal.broken = False
    bench.now += RETRY_S / 10
    recorder.commit([entry("the last")], ())
    assert recorder.fault is None
    assert journal.find("0", "f") is not None
    assert journal.find("the last", "f") is not None


def test_what_a_broken_journal_could_not_keep_is_known_all_the_same() -> None:
    journal = BrokenJournal()
    bench = Bench(journal=journal)
    journal.broken = True
    bench.send({"text": "one", "id": "1"}, tail="reply/s")
    bench.send({"text": "one", "id": "1"}, tail="reply/s")
    bench.link.auto = False
    bench.send("no id of its own", tail="reply")
    bench.link.disconnect()
    bench.turn()
    bench.link.reconnect()
    bench.turn()
    assert len(bench.engine.submitted) == 2
    first, second = bench.answers(f"{ROOT}/out/reply/s")
    assert first == second


def test_a_journal_that_is_well_again_is_found_out_without_a_request() -> None:
    journal = BrokenJournal()
    bench = Bench(journal=journal)
    journal.broken = True
    bench.worker.recorder.open()
    assert bench.worker.state().journal_fault == "the disk is full"
    journal.broken = False
    bench.now += RETRY_S
    bench.turn()
    assert bench.worker.state().journal_fault is None


def test_a_request_over_which_processes_ended_is_tried_alone_and_then_given_up() -> None:
    journal = BrokenJournal()
    bench = Bench(journal=journal, auto=False)
    texts = ("new", "once", "once too", "twice")
    for text in texts:
        bench.send(text, tail="reply")
    # The process ends and the next one gets them again.
    again = Bench(journal=journal, auto=False, link=bench.link)
    by_text = {
        work.text: fingerprint_of(job.request) for work, job in zip(bench.engine.submitted, jobs(bench), strict=True)
    }
    journal.started = {by_text["once"]: 1, by_text["once too"]: 1, by_text["twice"]: 2}
    bench.link.disconnect()
    bench.link.reconnect()
    again.turn()
    assert [work.text for work in again.engine.submitted] == ["new", "once"]
    assert journal.begun == [by_text["new"], by_text["once"]]
    (answer,) = bench.answers(f"{ROOT}/out/reply")
    assert answer["error"]["code"] == "model_error"
    assert "3 processes" in answer["error"]["message"]
    again.engine.finish("2/reply")
    again.turn()
    assert [work.text for work in again.engine.submitted] == ["new", "once", "once too"]
    again.engine.finish("1/reply")
    again.engine.finish("3/reply")
    again.turn()
    assert len(bench.link.acked) == 4


def jobs(bench: Bench) -> list[Job]:
    return list(bench.worker._in_hand)


def test_an_answer_that_the_link_had_no_room_for_is_offered_again(bench: Bench) -> None:
    bench.link.auto = False
    bench.send("hello")
    bench.link.finish(Outcome(sent=Sent.DROPPED, reason="1000 publications wait already"))
    bench.turn()
    assert len(bench.answers()) == 1
    bench.now += 1.0
    bench.turn()
    first, second = bench.answers()
    assert first == second
    bench.link.finish()
    bench.turn()
    assert len(bench.link.acked) == 1


def test_a_result_too_large_for_the_broker_becomes_an_error(bench: Bench) -> None:
    bench.link.auto = False
    bench.send("hello")
    bench.link.finish(Outcome(sent=Sent.TOO_LARGE, reason="the broker takes 100 bytes"))
    bench.turn()
    assert bench.answers()[-1]["error"]["code"] == "too_large"
    bench.link.finish()
    bench.turn()
    assert len(bench.link.acked) == 1


def test_each_place_for_which_a_result_is_too_large_gets_the_error(bench: Bench) -> None:
    bench.link.auto = False
    bench.engine.auto = False
    for place in ("edged/a", "edged/b"):
        bench.send({"text": "hello", "id": "1", "reply_to": place}, tail="reply")
    bench.engine.finish()
    bench.turn()
    for _ in range(2):
        bench.link.finish(Outcome(sent=Sent.TOO_LARGE, reason="the broker takes 100 bytes"))
        bench.turn()
    for place in ("edged/a", "edged/b"):
        assert bench.answers(place)[-1]["error"]["code"] == "too_large"
    bench.link.finish()
    bench.link.finish()
    bench.turn()
    assert len(bench.link.acked) == 2


def test_an_error_that_the_link_had_no_room_for_is_offered_again(bench: Bench) -> None:
    bench.link.auto = False
    bench.send({"text": ""})
    bench.link.finish(Outcome(sent=Sent.DROPPED, reason="1000 publications wait already"))
    bench.turn()
    bench.now += 1.0
    bench.turn()
    assert bench.link.acked == []
    bench.link.finish()
    bench.turn()
    assert len(bench.link.acked) == 1


def test_the_end_waits_until_errors_have_arrived_too(bench: Bench) -> None:
    bench.link.auto = False
    bench.send({"text": ""})
    bench.worker.drain()
    bench.turn()
    assert not bench.worker.wait_idle(0)
    bench.link.finish()
    bench.turn()
    assert bench.worker.wait_idle(0)


def test_a_refused_answer_is_settled_all_the_same(bench: Bench) -> None:
    bench.link.auto = False
    bench.send("hello")
    bench.link.finish(Outcome(sent=Sent.REFUSED, reason="not authorised"))
    bench.turn()
    assert len(bench.link.acked) == 1
    assert bench.worker.state().jobs == 0


def test_drain_finishes_what_runs_and_leaves_the_rest_to_the_broker(bench: Bench) -> None:
    bench.engine.auto = False
    bench.send("running", tail="reply")
    bench.worker.drain()
    bench.turn()
    bench.send("new at qos 1", tail="reply")
    bench.send("new at qos 0", tail="reply", qos=0)
    assert not bench.worker.wait_idle(0)
    bench.engine.finish()
    bench.turn()
    assert bench.worker.wait_idle(0)
    codes = [answer.get("error", {}).get("code") for answer in bench.answers(f"{ROOT}/out/reply")]
    assert codes == ["shutting_down", None]
    assert [each.message.payload for each in bench.link.acked] == [b"running"]


def test_what_is_abandoned_stays_unacked(bench: Bench) -> None:
    bench.engine.auto = False
    bench.send("qos 1", tail="reply")
    bench.send("qos 0", tail="reply", qos=0)
    bench.worker.drain()
    bench.worker.abandon()
    bench.turn()
    assert bench.worker.wait_idle(0)
    assert bench.link.acked == []
    assert [answer["error"]["code"] for answer in bench.answers(f"{ROOT}/out/reply")] == ["shutting_down"]


def test_control_messages_go_to_control(bench: Bench) -> None:
    bench.link.deliver(Message(topic=f"{ROOT}/request/ping", payload=b"", qos=1))
    bench.turn()
    assert [each.message.topic for each in bench.controls] == [f"{ROOT}/request/ping"]


def test_a_seed_is_made_of_the_request_so_that_a_second_run_says_the_same(bench: Bench) -> None:
    bench.send({"text": "hello", "id": "1"}, tail="reply")
    bench.send({"text": "hello", "id": "2"}, tail="reply")
    other = Bench()
    other.send({"text": "hello", "id": "1"}, tail="reply")
    assert bench.engine.submitted[0].seed == other.engine.submitted[0].seed != bench.engine.submitted[1].seed


def test_no_publication_goes_out_twice(bench: Bench) -> None:
    for i in range(20):
        bench.send({"text": f"text {i}", "id": str(i)})
    seen: list[Publication] = bench.link.published
    assert len({each.payload for each in seen}) == len(seen) == 20


def test_a_fault_of_ours_on_one_message_is_answered_and_the_next_one_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as broken, capture_logs() as logged:
        broken.setattr(bench.engine, "submit", explode)
        bench.send("one")
        assert bench.worker.state().jobs == 0
    assert [each["log_level"] for each in logged if "exc_info" in each] == ["error"]
    bench.send("two")
    assert [answer["status"] for answer in bench.answers()] == ["error", "ok"]
    assert len(bench.link.acked) == 2


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    ("kind", "odd"),
    [(Classified, {"scores": {"positive": math.nan, "negative": math.nan}}), (Generated, {"text": "\ud83d"})],
    ids=["no number", "half a character"],
)
def test_an_answer_that_cannot_be_written_is_an_error_and_the_next_one_is_answered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: type, odd: dict[str, Any], is_streamed: bool
) -> None:
    end = bench.engine._end

    def spoil(key: str, event: WorkEvent) -> None:
        end(key, replace(event, **odd) if isinstance(event, kind) else event)

    with monkeypatch.context() as broken, capture_logs() as logged:
        broken.setattr(bench.engine, "_end", spoil)
        bench.send({"text": "one", "session": "s", "stream": is_streamed})
    assert [each["event"] for each in logged if "exc_info" in each] == ["answer_fault"]
    bench.send({"text": "two", "session": "s"})
    assert [answer["status"] for answer in bench.answers()] == ["error", "ok"]
    assert bench.answers()[0]["error"]["code"] == "model_error"
    assert len(bench.link.acked) == 2
    assert bench.worker.state().jobs == 0


ORDER = ExtractSpec(name="order", system={"en": "s", "zh": "s"}, schema={"type": "object"})


@pytest.mark.parametrize(
    "written",
    ['{"a": 1e999}', '{"a": NaN}', '{"a": "\\ud800"}', '{"a": ', "[1]", '{"a":' * 3000, '{"a":' + "9" * 5000 + "}"],
    ids=["too large", "no number", "half a character", "cut short", "no object", "too deep", "too long"],
)
def test_what_is_extracted_and_cannot_be_sent_is_an_error_and_the_next_is_answered(written: str) -> None:
    bench = Bench(tasks=Tasks([*BUILT_IN, ORDER]))
    for text in (written, '{"a": 1}'):
        bench.send({"text": text}, tail="order")
    first, second = bench.answers(f"{ROOT}/out/order")
    assert (first["status"], first["error"]["code"]) == ("error", "model_error")
    assert second["order"] == {"data": {"a": 1}}


def test_answers_wait_for_each_other_and_are_recorded_together_and_acks_wait_with_them() -> None:
    commits: list[int] = []

    class Counting(MemoryJournal):
        def record(self, entries: Sequence[Entry], settled: Iterable[tuple[str, str]] = ()) -> list[Recorded]:
            commits.append(len(entries))
            return super().record(entries, settled)

    bench = Bench(journal=Counting(), commit_after_s=0.5)
    first = bench.send("one", tail="reply")
    bench.now += 0.3
    second = bench.send("two", tail="reply")
    assert bench.answers(f"{ROOT}/out/reply") == []
    assert bench.link.acked == []
    request = {"text": "three", "id": "3"}
    asked_again = [bench.send(request, tail="reply") for _ in range(2)]
    assert len(bench.engine.submitted) == 3  # the last one joined the answer that waits
    bench.now += 0.2
    bench.turn()
    assert commits == [3]
    said = [each["reply"]["text"] for each in bench.answers(f"{ROOT}/out/reply")]
    assert said == [f"You said: {each}" for each in ("one", "two", "three")]
    assert bench.link.acked == [first, second, *asked_again]


def test_a_daemon_that_ends_does_not_let_answers_wait() -> None:
    bench = Bench(commit_after_s=60.0)
    delivery = bench.send("one", tail="reply")
    assert bench.link.acked == []
    bench.worker.drain()
    bench.turn()
    assert bench.link.acked == [delivery]
    assert bench.worker.wait_idle(0)


# ------------------------------------------------------------------------------------- callers in this process


class Waiting:
    """A caller that keeps what it gets."""

    def __init__(self) -> None:
        self.chunks: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []

    def take_chunk(self, payload: bytes) -> None:
        assert not self.answers
        self.chunks.append(json.loads(payload))

    def take_answer(self, payload: bytes) -> None:
        self.answers.append(json.loads(payload))


def asked(caller: Waiting, text: str = "hello there", **fields: Any) -> Request:
    return Request(
        **{
            "id": "one",
            "has_own_id": False,
            "task": "reply",
            "text": text,
            "address": Address(topic="", qos=0, caller=caller),
            "history": (),
            **fields,
        }
    )


def test_a_caller_in_this_process_gets_its_stream_and_its_answer_and_the_broker_nothing(bench: Bench) -> None:
    caller = Waiting()
    bench.worker.ask(asked(caller, task="message", stream=True))
    bench.turn()
    assert [next(iter(chunk.keys() - {"id", "seq"})) for chunk in caller.chunks] == ["sentiment"] + 4 * ["reply"]
    assert [answer["reply"]["text"] for answer in caller.answers] == ["You said: hello there"]
    assert not bench.link.published
    assert bench.worker.outbound.is_idle
    assert bench.metrics.snapshot(bench.now).requests.received == 1


def test_what_nobody_can_ask_for_again_is_not_recorded(bench: Bench) -> None:
    callers = Waiting(), Waiting(), Waiting()
    bench.worker.ask(asked(callers[0], is_recorded=False))
    bench.worker.ask(asked(callers[1], id="kept", has_own_id=True))
    bench.turn()
    bench.worker.ask(asked(callers[2], id="kept", has_own_id=True))
    bench.turn()
    assert [len(caller.answers) for caller in callers] == [1, 1, 1]
    assert callers[2].answers == callers[1].answers
    assert [request_id for request_id, _ in bench.journal._entries] == ["kept"]
    assert len(bench.engine.submitted) == 2


def test_the_same_question_to_another_prompt_is_another_request() -> None:
    plain = asked(Waiting())
    specs = [GenerateSpec(name="reply", system={"en": words}) for words in ("Be kind.", "Be brief.")]
    requests = [plain, *(replace(plain, spec=spec) for spec in specs), replace(plain, spec=specs[0], logprobs=2)]
    assert len({fingerprint_of(each) for each in requests}) == len(requests)


def test_callers_are_refused_when_the_queue_is_full_and_when_the_daemon_drains() -> None:
    bench = Bench(capacity=1, auto=False)
    first, second, third = Waiting(), Waiting(), Waiting()
    bench.worker.ask(asked(first))
    bench.worker.ask(asked(second, id="two"))
    bench.worker.drain()
    bench.worker.ask(asked(third, id="three"))
    bench.turn()
    assert not first.answers
    assert [caller.answers[0]["error"]["code"] for caller in (second, third)] == ["busy", "shutting_down"]


def test_a_caller_that_hangs_up_ends_its_own_request_alone() -> None:
    bench = Bench(auto=False)
    gone, stays = Waiting(), Waiting()
    bench.worker.ask(asked(gone))
    bench.worker.ask(asked(stays, id="two"))
    bench.send("by the broker", tail="reply")
    bench.worker.hang_up(gone)
    bench.turn()
    assert bench.worker.state().jobs == 2
    assert [work.text for work, _ in bench.engine._open.values()] == ["hello there", "by the broker"]
