"""MQTT topics: where everything is on the broker, and which topics may be published to. Pure."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

MAX_TOPIC_BYTES = 65535  # MQTT 5, section 1.5.4: a UTF-8 string has a two-byte length
MAX_TOPIC_LEVELS = 200  # mosquitto ends the connection of a client that publishes deeper
# Wildcards, and what brokers take for malformed UTF-8: mosquitto ends the connection of a client that sends a control
# character or a non-character (MQTT 5, section 1.5.4, lets it).
_NON_CHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_UNPUBLISHABLE = re.compile(rf"[+#\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NON_CHARACTERS}]")


def is_publishable(topic: str) -> bool:
    """Whether a client may publish to `topic` without risk to its connection, and it is no topic of the broker's."""
    return (
        bool(topic)
        and not topic.startswith("$")
        and not _UNPUBLISHABLE.search(topic)
        and topic.count("/") < MAX_TOPIC_LEVELS
        and len(topic.encode()) <= MAX_TOPIC_BYTES
    )


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Whether `topic` is covered by `topic_filter` (MQTT 5, section 4.7)."""
    if topic.startswith("$") and topic_filter[:1] in {"+", "#"}:
        return False
    levels = topic.split("/")
    wanted = topic_filter.split("/")
    for i, want in enumerate(wanted):
        if want == "#":
            return True
        if i == len(levels) or want not in {"+", levels[i]}:
            return False
    return len(levels) == len(wanted)


def shard_of(session: str, shards: Sequence[str]) -> str:
    """The shard of a conversation, for clients of a sharded group: the same for everyone who asks (CRC-32)."""
    return shards[zlib.crc32(session.encode()) % len(shards)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a request came in.

    Attributes:
        tail: a task, or a task and a session: the topic below `in/` and the shard.
        out: where its result goes by default.
        is_shared: whether it came by the queue of a group, from which other boxes take too.
    """

    tail: str
    out: str
    is_shared: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Topics:
    """Where everything is on the broker: all topics below `{prefix}/{node}`, and a group's below `{prefix}/{group}`.

    Attributes:
        group: whose work queue this box shares with others; None: it works alone.
        shards: which parts of a sharded queue it takes from; empty: the queue has none.
    """

    prefix: str
    node: str
    group: str | None = None
    shards: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        return f"{self.prefix}/{self.node}"

    @property
    def group_root(self) -> str | None:
        return None if self.group is None else f"{self.prefix}/{self.group}"

    @property
    def shared(self) -> tuple[str, ...]:
        """The subscriptions to the group's queue (MQTT 5, section 4.8.2): each message goes to one member."""
        if self.group is None:
            return ()
        parts = [f"{shard}/#" for shard in self.shards] or ["#"]
        return tuple(f"$share/{self.group}/{self.group_root}/in/{part}" for part in parts)

    @property
    def probe(self) -> str:
        """Where a box asks itself whether the broker delivers by shared subscriptions."""
        return f"{self.root}/probe"

    @property
    def members(self) -> tuple[str, ...]:
        """The filters of what the boxes of all groups tell of themselves."""
        return () if self.group is None else (f"{self.prefix}/+/status", f"{self.prefix}/+/health")

    @property
    def requests(self) -> str:
        """The filter of all task requests."""
        return f"{self.root}/in/#"

    @property
    def controls(self) -> str:
        """The filter of all control requests."""
        return f"{self.root}/request/+"

    @property
    def status(self) -> str:
        return f"{self.root}/status"

    @property
    def health(self) -> str:
        return f"{self.root}/health"

    @property
    def info(self) -> str:
        return f"{self.root}/info"

    def asks(self, topic: str) -> bool:
        """Whether something is asked of this daemon there: a task or a control request."""
        return topic_matches(self.requests, topic) or self._is_shared(topic) or topic_matches(self.controls, topic)

    def asks_another(self, topic: str) -> bool:
        """Whether a task is asked for there of another box or group: the broker may have kept that for our session."""
        return topic_matches(f"{self.prefix}/+/in/#", topic) and not self.asks(topic)

    def place(self, topic: str) -> Place:
        """Read the topic of a request."""
        is_shared = self._is_shared(topic)
        name = topic.removeprefix(f"{self.prefix}/").partition("/")[0]
        root = f"{self.prefix}/{name}"
        tail = topic.removeprefix(f"{root}/in").removeprefix("/")
        out = f"{root}/out/{tail}"
        return Place(
            tail=tail.partition("/")[2] if is_shared and self.shards else tail,
            out=out if tail and is_publishable(out) else f"{root}/out",
            is_shared=is_shared,
        )

    def _is_shared(self, topic: str) -> bool:
        return self.group is not None and topic_matches(f"{self.group_root}/in/#", topic)

    def out(self, tail: str) -> str:
        """Where the result of a request with this tail goes by default."""
        return f"{self.root}/out/{tail}" if tail else f"{self.root}/out"

    def control(self, topic: str) -> str | None:
        """The command that a control topic names; None for any other topic."""
        head = f"{self.root}/request/"
        return topic.removeprefix(head) if topic.startswith(head) else None

    def response(self, command: str) -> str:
        """Where the answer to a control request goes by default."""
        return f"{self.root}/response/{command}"

    def speaks_for_a_daemon(self, topic: str) -> bool:
        """Whether `topic` is one that daemons listen to or speak on: an answer there could loop or deceive."""
        head, _, rest = topic.partition(f"{self.prefix}/")
        if head or not rest:
            return False
        _, _, below_node = rest.partition("/")
        return below_node.split("/")[0] in {"in", "request", "response", "status", "health", "info", "probe"}
