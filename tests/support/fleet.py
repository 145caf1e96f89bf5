"""A group of real daemons with an engine by rule on one real mosquitto, and a client that asks at set times."""

import heapq
import itertools
import json
import queue
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from edged.contract.topics import shard_of
from tests.support.broker import Broker
from tests.support.daemon import SCRIPTED, Daemon
from tests.support.peer import Peer
from tests.support.waiting import eventually

SLOTS = 8  # requests that a box answers side by side
_QUIET_S = 8.0  # without an answer, after which no more is waited for
_LONGEST_S = 120.0  # that is waited for answers


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A request that is sent at `at` seconds, in a conversation. It takes `service` seconds; None: the box chooses."""

    at: float
    session: int = 0
    service: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """SIGKILL for a box at `at` seconds; it is started `down` seconds later."""

    at: float
    box: int
    down: float


@dataclass(kw_only=True, slots=True)
class Played:
    """The outcome; times are seconds since the first request was due.

    Attributes:
        totals: seconds to the first answer of each request that has one, by its number.
        boxes: the box that gave this answer, by the request's number.
        ended: the time of the last of these answers.
        twice: requests that were answered in two ways.
        deaths: when each kill was, which box, and after how many seconds it was ready again.
        breaks: turns that another box answered than the turn before, and turns that had one before.
    """

    totals: dict[int, float] = field(default_factory=dict)
    boxes: dict[int, int] = field(default_factory=dict)
    ended: float = 0.0
    twice: set[int] = field(default_factory=set)
    deaths: list[tuple[float, int, float]] = field(default_factory=list)
    breaks: int = 0
    followers: int = 0

    @property
    def mean(self) -> float:
        """The mean time to an answer, in seconds."""
        return statistics.fmean(self.totals.values())


class Fleet:
    """Boxes of one group, a broker, and a client that hears all answers. A context manager."""

    def __init__(
        self, longest: Sequence[float], *, is_sharded: bool = False, more: Mapping[str, str] | None = None
    ) -> None:
        """`longest` of each box: the seconds of its longest request; sharded: each box has a shard of its own."""
        self._folder = tempfile.TemporaryDirectory(prefix="edged-")
        root = Path(self._folder.name)
        self._broker = Broker(folder=root, config=("max_queued_messages 0",))
        self._shards = tuple(str(number) for number in range(len(longest))) if is_sharded else ()
        self._boxes = []
        for number, longest_s in enumerate(longest):
            folder = root / str(number)
            folder.mkdir()
            program = (*SCRIPTED, "--work-ms", f"{1000 * longest_s:g}", "--slots", f"{SLOTS}", "--seed", f"{number}")
            own = {"EDGED_MQTT__SHARDS": str(number)} if is_sharded else {}
            settings = {"EDGED_MQTT__SHARE_GROUP": "team", "EDGED_LOG__LEVEL": "warning"} | own | dict(more or {})
            box = Daemon(folder=folder, broker=self._broker, node=f"box{number}", program=program, more=settings)
            self._boxes.append(box)

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            ends.callback(self._folder.cleanup)
            self._broker.start()
            ends.callback(self._broker.stop)
            for box in self._boxes:
                box.start()
                ends.callback(box.stop)
            for box in self._boxes:
                box.wait_ready()
                grant = f"edged-edged-{box.node} 1 $share/team/"
                eventually(lambda grant=grant: grant in self._broker.log(), "a share")  # type: ignore[misc]
            self._peer = ends.enter_context(Peer(self._broker.port))
            self._peer.subscribe("edged/team/out/#")
            self._peer.subscribe("edged/+/status")
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def play(self, asks: Sequence[Ask], *, kills: Sequence[Kill] = (), retry: float | None = None) -> Played:
        """Ask at these times; with `retry`, again under the same id after so many seconds without an answer."""
        return _Play(self._boxes, self._peer, self._shards, asks, kills, retry).run()


class _Play:
    def __init__(
        self,
        boxes: Sequence[Daemon],
        peer: Peer,
        shards: Sequence[str],
        asks: Sequence[Ask],
        kills: Sequence[Kill],
        retry: float | None,
    ) -> None:
        self._boxes = boxes
        self._peer = peer
        self._shards = shards
        self._asks = asks
        self._retry = retry
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._asked: dict[int, float] = {}
        self._first: dict[int, bytes] = {}
        self._last_box: dict[int, int] = {}
        self._dead: dict[int, float] = {}  # boxes that were killed and are not ready again: when
        self._played = Played()
        self._begin = 0.0
        for number, each in enumerate(asks):
            self._at(each.at, lambda number=number: self._ask(number, 1))  # type: ignore[misc]
        for kill in kills:
            self._at(kill.at, lambda kill=kill: self._kill(kill))  # type: ignore[misc]

    def run(self) -> Played:
        self._begin = time.monotonic()
        heard = 0.0
        while self._now < _LONGEST_S + self._asks[-1].at:
            wait = self._due[0][0] - self._now if self._due else 1.0
            if wait <= 0:
                heapq.heappop(self._due)[2]()
                heard = self._now
            elif self._hear(wait):
                heard = self._now
            elif self._is_over(heard):
                break
        return self._played

    def _is_over(self, heard: float) -> bool:
        if len(self._first) == len(self._asks):
            return not self._dead and self._now - heard > 1.0  # a second answer may come
        return self._retry is None and not self._due and not self._dead and self._now - heard > _QUIET_S

    @property
    def _now(self) -> float:
        return time.monotonic() - self._begin

    def _at(self, at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at, next(self._order), action))

    def _ask(self, number: int, attempt: int) -> None:
        if number in self._first:
            return
        ask = self._asks[number]
        text = "hi" if ask.service is None else f"hi [slow:{max(1, round(1000 * ask.service))}]"
        body = {"text": text, "id": f"r{number}", "attempt": attempt}
        session = str(ask.session)
        shard = f"{shard_of(session, self._shards)}/" if self._shards else ""
        self._peer.publish(f"edged/team/in/{shard}sentiment/{session}", json.dumps(body).encode())
        self._asked.setdefault(number, self._now)
        if self._retry is not None:
            self._at(self._now + self._retry, lambda: self._ask(number, attempt + 1))

    def _kill(self, kill: Kill) -> None:
        self._boxes[kill.box].kill()
        self._dead[kill.box] = self._now
        self._at(self._now + kill.down, self._boxes[kill.box].start)

    def _hear(self, timeout: float) -> bool:
        try:
            message = self._peer.received.get(timeout=min(timeout, 1.0))
        except queue.Empty:
            return False
        body: dict[str, Any] = json.loads(message.payload)
        if message.topic.endswith("/status"):
            self._hear_status(int(message.topic.split("/")[1].removeprefix("box")), body)
            return False
        assert body["status"] == "ok", body
        self._take(int(body["id"].removeprefix("r")), int(body["node"].removeprefix("box")), bytes(message.payload))
        return True

    def _hear_status(self, box: int, status: dict[str, Any]) -> None:
        if box in self._dead and status["state"] == "ready" and self._boxes[box].is_alive:
            at = self._dead.pop(box)
            self._played.deaths.append((at, box, self._now - at))

    def _take(self, number: int, box: int, payload: bytes) -> None:
        played = self._played
        if number in self._first:
            if self._first[number] != payload:
                played.twice.add(number)
            return
        self._first[number] = payload
        played.ended = self._now
        played.totals[number] = played.ended - self._asked[number]
        played.boxes[number] = box
        session = self._asks[number].session
        before = self._last_box.get(session)
        played.followers += before is not None
        played.breaks += before not in {None, box}
        self._last_box[session] = box
