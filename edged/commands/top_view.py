"""The view of `edged top`: a table of the daemons of a broker. Reads what they publish, sends them nothing."""

import contextlib
import json
import os
import queue
import select
import signal
import sys
import termios
import threading
import time
import tty
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edged import progress
from edged.client import wait_connected
from edged.contract.status import State
from edged.mqtt.faults import address_of
from edged.mqtt.link import Link
from edged.ports.link import Delivery, LinkState
from edged.settings.schema import Settings

_REFRESH_S = 0.5
_QUIT = {"q", "Q"}
_KEYS = Text("q: quit", style="dim")
_SETTLE_S = 0.5  # without a message: then all retained messages have come
_OVERDUE_S = 100.0  # three reports at the default interval, and some
_COLOURS = {
    State.READY: "green",
    State.DEGRADED: "yellow",
    State.LOADING: "blue",
    State.DRAINING: "blue",
    State.STOPPED: "dim",
    State.OFFLINE: "red",
}
_GONE = {State.STOPPED, State.OFFLINE}

Report = Mapping[str, Any]


@dataclass(slots=True)
class Node:
    """The last reports of a daemon.

    Attributes:
        heard: monotonic seconds of the last report; None while only retained ones came.
        rate: answered requests per second between the last two reports.
    """

    status: Report = field(default_factory=dict)
    health: Report = field(default_factory=dict)
    heard: float | None = None
    rate: float | None = None

    @property
    def state(self) -> str:
        return str(self.status.get("state", self.health.get("state", "unknown")))

    def report(self, health: Report, now: float, *, retained: bool) -> None:
        """Store a report."""
        if not retained and self.heard is not None and health.get("boot_id") == self.health.get("boot_id"):
            answered = _at(health, "requests.answered") or 0
            self.rate = (answered - (_at(self.health, "requests.answered") or 0)) / max(now - self.heard, 0.1)
        self.health = health
        self.heard = self.heard if retained else now


def render(nodes: Mapping[str, Node], *, now: float, where: str) -> RenderableType:
    """A table with a row for each node, and under it what is wrong."""
    well = sum(node.state == State.READY for node in nodes.values())
    # 80 columns are enough for all of it.
    table = Table(
        title=f"{where}  {well} of {len(nodes)} ready", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("node", no_wrap=True, min_width=8, max_width=40)
    table.add_column("state", no_wrap=True)
    for name in ("up", "req/s", "p50", "p95", "tok/s", "queue", "memory", "°C", "report"):
        table.add_column(name, justify="right", no_wrap=True)
    remarks = Text()
    for name, node in sorted(nodes.items()):
        lives = node.state not in _GONE
        is_overdue = lives and node.heard is not None and now - node.heard > _OVERDUE_S
        colour = _COLOURS.get(State(node.state), "") if node.state in [*State] else ""
        table.add_row(
            # Names come from other clients, so markup in them is shown as text.
            Text(name),
            Text(node.state, style=colour),
            *(_figures(node) if lives else ["–"] * 8),
            Text("kept" if node.heard is None else _span(now - node.heard), style="red" if is_overdue else ""),
        )
        group = node.health.get("group")
        if lives and isinstance(group, Mapping) and not group.get("takes", True):
            remarks.append(f"{name}: has enough, and leaves the work of {group.get('name')} to others\n", style="dim")
        for reason in node.status.get("reasons") or ():
            remarks.append(f"{name}: {reason}\n", style="yellow")
        if errors := _at(node.health, "requests.errors"):
            told = ", ".join(f"{count} {code}" for code, count in errors.items())
            remarks.append(f"{name}: errors since its start: {told}\n", style="dim")
    if not nodes:
        remarks.append("No daemon has reported below this prefix yet (EDGED_PREFIX).", style="dim")
    return Group(table, remarks)


def run(settings: Settings, *, timeout: float, once: bool, console: Console | None = None) -> None:
    """Show the nodes below the prefix until q or Ctrl-C; with `once`, or without a terminal, only what is known now.

    Raises:
        BrokerUnavailable: there is no connection within `timeout` seconds.
    """
    console = console or Console()
    view = _View(settings.prefix)
    changes: queue.SimpleQueue[LinkState] = queue.SimpleQueue()
    link = Link(
        settings=settings.mqtt,
        client_id=f"edged-top-{uuid.uuid4().hex[:12]}",
        subscriptions=tuple(f"{settings.prefix}/+/{each}" for each in ("status", "health")),
        will=None,
        receive_maximum=1000,
        on_delivery=lambda delivery: view.hear(delivery, link.settle),
        on_change=changes.put,
        ephemeral=True,
    )
    where = address_of(settings.mqtt)

    def picture() -> RenderableType:
        fault = link.state().fault
        table = render(view.nodes(), now=time.monotonic(), where=f"{where}: {fault}" if fault else where)
        return Group(table, _KEYS) if console.is_terminal and not once else table

    link.start()
    try:
        with progress.waiting(f"connecting to the broker at {where}", lines=False):
            wait_connected(link, changes, where=where, timeout=timeout)
            view.wait_quiet(_SETTLE_S)
        if once or not console.is_terminal:
            console.print(picture())
            return
        # An event, not KeyboardInterrupt: that may come while the screen is being taken or given back.
        asked_to_stop = threading.Event()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: asked_to_stop.set())
        with (
            _keys() as key_pressed,
            Live(get_renderable=picture, console=console, screen=True, refresh_per_second=1 / _REFRESH_S),
        ):
            while not asked_to_stop.is_set() and key_pressed(_REFRESH_S) not in _QUIT:
                pass
    finally:
        link.stop(None, 1.0)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Read single keys; gives a function that waits so many seconds for a key, and returns "" if none was pressed."""
    descriptor = sys.stdin.fileno()
    is_open = sys.stdin.isatty()
    before = termios.tcgetattr(descriptor) if is_open else None

    def key_pressed(seconds: float) -> str:
        nonlocal is_open
        if not is_open:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([descriptor], [], [], seconds)
        if not ready:
            return ""
        key = os.read(descriptor, 1)
        is_open = bool(key)
        return key.decode("ascii", "replace")

    if before is None:
        yield key_pressed
        return
    tty.setcbreak(descriptor)  # Ctrl-C stays a signal
    try:
        yield key_pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class _View:
    """The nodes, written by the network thread."""

    def __init__(self, prefix: str) -> None:
        self._head = f"{prefix}/"
        self._nodes: dict[str, Node] = {}
        self._lock = threading.Lock()
        self._heard = threading.Event()

    def hear(self, delivery: Delivery, settle: Callable[[Any], None]) -> None:
        if delivery.ticket is not None:
            settle(delivery.ticket)
        message = delivery.message
        name, _, kind = message.topic.removeprefix(self._head).partition("/")
        with self._lock:
            if kind == "status" and not message.payload:
                self._nodes.pop(name, None)
                return
            try:
                body = json.loads(message.payload)
            except (ValueError, RecursionError):
                return
            if not isinstance(body, dict):
                return
            node = self._nodes.setdefault(name, Node())
            if kind == "status":
                node.status = body
            else:
                node.report(body, time.monotonic(), retained=message.retain)
        self._heard.set()

    def nodes(self) -> dict[str, Node]:
        with self._lock:
            return dict(self._nodes)

    def wait_quiet(self, seconds: float) -> None:
        """Wait until no message has come for so long; ends after a while even if messages keep coming."""
        deadline = time.monotonic() + 10 * seconds
        while self._heard.wait(seconds) and time.monotonic() < deadline:
            self._heard.clear()


def _figures(node: Node) -> list[str]:
    health = node.health
    memory = _at(health, "system.memory_rss_mb")
    return [
        _span(_at(health, "uptime_s")),
        _number(node.rate, 1),
        _milliseconds(_at(health, "latency_ms.total.p50")),
        _milliseconds(_at(health, "latency_ms.total.p95")),
        _number(_at(health, "tokens.completion_per_s"), 1),
        _number(_at(health, "queue.depth")),
        "–" if memory is None else f"{memory:.0f}MB",
        _number(_at(health, "system.temperature_c")),
    ]


def _at(report: Report, path: str) -> Any:
    """The value in a report at a dotted path; None if the report has no such value."""
    value: Any = report
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _number(value: Any, digits: int = 0) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"


def _milliseconds(value: Any) -> str:
    if not isinstance(value, int | float):
        return "–"
    return f"{value / 1000:.1f}s" if value >= 1000 else f"{value:.0f}ms"


def _span(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return "–"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"
