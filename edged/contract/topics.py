"""MQTT topics: the topic of each kind of message, and which topics may be published to. Pure."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from edged.contract.rules import Rule

MAX_TOPIC_BYTES = 65535  # MQTT 5, section 1.5.4: a UTF-8 string has a two-byte length
MAX_TOPIC_LEVELS = 200  # mosquitto ends the connection of a client that publishes deeper
# Wildcards, and what brokers take for malformed UTF-8: mosquitto ends the connection of a client that sends a control
# character or a non-character (MQTT 5, section 1.5.4, lets it).
_NON_CHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_UNPUBLISHABLE = re.compile(rf"[+#\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NON_CHARACTERS}]")


SPOKEN = (
    "in",
    "request",
    "response",
    "status",
    "health",
    "info",
    "log",
    "model",
    "probe",
)  # below a node: where daemons listen or report


def is_publishable(topic: str) -> bool:
    """Whether a client may publish to `topic` without losing its connection, and the topic is not the broker's own."""
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


def filters_overlap(one: str, other: str) -> bool:
    """Whether there is a topic that both filters cover."""
    left, right = one.split("/"), other.split("/")
    for i in range(max(len(left), len(right))):
        if "#" in (left[i : i + 1] + right[i : i + 1]):
            return True
        if i == len(left) or i == len(right):  # "a/#" covers "a" too
            rest = left[i:] or right[i:]
            return rest == ["#"]
        if left[i] != right[i] and "+" not in {left[i], right[i]}:
            return False
    return True


def is_filter(text: str) -> bool:
    """Whether `text` is a topic filter: '+' and '#' stand alone in a level, and '#' only in the last one."""
    levels = text.split("/")
    bad = not text or "#" in levels[:-1] or any(len(each) > 1 and ("#" in each or "+" in each) for each in levels)
    return not bad and is_publishable("/".join("x" if each in {"+", "#"} else each for each in levels))


def shard_of(session: str, shards: Sequence[str]) -> str:
    """The shard of a conversation, for clients of a sharded group: the same for everyone who asks (CRC-32)."""
    return shards[zlib.crc32(session.encode()) % len(shards)]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRoute:
    """A topic for requests for a task.

    Attributes:
        task: the task that the topic names; empty when it names none.
        session: the level or levels below the task; None when there are none.
        out: the topic where the result goes by default.
        is_shared: whether the request came by the queue of our group, from which other boxes take too.
        is_ours: whether this daemon serves the topic. It does not serve a request to another box or group: the
            broker had kept a subscription of earlier settings for our session.
    """

    task: str
    session: str | None
    out: str
    is_shared: bool
    is_ours: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlRoute:
    """A topic for commands; the answer goes to the topic `out` by default."""

    command: str
    out: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BirthRoute:
    """The topic where Home Assistant tells that it has started or ends."""

    topic: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusRoute:
    """Our own status topic: this process publishes there, its last will, or another daemon of our name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeRoute:
    """The topic where a box of a group tests whether the broker delivers to shared subscriptions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberRoute:
    """The topic of status or health of the box `node`, read by the boxes of a group."""

    node: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StrayRoute:
    """A topic that this daemon does not serve: the broker had kept a subscription of earlier settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleRoute:
    """Routes of the settings subscribe to the topic; the first of `rules` whose conditions hold takes the message."""

    rules: tuple[Rule, ...]


AskedRoute = TaskRoute | ControlRoute | RuleRoute  # each is answered once; all others are read and settled
Route = AskedRoute | BirthRoute | StatusRoute | ProbeRoute | MemberRoute | StrayRoute


@dataclass(frozen=True, kw_only=True, slots=True)
class Topics:
    """All topics of a daemon: its own below `{prefix}/{node}`, and its group's below `{prefix}/{group}`.

    Attributes:
        group: the group whose work queue this box shares; None: it works alone.
        shards: which parts of a sharded queue it takes from; empty: the queue has none.
        births: the topics where Home Assistant tells that it has started; empty: nothing listens to it.
        rules: the routes of the settings.
    """

    prefix: str
    node: str
    group: str | None = None
    shards: tuple[str, ...] = ()
    births: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()

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
        """Where a box sends itself a message, to see whether the broker delivers to shared subscriptions."""
        return f"{self.root}/probe"

    @property
    def members(self) -> tuple[str, ...]:
        """The filters of what the boxes of all groups report of themselves."""
        return () if self.group is None else (f"{self.prefix}/+/status", f"{self.prefix}/+/health")

    @property
    def requests(self) -> str:
        """The filter of all task requests."""
        return f"{self.root}/in/#"

    @property
    def controls(self) -> str:
        """The filter of all control requests. Commands have one level; a deeper topic is answered with an error."""
        return f"{self.root}/request/#"

    @property
    def status(self) -> str:
        return f"{self.root}/status"

    @property
    def health(self) -> str:
        return f"{self.root}/health"

    @property
    def info(self) -> str:
        return f"{self.root}/info"

    @property
    def model(self) -> str:
        """Where the models of the daemon are told of."""
        return f"{self.root}/model"

    @property
    def log(self) -> str:
        """Where the daemon's log is published, if the settings say so."""
        return f"{self.root}/log"

    def route(self, topic: str) -> Route:
        """The kind of message that this topic carries. Called once for each message, when it comes in."""
        name, kind, tail = self._parts(topic)
        if kind == "in":
            return self._task_route(name, tail)
        if kind == "request" and name == self.node:
            out = self.response(tail) if tail else f"{self.root}/response"
            return ControlRoute(command=tail or "", out=out if is_publishable(out) else f"{self.root}/response")
        if topic in self.births:
            return BirthRoute(topic=topic)
        if topic == self.status:
            return StatusRoute()
        if topic == self.probe:
            return ProbeRoute()
        if any(topic_matches(each, topic) for each in self.members):
            return MemberRoute(node=name)
        rules = tuple(rule for rule in self.rules if any(topic_matches(each, topic) for each in rule.filters))
        return RuleRoute(rules=rules) if rules else StrayRoute()

    def _parts(self, topic: str) -> tuple[str, str, str | None]:
        """A topic below the prefix as the name of a box or group, the kind of topic, and the rest, if there is one."""
        head = f"{self.prefix}/"
        if not topic.startswith(head):
            return "", "", None
        name, _, rest = topic.removeprefix(head).partition("/")
        kind, slash, tail = rest.partition("/")
        return name, kind, tail if slash else None

    def _task_route(self, name: str, tail: str | None) -> TaskRoute:
        is_shared = name == self.group
        root = f"{self.prefix}/{name}/out"
        out = f"{root}/{tail}"
        asked = tail or ""
        if is_shared and self.shards:
            asked = asked.partition("/")[2]
        task, slash, session = asked.partition("/")
        return TaskRoute(
            task=task,
            session=session if slash else None,
            out=out if tail and is_publishable(out) else root,
            is_shared=is_shared,
            is_ours=is_shared or name == self.node,
        )

    def out(self, tail: str) -> str:
        """Where the result of a request with this tail goes by default."""
        return f"{self.root}/out/{tail}" if tail else f"{self.root}/out"

    def request(self, command: str) -> str:
        """Where a command is given."""
        return f"{self.root}/request/{command}"

    def response(self, command: str) -> str:
        """Where the answer to a control request goes by default."""
        return f"{self.root}/response/{command}"

    def speaks_for_a_daemon(self, topic: str) -> bool:
        """Whether daemons listen or report on `topic`: an answer there could loop, or look like a daemon's report."""
        head, _, rest = topic.partition(f"{self.prefix}/")
        if head or not rest:
            return False
        _, _, below_node = rest.partition("/")
        return below_node.split("/")[0] in SPOKEN

    def may_answer(self, topic: str) -> bool:
        """Whether a route of the settings may publish to `topic`: no daemon and no route of this one listens there."""
        is_heard = any(topic_matches(each, topic) for rule in self.rules for each in rule.filters)
        return is_publishable(topic) and not is_heard and not self.speaks_for_a_daemon(topic)
