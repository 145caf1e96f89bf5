"""The journal that boxes share, on a real Redis."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from edged.errors import JournalFault, SettingsError
from edged.journal.redis import RedisJournal
from edged.ports.journal import JournalLimits, Recorded
from edged.tasks.calibration import Observation
from tests.support.journal_contract import JournalContract, entry, said
from tests.support.redis_server import RedisServer


@dataclass
class Boxes:
    """Journals of boxes of one group."""

    server: RedisServer
    opened: list[RedisJournal] = field(default_factory=list)
    now: float = 0.0

    def open(self, node: str = "a", group: str = "edged/team", **limits: Any) -> RedisJournal:
        known: dict[str, Any] = {"keep_hours": 24.0, "session_hours": 168.0, "max_mb": 8, "keep_text": True}
        journal = RedisJournal(
            self.server.url, JournalLimits(**(known | limits)), group=group, node=node, clock=lambda: self.now
        )
        self.opened.append(journal)
        return journal

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(folder=tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def boxes(server: RedisServer) -> Iterator[Boxes]:
    boxes = Boxes(server)
    boxes.client().flushall()
    yield boxes
    for journal in boxes.opened:
        journal.close()


@pytest.fixture
def journal(boxes: Boxes) -> RedisJournal:
    return boxes.open()


class TestContract(JournalContract):
    """Kept on Redis too."""


def test_a_box_continues_what_another_began(boxes: Boxes) -> None:
    one, other = boxes.open("a"), boxes.open("b")
    one.record([entry("1", session="s", turns=said("a", "b"))])
    assert other.turns("s") == said("a", "b")
    other.record([entry("2", session="s", turns=said("c", "d"))])
    assert one.turns("s") == said("a", "b", "c", "d")
    assert other.find("1", "f") == Recorded(request_id="1", payload=b"1")


def test_the_first_answer_of_two_boxes_stands(boxes: Boxes) -> None:
    one, other = boxes.open("a"), boxes.open("b")
    one.record([entry("1", payload=b"of a", session="s", turns=said("hi", "of a"))])
    stands = other.record([entry("1", payload=b"of b", session="s", turns=said("hi", "of b"))])
    assert stands == [Recorded(request_id="1", payload=b"of a")]
    assert one.turns("s") == said("hi", "of a")


def test_packet_ids_are_each_boxs_own(boxes: Boxes) -> None:
    one, other = boxes.open("a"), boxes.open("b")
    one.record([entry("1", packet_id=7)])
    assert other.find_unsettled(7, "f") is None
    other.record([entry("2", packet_id=7)])
    assert one.find_unsettled(7, "f") == Recorded(request_id="1", payload=b"1")


def test_groups_do_not_see_each_other(boxes: Boxes) -> None:
    boxes.open(group="edged/team").record([entry("1", session="s", turns=said("a", "b"))])
    other = boxes.open(group="edged/others")
    assert other.turns("s") == ()
    assert other.find("1", "f") is None


def test_processes_that_ended_over_a_request_are_counted_whichever_box_they_were_on(boxes: Boxes) -> None:
    boxes.open("a").begin("f")
    second = boxes.open("b")
    assert (second.starts("f"), second.starts("g")) == (1, 0)
    second.begin("f")
    second.begin("f")
    assert second.starts("f") == 0
    third = boxes.open("a")
    assert third.starts("f") == 2
    second.hand_back()
    assert third.starts("f") == 1
    third.record([entry("1")])
    assert boxes.open("b").starts("f") == 0


def test_everything_expires(boxes: Boxes) -> None:
    journal = boxes.open(keep_hours=2.0, session_hours=3.0)
    journal.begin("g")
    journal.record([entry("1", packet_id=3, session="s", turns=said("a", "b"))])
    client = boxes.client()
    left = {bytes(key).decode().split(":")[2]: client.ttl(key) for key in client.scan_iter()}
    hours = {kind: round(seconds / 3600) for kind, seconds in left.items()}
    assert hours == {"result": 2, "unsettled": 2, "results": 2, "starts": 2, "begun": 2, "turns": 3}


def test_to_forget_leaves_no_word_of_a_session(boxes: Boxes) -> None:
    journal = boxes.open()
    journal.record([entry("1", session="s", payload=b"secret", turns=said("secret", "words"), packet_id=1)])
    journal.settled([("1", "f")])
    journal.forget("s")
    assert boxes.client().keys() == []


def test_an_endless_session_does_not_remember_answers_that_are_gone(boxes: Boxes) -> None:
    journal = boxes.open(keep_hours=1 / 3600)
    journal.record([entry(str(number), session="s") for number in range(5)])
    client = boxes.client()
    [key] = client.keys("*:results:s")
    assert client.zcard(key) == 5
    for number in range(5, 10):  # never silent for long enough to be forgotten whole
        time.sleep(0.4)
        journal.record([entry(str(number), session="s")])
    assert client.zcard(key) <= 5


def test_without_text_nothing_is_kept(boxes: Boxes) -> None:
    journal = boxes.open(keep_text=False)
    assert journal.record([entry("1", session="s", turns=said("a"))]) == [Recorded(request_id="1", payload=b"1")]
    assert boxes.client().keys() == []


def test_observations_are_kept_without_text_and_are_bounded(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.journal.redis.OBSERVED", 2)
    seen = [Observation(judge="j", scores=(float(n), -float(n))) for n in range(4)]
    journal = boxes.open(keep_text=False)
    journal.record([entry("1", packet_id=1)])
    stand = journal.record([entry(str(n), observations=(each,)) for n, each in enumerate(seen)], [("1", "f")])
    assert [each.payload for each in stand] == [b"0", b"1", b"2", b"3"]
    assert boxes.open().observations() == tuple(seen[-2:])


def test_an_endless_conversation_keeps_its_newest_turns(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.journal.redis.MAX_TURNS", 3)
    journal = boxes.open()
    journal.record([entry("1", session="s", turns=said("a", "b")), entry("2", session="s", turns=said("c", "d"))])
    assert [turn.content for turn in journal.turns("s")] == ["b", "c", "d"]


_USES: list[Callable[[RedisJournal], object]] = [
    lambda journal: journal.open(),
    lambda journal: journal.record([entry("1")]),
    lambda journal: journal.find("1", "f"),
    lambda journal: journal.turns("s"),
]


@pytest.mark.parametrize("use", _USES)
def test_a_server_that_is_gone_is_a_fault_and_is_asked_again_after_a_while(
    tmp_path: Path, use: Callable[[RedisJournal], object]
) -> None:
    boxes = Boxes(RedisServer(folder=tmp_path))
    journal = boxes.open()
    with pytest.raises(JournalFault, match=r"Redis: .*refused"):
        use(journal)
    boxes.server.start()
    try:
        with pytest.raises(JournalFault, match="refused"):  # not asked: a worker that waits answers nobody
            use(journal)
        boxes.now += 6.0
        use(journal)
    finally:
        journal.close()
        boxes.server.stop()


def test_a_url_that_cannot_be_read_is_refused() -> None:
    limits = JournalLimits(keep_hours=1, session_hours=1, max_mb=8, keep_text=True)
    for url in ("postgres://user:secret@host/db", "redis://user:sec/ret@host/0", "redis://:sec#ret@host/0"):
        with pytest.raises(SettingsError, match=r"journal\.url") as caught:
            RedisJournal(url, limits, group="g", node="n", clock=lambda: 0.0)
        assert "sec" not in str(caught.value)
