"""A box's membership in a group: tests the broker, listens to the other boxes, and subscribes to the group's work or
not.

The decisions are made in `policy`.
"""

import json
import queue
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from edged.contract.topics import MemberRoute, ProbeRoute, Topics
from edged.errors import BrokerUnavailable
from edged.fleet.policy import Group
from edged.ports.link import Link, Publication
from edged.ports.worker import WorkerState
from edged.settings.schema import Settings

log = structlog.get_logger(__name__)

_SILENT_REPORTS = 3  # missing health reports of another box, after which this box does not rely on it
_PROBE_S = 2.0  # between two probes
_NOTE_S = 60.0  # between two writes of a number that changes all the time
_GREET_S = 1.0  # between two greetings: many may come at once
_PROBE_TIMEOUT_S = 20.0  # of connection without a probe that came back


def nothing_shared(topics: Topics) -> BrokerUnavailable:
    """Say in words why there can be no group: a message to a shared subscription does not come back."""
    return BrokerUnavailable(
        f"the broker delivers nothing by shared subscriptions, or its access list forbids {topics.probe} to this user: "
        "a group (mqtt.share_group) needs a broker that has them, as mosquitto, EMQX, HiveMQ and VerneMQ do"
    )


def join(
    settings: Settings,
    topics: Topics,
    *,
    link: Link,
    worker: Callable[[], WorkerState],
    is_well: Callable[[], bool],
    note: Callable[[int], None],
    clock: Callable[[], float],
) -> "Membership | None":
    """Make the membership in the group of the settings; None if there is no group."""
    if topics.group is None:
        return None
    group = Group(
        topics.group,
        node=topics.node,
        shards=topics.shards,
        batch=settings.engine.max_batch,
        capacity=settings.queue_capacity,
        silence_s=_SILENT_REPORTS * settings.health.interval,
    )
    return Membership(group, topics=topics, link=link, worker=worker, is_well=is_well, note=note, clock=clock)


class Membership:
    """The membership of this box. For the main thread; only `hear` is called in the link's thread."""

    def __init__(
        self,
        group: Group,
        *,
        topics: Topics,
        link: Link,
        worker: Callable[[], WorkerState],
        is_well: Callable[[], bool],
        note: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float],
    ) -> None:
        """Assign; `start` takes work.

        `is_well` tells whether this box can answer; `note` keeps for the next process, which hands it to `recall`, how
        many requests the broker may have at this box without an ack; `clock` gives monotonic seconds.
        """
        self._group = group
        self._topics = topics
        self._link = link
        self._worker = worker
        self._is_well = is_well
        self._note = note
        self._noted: int | None = None
        self._noted_at = float("-inf")
        self._clock = clock
        self._heard: queue.SimpleQueue[tuple[str, Mapping[str, Any], float]] = queue.SimpleQueue()
        self._is_proven = False
        self._probed_at: float | None = None
        self._probing_for = 0.0
        self._takes = False
        self._has_newcomer = False
        self._has_namesake = False
        self._greeted_at = float("-inf")
        self._reconnects = 0

    @staticmethod
    def subscriptions(topics: Topics) -> tuple[str, ...]:
        """The filters of a member beside the work itself. Their messages are of no use later."""
        # In a share group of this box alone, so that the broker gives our probe to no other box.
        return () if topics.group is None else (f"$share/{topics.node}/{topics.probe}", *topics.members)

    def recall(self, receive_maximum: int | None) -> None:
        """Announce the number of an earlier process, until it is measured again; before the link starts."""
        if receive_maximum is not None:
            self._noted = receive_maximum
            self._group.recall(receive_maximum)
            self._link.announce(receive_maximum)

    def start(self) -> None:
        """Take work from now on."""
        self._takes = True
        self._link.share(taking=True)

    def tick(self) -> bool:
        """Decide whether to go on taking work; about once a second, once there is a model.

        Returns:
            Whether the health report must be published at once, because it has something new for the others.

        Raises:
            BrokerUnavailable: see `check_broker`.
        """
        self.check_broker()
        link = self._link.state()
        if link.reconnects != self._reconnects:
            # A box that did not come back with the broker has no last will there either.
            self._reconnects = link.reconnects
            self._group.forget()
            self._has_newcomer = True  # this box: its report says that it knows no other, and the others answer
        self._listen()
        worker, kept, had_speed = self._worker(), self._group.keeps, self._group.has_speed
        takes = self._group.decide(
            jobs=worker.jobs,
            service_s=worker.service_s,
            is_well=self._is_well(),
            now=self._clock(),
            unacked=link.unacked,
            bound=link.receive_maximum,
        )
        self._announce(self._group.receive_maximum)
        is_news = (takes, kept, had_speed) != (self._takes, self._group.keeps, self._group.has_speed)
        if is_news:
            log.info("group_share", takes=takes, keeps=self._group.keeps, jobs=worker.jobs)
        if takes != self._takes:
            self._takes = takes
            self._link.share(taking=takes)
        return self._greets() or is_news

    def _announce(self, receive_maximum: int | None) -> None:
        """Let the next CONNECT, also that of the next process, announce the number that was measured."""
        if receive_maximum is None:
            return
        self._link.announce(receive_maximum)
        if receive_maximum != self._noted and self._clock() - self._noted_at >= _NOTE_S:
            self._noted, self._noted_at = receive_maximum, self._clock()
            self._note(receive_maximum)

    def _listen(self) -> None:
        while not self._heard.empty():
            self._has_newcomer |= self._group.hear(*self._heard.get())

    def _greets(self) -> bool:
        """Whether a new box must be told of this one now, and not only with the next regular report."""
        if not self._has_newcomer or self._clock() - self._greeted_at < _GREET_S:
            return False
        self._has_newcomer = False
        self._greeted_at = self._clock()
        return True

    def is_last(self) -> bool:
        """Whether no other box is known that could take the work; then the broker must keep new work for this box."""
        self._listen()
        return self._group.is_alone

    @property
    def must_hand_over(self) -> bool:
        """Whether other boxes may rely on this one as a keeper; a new box may, even if it has not reported yet."""
        return self._group.keeps

    def check_broker(self) -> None:
        """Check that a message to a shared subscription came back; some brokers accept these subscriptions and deliver
        nothing.

        Raises:
            BrokerUnavailable: it did not come back.
        """
        if self._is_proven or self._link.state().connected_since is None:
            self._probed_at = None
            return
        now = self._clock()
        if self._probed_at is not None:
            if now - self._probed_at < _PROBE_S:
                return
            self._probing_for += now - self._probed_at
        if self._probing_for >= _PROBE_TIMEOUT_S:
            raise nothing_shared(self._topics)
        self._probed_at = now
        self._link.publish(Publication(topic=self._topics.probe, payload=b"{}"))

    def hear(self, route: ProbeRoute | MemberRoute, payload: bytes) -> None:
        """Take in our own probe that came back, or the report of another box."""
        if isinstance(route, ProbeRoute):
            if not self._is_proven:
                log.info("group_probe_returned")
            self._is_proven = True
            return
        try:
            report = json.loads(payload)
        except (ValueError, RecursionError):
            return
        if isinstance(report, dict):
            self._heard.put((route.node, report, self._clock()))
            if route.node == self._topics.group:
                self._hear_namesake(report)

    def _hear_namesake(self, report: Mapping[str, Any]) -> None:
        """Warn of a box that is named like the group: it serves the same topics, so it answers each request too."""
        is_there = report.get("state") in {"ready", "degraded"}
        if is_there and not self._has_namesake:
            words = (
                f"a box is named {self._topics.group}, as this group is, and answers each of its requests too; "
                "give that box another EDGED_NODE, or the group another EDGED_MQTT__SHARE_GROUP"
            )
            log.warning("group_namesake", reason=words)
        self._has_namesake = is_there

    def snapshot(self) -> dict[str, Any]:
        """The figures of the group for `R/health`, ready to be written as JSON."""
        told = self._link.state().receive_maximum
        return self._group.snapshot() | ({} if told is None else {"receive_maximum": told})
