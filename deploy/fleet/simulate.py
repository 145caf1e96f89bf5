"""What a fleet of edged boxes does under load: waiting time, loss, broken conversations, by how a broker deals.

A discrete-event model. Requests come in bursts or evenly; a broker deals each to a box at once, as brokers do with
shared subscriptions; a box answers `slots` requests side by side and keeps the rest in its queue at the broker.

    python3 deploy/fleet/simulate.py --boxes 4 --rate 60 --strategy round_robin
    python3 deploy/fleet/simulate.py --boxes 1000 --load 0.8 --bursts 5 --deaths-per-hour 2 --all

Needs nothing but Python. deploy/MEASUREMENTS.md ("a fleet") compares it with real daemons on one mosquitto, at 1 to 4
boxes: waits by load, with a slow box, with boxes that die, with conversations that are dealt in turn and by shards.
`random`, `hash` and `pull` need brokers with which it was not compared.
"""

import argparse
import heapq
import itertools
import random
import statistics
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

STRATEGIES = {
    "round_robin": "in turn: mosquitto, EMQX (round_robin), VerneMQ",
    "random": "by lot: EMQX (random)",
    "hash": "by topic, and so by conversation: EMQX (hash_topic), RMQTT",
    "shards": "by conversation, each box its own shard: what comes for a box that is gone for good is lost",
    "pause": "in turn, among those that have room: mosquitto with edged's own pausing",
    "pull": "to whoever is free: one queue for all, as HiveMQ does by Receive Maximum",
}


_HANDOVER_S = 4.0  # after which a box that is back has told how fast it is, has heard of another keeper, and may pause


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A request that comes at `at` seconds, of a conversation, and takes `service` seconds in a slot."""

    at: float
    session: int
    service: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Death:
    """The end of a box at `at` seconds; `down` seconds later it answers again."""

    at: float
    box: int
    down: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """What happens.

    Attributes:
        speeds: one for each box; 1.0 takes the service time as it is, 0.5 twice as long.
        slots: requests that a box answers side by side.
        service: seconds of one request in a slot; one is drawn for each request.
        rate: requests per second, on the average; without meaning where there are `arrivals`.
        burst: requests that come at once, on the average; 1.0 are independent arrivals (Poisson).
        seconds: of arrivals; what is left then is answered.
        arrivals: the requests, one by one; None: they are drawn.
        deaths_per_hour: of each box; a dead one is back after `down` seconds.
        deaths: further ones, one by one.
        expiry: seconds for which the broker keeps a dead box's session: until then it deals work to it. Then what it
            had is lost.
        retry: seconds after which a client asks again; None: never.
        shared_journal: whether a box knows what the others have answered: else it answers again what comes again.
        turns: of a conversation, on the average.
    """

    speeds: Sequence[float]
    slots: int
    service: Sequence[float]
    rate: float
    burst: float = 1.0
    seconds: float = 600.0
    arrivals: Sequence[Arrival] | None = None
    deaths_per_hour: float = 0.0
    deaths: Sequence[Death] = ()
    down: float = 60.0
    expiry: float = 30.0
    retry: float | None = None
    shared_journal: bool = True
    turns: float = 6.0


@dataclass(slots=True)
class Box:
    """A box, its queue at the broker, and whether the broker deals to it."""

    name: int
    speed: float
    free: int
    lives: bool = True
    is_member: bool = True
    takes: bool = True
    pauses_from: float = 0.0  # no sooner
    run: int = 0  # its process: what an earlier one had begun ends no more
    queue: deque["Request"] = field(default_factory=deque)
    running: dict["Request", None] = field(default_factory=dict)  # in order, so that each run is the same

    @property
    def jobs(self) -> int:
        return len(self.queue) + len(self.running)


@dataclass(slots=True, eq=False)
class Request:
    """A request, from its first attempt to its answer."""

    came: float
    session: int
    service: float
    started: float | None = None
    answered: float | None = None
    answered_by: list[int] = field(default_factory=list)  # boxes; the first one's answer was the first


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of it; times in seconds."""

    requests: int
    waits: Sequence[float]  # until work began that came to an answer
    totals: Sequence[float]  # until the answer
    lost: int  # without an answer at the end
    again: int  # that more than one box answered
    breaks: int  # turns that went to another box than the turn before
    followers: int  # turns that had one before
    by_box: Sequence[int]
    boxes: Sequence[int]  # whose answer came first, in the order of waits and totals


class Simulation:
    """One run; the same seed gives the same one."""

    def __init__(self, scenario: Scenario, strategy: str, *, seed: int = 1, dealt: int = 0) -> None:
        """`dealt`: how many requests were dealt before: so whose turn it is."""
        if strategy not in STRATEGIES:
            raise ValueError(f"no strategy {strategy}; there are {', '.join(STRATEGIES)}")
        self._scenario = scenario
        self._strategy = strategy
        self._random = random.Random(seed)
        self._boxes = [Box(name=i, speed=speed, free=scenario.slots) for i, speed in enumerate(scenario.speeds)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._now = 0.0
        self._next = dealt
        self._requests: list[Request] = []
        self._pulled: deque[Request] = deque()  # the broker's one queue, where boxes pull
        self._free = list(self._boxes)  # those that may have room, where boxes pull
        self._members: list[Box] = []
        self._last: Box | None = None
        self._count_members()
        self._last_box: dict[int, int] = {}
        self._breaks = self._followers = self._sessions = 0
        self._open_sessions: list[int] = []
        self._answers = [0] * len(self._boxes)
        # A box that answers slowly wants less in hand: two seconds of work, as edged does.
        mean = statistics.fmean(scenario.service)
        self._windows = [max(scenario.slots, round(2 * scenario.slots * box.speed / mean)) for box in self._boxes]

    def run(self) -> Outcome:
        self._arrivals()
        for box in self._boxes:
            self._plan_death(box)
        for death in self._scenario.deaths:
            self._at(death.at, lambda death=death: self._die(self._boxes[death.box], death.down))
        end = self._scenario.seconds * 20
        while self._events and self._events[0][0] < end:
            self._now, _, event = heapq.heappop(self._events)
            event()
        done = [each for each in self._requests if each.answered is not None]
        return Outcome(
            requests=len(self._requests),
            waits=[(each.started or 0.0) - each.came for each in done],
            totals=[(each.answered or 0.0) - each.came for each in done],
            lost=len(self._requests) - len(done),
            again=sum(len(each.answered_by) > 1 for each in done),
            breaks=self._breaks,
            followers=self._followers,
            by_box=self._answers,
            boxes=[each.answered_by[0] for each in done],
        )

    # what happens

    def _at(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._numbers), event))

    def _arrivals(self) -> None:
        for each in self._drawn() if self._scenario.arrivals is None else self._scenario.arrivals:
            request = Request(came=each.at, session=each.session, service=each.service)
            self._requests.append(request)
            self._at(each.at, lambda request=request: self._ask(request))

    def _drawn(self) -> Iterator[Arrival]:
        scenario, at = self._scenario, 0.0
        while (at := at + self._random.expovariate(scenario.rate / scenario.burst)) < scenario.seconds:
            for _ in range(max(1, round(self._random.expovariate(1 / scenario.burst))) if scenario.burst > 1 else 1):
                yield Arrival(at=at, session=self._session(), service=self._random.choice(scenario.service))

    def _session(self) -> int:
        """A conversation that goes on, or a new one."""
        if self._open_sessions and self._random.random() > 1 / self._scenario.turns:
            return self._random.choice(self._open_sessions)
        self._sessions += 1
        self._open_sessions.append(self._sessions)
        if len(self._open_sessions) > 20 * len(self._boxes):
            self._open_sessions.pop(0)
        return self._sessions

    def _ask(self, request: Request) -> None:
        if request.answered is not None:
            return
        if self._scenario.retry is not None:
            self._at(self._scenario.retry, lambda: self._ask(request))
        if self._strategy == "pull":
            self._pulled.append(request)
            self._pull()
        elif (box := self._deal(request)) is not None:
            box.queue.append(request)
            self._work(box)

    def _deal(self, request: Request) -> Box | None:
        """Whom the broker gives it; None where nobody subscribes: then it is gone."""
        members = self._members
        if self._strategy == "shards":
            box = self._boxes[shard(request.session, len(self._boxes))]
            return box if box.is_member else None
        if not members:
            return None
        if self._strategy == "hash":
            return members[shard(request.session, len(members))]
        if self._strategy == "random":
            return self._random.choice(members)
        for _ in members:
            self._next += 1
            box = members[self._next % len(members)]
            if self._strategy != "pause" or self._takes(box):
                return box
        return members[self._next % len(members)]

    def _takes(self, box: Box) -> bool:
        """A box's own rule; see edged/fleet/policy.py.

        The fastest that lives never pauses; a dead one does what it did.
        """
        window = self._windows[box.name]
        if box.lives:
            keeps = box is self._last or self._now < box.pauses_from
            box.takes = keeps or (box.jobs < window if box.takes else box.jobs <= window // 2)
        return box.takes

    def _pull(self) -> None:
        """Give the broker's one queue to boxes that are free."""
        while self._pulled and self._free:
            box = self._free[-1]
            if not box.lives or not box.free:
                self._free.pop()
                continue
            box.queue.append(self._pulled.popleft())
            self._work(box)

    def _count_members(self) -> None:
        self._members = [box for box in self._boxes if box.is_member]
        living = [box for box in self._boxes if box.lives]
        self._last = max(living, key=lambda box: (box.speed, box.name), default=None)

    def _work(self, box: Box) -> None:
        while box.lives and box.free and box.queue:
            request = box.queue.popleft()
            if self._is_known(request, box):
                continue
            box.free -= 1
            box.running[request] = None
            begun, run = self._now, box.run
            self._at(request.service / box.speed, lambda r=request, b=begun, n=run: self._answer(box, r, b, n))

    def _is_known(self, request: Request, box: Box) -> bool:
        """Whether this box needs not work on it: it does so already, or the answer is in a journal that it reads."""
        is_recorded = request.answered is not None and self._scenario.shared_journal
        return is_recorded or box.name in request.answered_by or request in box.running

    def _answer(self, box: Box, request: Request, begun: float, run: int) -> None:
        if run != box.run:
            return
        box.free += 1
        box.running.pop(request, None)
        request.answered_by.append(box.name)
        if request.answered is None:
            request.started, request.answered = begun, self._now
            self._answers[box.name] += 1
            before = self._last_box.get(request.session)
            self._followers += before is not None
            self._breaks += before not in {None, box.name}
            self._last_box[request.session] = box.name
        self._work(box)
        if self._strategy == "pull":
            self._free.append(box)
            self._pull()

    def _plan_death(self, box: Box) -> None:
        if rate := self._scenario.deaths_per_hour / 3600:
            self._at(self._random.expovariate(rate), lambda: self._die_by_chance(box))

    def _die_by_chance(self, box: Box) -> None:
        if self._now <= self._scenario.seconds:
            self._die(box, self._scenario.down)
            self._at(self._scenario.down, lambda: self._plan_death(box))

    def _die(self, box: Box, down: float) -> None:
        if not box.lives:
            return
        box.lives = False
        box.run += 1
        self._count_members()
        if self._strategy == "pull":  # what was not acknowledged goes to others
            self._pulled.extendleft(reversed([*box.running, *box.queue]))
            box.running.clear()
            box.queue.clear()
            self._pull()
        if self._scenario.expiry < down:
            self._at(self._scenario.expiry, lambda: self._expire(box))
        self._at(down, lambda: self._return(box))

    def _expire(self, box: Box) -> None:
        """The broker's session of it ends, and with it what it had."""
        box.is_member = False
        box.queue.clear()
        box.running.clear()
        self._count_members()

    def _return(self, box: Box) -> None:
        box.queue.extendleft(reversed(box.running))  # kept by the broker, or empty
        box.running.clear()
        box.lives = box.is_member = box.takes = True
        box.pauses_from = self._now + _HANDOVER_S
        box.free = self._scenario.slots
        self._count_members()
        self._work(box)
        if self._strategy == "pull":
            self._free.append(box)
            self._pull()


def shard(session: int, number: int) -> int:
    """Which of `number` shards; as `edged.contract.topics.shard_of`."""
    return zlib.crc32(str(session).encode()) % number


def report(outcome: Outcome) -> str:
    """One line of figures."""

    def at(values: Sequence[float], percent: int) -> float:
        ranked = sorted(values)
        return ranked[max(0, -(-percent * len(ranked) // 100) - 1)] if ranked else float("nan")

    mean = statistics.fmean(outcome.waits) if outcome.waits else float("nan")
    waits = "  ".join(f"p{percent} {at(outcome.waits, percent):7.2f}" for percent in (50, 95, 99))
    broken = outcome.breaks / outcome.followers if outcome.followers else 0.0
    lost = outcome.lost / outcome.requests if outcome.requests else 0.0
    return f"wait s: mean {mean:7.2f}  {waits}   lost {lost:7.3%}   turns on another box {broken:6.1%}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=4)
    parser.add_argument(
        "--slow", type=float, default=0.0, metavar="SHARE", help="of the boxes, at a third of the speed"
    )
    parser.add_argument("--slots", type=int, default=8, help="requests side by side in a box (engine.max_batch)")
    parser.add_argument("--service", type=float, nargs="+", default=[0.8], metavar="S", help="seconds of a request")
    parser.add_argument("--rate", type=float, help="requests per second; or --load")
    parser.add_argument("--load", type=float, default=0.7, help="share of what all boxes can do (%(default)s)")
    parser.add_argument(
        "--bursts", type=float, default=1.0, metavar="N", help="requests that come at once, in the mean"
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--deaths-per-hour", type=float, default=0.0, help="of each box")
    parser.add_argument("--down", type=float, default=60.0, metavar="S", help="until a dead box is back")
    parser.add_argument("--expiry", type=float, default=30.0, metavar="S", help="mqtt.session_expiry")
    parser.add_argument("--retry", type=float, metavar="S", help="clients ask again after so long")
    parser.add_argument("--own-journals", action="store_true", help="a box does not know what others have answered")
    parser.add_argument("--strategy", choices=[*STRATEGIES], default="round_robin")
    parser.add_argument("--all", action="store_true", help="every strategy")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    slow = round(options.boxes * options.slow)
    speeds = [1 / 3] * slow + [1.0] * (options.boxes - slow)
    able = sum(speeds) * options.slots / statistics.fmean(options.service)
    rate = options.rate or options.load * able
    scenario = Scenario(
        speeds=speeds,
        slots=options.slots,
        service=options.service,
        rate=rate,
        burst=options.bursts,
        seconds=options.seconds,
        deaths_per_hour=options.deaths_per_hour,
        down=options.down,
        expiry=options.expiry,
        retry=options.retry,
        shared_journal=not options.own_journals,
    )
    print(f"{options.boxes} boxes, {rate:.1f} requests/s of {able:.1f}")
    for name in STRATEGIES if options.all else [options.strategy]:
        print(f"{name:12} {report(Simulation(scenario, name, seed=options.seed).run())}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
