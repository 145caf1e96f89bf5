"""Fair shares: a sender that floods the box costs another little, whatever it sends; counted in steps, not seconds."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.contract.requests import Contract, Request, decode
from edged.contract.senders import SenderRule
from edged.contract.topics import TaskRoute, Topics
from edged.errors import Busy
from edged.monitoring.metrics import Metrics
from edged.ports.link import Delivery, Message
from edged.serving.senders import KNOWN, SHOWN, Senders
from edged.serving.shares import AGEING_S, Shares
from edged.serving.worker import Worker
from edged.tasks.built_in import BUILT_IN
from edged.tasks.specs import ClassifySpec
from edged.testing import FakeLink, MemoryJournal, ScriptedEngine

BATCH = 8


def contract(**more: Any) -> Contract:
    return Contract(
        topics=Topics(prefix="edged", node="box"),
        tasks=BUILT_IN,
        reply_topics=("edged/#",),
        payload_bytes=4096,
        text_chars=1000,
        **more,
    )


class Bench:
    """A worker whose engine answers a batch in each step."""

    def __init__(self, *, record: Path | None = None, **more: Any) -> None:
        self.now = 100.0
        self.steps = 0
        self.link = FakeLink(clock=lambda: self.now)
        self.engine = ScriptedEngine(auto=False, clock=lambda: self.now)
        self.contract = contract(**more)
        self.worker = Worker(
            contract=self.contract,
            engine=self.engine,
            link=self.link,
            journal=MemoryJournal(),
            metrics=Metrics(),
            capacity=2000,
            batch=BATCH,
            language="en",
            on_control=lambda _, __: None,
            sender_record=record,
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
        )
        self.link.on_delivery = self.take

    def take(self, delivery: Delivery) -> None:
        route = self.contract.topics.route(delivery.message.topic)
        assert isinstance(route, TaskRoute)
        self.worker.on_delivery(route, delivery)

    def send(self, sender: str, text: str = "hi there", task: str = "sentiment", **body: Any) -> None:
        payload = json.dumps({"text": text, "reply_to": f"edged/{sender}", **body}).encode()
        self.link.deliver(Message(topic=f"edged/box/in/{task}", payload=payload, qos=1))

    def turn(self) -> None:
        for _ in range(5):
            self.worker.turn(0)
        assert self.worker.state().died is None

    def step(self) -> None:
        self.engine.step(BATCH)
        self.steps += 1
        self.turn()

    def answers(self, sender: str) -> list[dict[str, Any]]:
        return [json.loads(each.payload) for each in self.link.published if each.topic == f"edged/{sender}"]

    def steps_until(self, sender: str, answers: int = 1) -> int:
        begin = self.steps
        while sum(each.topic == f"edged/{sender}" for each in self.link.published) < answers:
            self.step()
        return self.steps - begin


@pytest.mark.parametrize(("task", "priority"), [("sentiment", 4), ("reply", 9), ("message", 9)])
def test_a_flood_of_500_costs_another_at_most_twice_its_quiet_wait(task: str, priority: int) -> None:
    quiet = Bench()
    quiet.send("device", task=task)
    quiet.turn()
    alone = quiet.steps_until("device")
    for steps_before in (0, 7):
        bench = Bench()
        for n in range(500):
            bench.send("flood", text=f"text {n}", task=task, priority=priority)
        bench.turn()
        for _ in range(steps_before):
            bench.step()
        bench.send("device", task=task)
        bench.turn()
        assert bench.steps_until("device") <= 2 * alone
        bench.steps_until("flood", 500)
        assert bench.worker.state().jobs == 0


def test_two_floods_take_turns_by_tokens_and_not_by_requests() -> None:
    bench = Bench()
    for n in range(300):
        bench.send("long", text=f"word {n} " * 30)
    for n in range(300):
        bench.send("short", text=f"word {n} " * 10)
    bench.turn()
    bench.steps_until("short", 90)
    assert 20 <= len(bench.answers("long")) <= 60


def test_short_questions_do_not_wait_behind_long_texts() -> None:
    bench = Bench()
    for n in range(100):
        bench.send("device", text=f"text {n}", task="reply")
    bench.send("device")
    bench.turn()
    assert any(isinstance(work.spec, ClassifySpec) for work in bench.engine.submitted)


def test_a_sender_that_comes_back_has_no_credit_for_its_silence() -> None:
    bench = Bench()
    for n in range(200):
        bench.send("a", text=f"text {n}")
    bench.turn()
    for _ in range(10):
        bench.step()
    for n in range(200):
        bench.send("b", text=f"text {n}")
    bench.turn()
    before = len(bench.answers("a"))
    for _ in range(10):
        bench.step()
    both = len(bench.answers("a")) - before, len(bench.answers("b"))
    assert sum(both) == 10 * BATCH
    assert abs(both[0] - both[1]) <= 2 * BATCH


def test_priority_orders_the_requests_of_one_sender_and_waiting_counts() -> None:
    shares = Shares(room=1)
    for n, (priority, at) in enumerate([(4, 0.0), (4, 1.0), (9, 2.0), (0, 0.0), (4, 4 * AGEING_S + 1)]):
        shares.enter(str(n), sender="s", cost=1, priority=priority, at=at)
    order = []
    while (taken := shares.take()) is not None:
        order.append(taken[0])
        shares.end(taken[0], 1)
    assert order == ["2", "0", "1", "3", "4"]


def test_what_waits_can_be_cancelled_and_expires() -> None:
    bench = Bench()
    for n in range(100):
        bench.send("flood", text=f"text {n}", id=str(n), task="message", **({"deadline_ms": 1000} if n == 98 else {}))
    bench.turn()
    assert bench.worker.cancel("99") == 1
    bench.now += 2
    bench.turn()
    assert {each["id"]: each["error"]["code"] for each in bench.answers("flood")} == {
        "98": "expired",
        "99": "cancelled",
    }
    bench.steps_until("flood", 100)
    assert bench.worker.state().jobs == 0


def test_the_time_in_the_queue_is_told() -> None:
    bench = Bench()
    for n in range(70):
        bench.send("flood", text=f"text {n}")
    bench.turn()
    bench.now += 3
    bench.steps_until("flood", 70)
    assert bench.answers("flood")[-1]["timings"]["queue_ms"] == 3000


@given(
    st.lists(
        st.tuples(st.sampled_from(["enter", "take", "end", "leave"]), st.integers(0, 3), st.integers(1, 50)),
        max_size=80,
    )
)
def test_nothing_is_lost_or_given_twice(actions: list[tuple[str, int, int]]) -> None:
    shares = Shares(room=3)
    waiting: set[str] = set()
    running: set[str] = set()
    for n, (action, who, cost) in enumerate(actions):
        if action == "enter":
            shares.enter(str(n), sender=f"s{who}", cost=cost, priority=who, at=float(n))
            waiting.add(str(n))
        elif action == "take" and (taken := shares.take()) is not None:
            waiting.remove(taken[0])
            running.add(taken[0])
        elif action == "end" and running:
            shares.end(running.pop(), cost)
        elif action == "leave" and waiting:
            assert shares.leave(waiting.pop())
        assert set(shares.waiting()) == waiting
    while waiting:
        while (taken := shares.take()) is not None:
            waiting.remove(taken[0])
            running.add(taken[0])
        assert running
        shares.end(running.pop(), 1)


def test_shares_of_senders_that_always_have_work_are_equal() -> None:
    shares, draw, got = Shares(room=8), random.Random(1), Counter[str]()
    numbers = iter(range(10**6))
    costs: dict[str, tuple[str, int]] = {}

    def enter(sender: str) -> None:
        key = str(next(numbers))
        costs[key] = sender, draw.randint(1, 10) * (10 if sender == "a" else 1)
        shares.enter(key, sender=sender, cost=5, priority=4, at=0.0)

    for sender in "abc":
        for _ in range(40):
            enter(sender)
    running: list[tuple[int, str]] = []
    for _ in range(6000):
        while (taken := shares.take()) is not None:
            running.append((taken[1], taken[0]))
        running.sort()  # the engine begins with the lowest
        _, key = running.pop(draw.randrange(min(4, len(running))))
        sender, cost = costs[key]
        shares.end(key, cost)
        got[sender] += cost
        enter(sender)
    assert max(got.values()) < 1.2 * min(got.values())


# ----------------------------------------------------------------------------------------------- senders, limits


@pytest.mark.parametrize(
    ("rule", "fields", "sender"),
    [
        ("session", {"topic": "edged/box/in/reply/ada"}, "ada"),
        ("session", {"topic": "edged/box/in/reply"}, "edged/box/out/reply"),
        ("session", {"topic": "edged/box/in/reply", "response_topic": "edged/app"}, "edged/app"),
        ("topic[4]", {"topic": "edged/box/in/reply/ada"}, "ada"),
        ("topic[4]", {"topic": "edged/box/in/reply"}, "edged/box/out/reply"),
        ("property client", {"user_properties": (("client", "forged"), ("client", "ada"))}, "ada"),
        ("property client", {"user_properties": (("other", "ada"),)}, "edged/box/out/reply"),
    ],
)
def test_who_the_sender_is(rule: str, fields: dict[str, Any], sender: str) -> None:
    told = contract(sender=SenderRule.parse(rule))
    message = Message(**{"topic": "edged/box/in/reply", "payload": b"hi", **fields})
    route = told.topics.route(message.topic)
    assert isinstance(route, TaskRoute)
    request = decode(message, route, contract=told, new_id="1")
    assert isinstance(request, Request)
    assert request.sender == sender


@pytest.mark.parametrize("rule", ["topic", "topic[x]", "topic[1]x", "property", "property ", "client", ""])
def test_a_wrong_rule_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="write session, topic"):
        SenderRule.parse(rule)


def test_requests_beyond_the_rate_are_answered_busy_with_when_to_try_again() -> None:
    bench = Bench(requests_per_minute=2)
    for n in range(4):
        bench.send("flood", text=f"text {n}")
    bench.send("device")
    bench.turn()
    errors = [each["error"] for each in bench.answers("flood")]
    assert [each["code"] for each in errors] == ["busy", "busy"]
    assert errors[0]["retry_after_ms"] == 30001
    bench.step()
    assert [each["status"] for each in bench.answers("device")] == ["ok"]
    bench.now += errors[0]["retry_after_ms"] / 1000
    bench.send("flood", text="again")
    bench.turn()
    bench.step()
    assert bench.answers("flood")[-1]["status"] == "ok"
    assert bench.worker.state().senders["edged/flood"].refused == 2


def test_a_repeated_request_does_not_count_against_its_sender() -> None:
    bench = Bench(requests_per_minute=1)
    for _ in range(3):
        bench.send("device", id="same")
        bench.turn()
        bench.step()
    assert [each["status"] for each in bench.answers("device")] == ["ok"] * 3


def test_tokens_of_a_day_are_limited_and_free_again_a_day_later() -> None:
    bench = Bench(tokens_per_day=5)
    for n in range(3):
        bench.send("device", text=f"two words {n}")
        bench.turn()
        bench.step()
    first, second, third = bench.answers("device")
    assert [each["status"] for each in (first, second, third)] == ["ok", "ok", "error"]
    assert third["error"]["code"] == "busy"
    bench.now += third["error"]["retry_after_ms"] / 1000
    bench.send("device", text="later")
    bench.turn()
    bench.step()
    assert bench.answers("device")[-1]["status"] == "ok"


def take(bench: Bench, tokens: int) -> str:
    """Have the device take so many tokens; gives the status of the answer."""
    bench.send("device", text=" ".join(["word"] * tokens))
    bench.turn()
    bench.step()
    status: str = bench.answers("device")[-1]["status"]
    return status


def test_tokens_of_a_day_count_on_after_a_restart(tmp_path: Path) -> None:
    record = tmp_path / "senders"
    first = Bench(tokens_per_day=5, record=record)
    assert take(first, 5) == "ok"
    assert not record.exists()  # one write a minute spares the disk
    first.now += 60
    first.turn()
    assert "edged/device" in record.read_text()
    second = Bench(tokens_per_day=5, record=record)
    second.worker.start()
    second.worker.stop()
    with pytest.raises(Busy, match="5 tokens in a day"):
        second.worker._senders.admit("edged/device")
    second.now += 86_400
    second.worker._senders.admit("edged/device")


def test_what_was_taken_since_the_last_minute_is_kept_at_the_end(tmp_path: Path) -> None:
    record = tmp_path / "senders"
    senders = Senders(contract(tokens_per_day=5), clock=lambda: 0.0, wall_clock=lambda: 0.0, record=record)
    senders.spent("a", 9)
    senders.note()
    assert not record.exists()
    senders.note(at_once=True)
    again = Senders(contract(tokens_per_day=5), clock=lambda: 9.0, wall_clock=lambda: 99.0, record=record)
    again.admit("a")
    again.recall()
    with pytest.raises(Busy):
        again.admit("a")


@pytest.mark.parametrize("content", ["", "{", '{"kind": "tokens of senders", "version": 1, "content": {"a": 7}}'])
def test_a_damaged_record_of_tokens_is_no_fault(tmp_path: Path, content: str) -> None:
    record = tmp_path / "senders"
    record.write_text(content)
    senders = Senders(contract(tokens_per_day=5), clock=lambda: 0.0, wall_clock=lambda: 0.0, record=record)
    senders.recall()
    senders.admit("a")


def test_without_a_limit_nothing_is_written(tmp_path: Path) -> None:
    senders = Senders(contract(), clock=lambda: 0.0, wall_clock=lambda: 0.0, record=tmp_path / "senders")
    senders.spent("a", 9)
    senders.note(at_once=True)
    assert not (tmp_path / "senders").exists()


def test_few_senders_are_shown_and_many_take_no_more_memory() -> None:
    senders = Senders(contract(hide_senders=True), clock=lambda: 0.0, wall_clock=lambda: 0.0)
    for n in range(KNOWN + 50):
        senders.admit(f"s{n}")
        senders.spent(f"s{n}", n)
    counts = senders.counts(["s1049", "s1049"])
    assert len(counts) == SHOWN
    assert len(senders._senders) == KNOWN
    assert max(each.tokens for each in counts.values()) == KNOWN + 49
    assert max(each.in_hand for each in counts.values()) == 2
    assert not any(name.startswith("s10") for name in counts)


def test_a_limit_can_be_used_up_at_any_moment() -> None:
    senders = Senders(contract(requests_per_minute=1), clock=lambda: 0.0, wall_clock=lambda: 0.0)
    senders.admit("a")
    with pytest.raises(Busy) as caught:
        senders.admit("a")
    assert caught.value.retry_after_ms == 60001
    senders.use(contract())
    senders.admit("a")
