"""What a broker can do, seen by trying: part of `edged check`. Leaves nothing at the broker.

What it tries stays below our own reply topic. What the user may not do there is not seen, and nothing is said of it.
"""

import contextlib
import queue
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from edged.build import topics_of
from edged.client import wait_connected
from edged.mqtt.faults import address_of
from edged.mqtt.link import Link
from edged.ports.link import Delivery, LinkState, Publication
from edged.settings.schema import Settings

IN_FLIGHT = 32  # messages that are tried without an ack
_QUIET_S = 0.5  # nothing came for so long: nothing more will
_RETAINED_S = 2.0
_DOTTED = "a.b"


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What was seen of a broker.

    Attributes:
        in_flight: messages that it sends before the first ack; `IN_FLIGHT` if it sent all of them; None: not seen.
        lacks: what it cannot do, each in words, with what follows from it.
    """

    in_flight: int | None
    lacks: tuple[str, ...]


def features(settings: Settings, *, timeout: float, is_served: bool) -> Features:
    """Try what matters to the daemon.

    Args:
        settings: the broker, and the daemon's node.
        timeout: seconds for a connection.
        is_served: whether a daemon of this node is there, so that its status is retained.

    Raises:
        BrokerUnavailable: no connection.
    """
    name = f"edged-check-{uuid.uuid4().hex[:12]}"
    user = settings.mqtt.username
    inbox = f"{topics_of(settings).root}/reply/{f'{user}/{name}' if user else name}"
    with _link(settings, name, f"{inbox}/#", timeout) as (link, came):
        dotted = _arrives_as(f"{inbox}/{_DOTTED}", link, came)
        in_flight = None if dotted is None else _in_flight(inbox, link, came)
        lacks = list(link.state().lacks)
    if in_flight is not None and in_flight < settings.engine.max_batch:
        lacks.append(
            f"only {in_flight} messages without an ack, so no more run side by side than these, of "
            f"engine.max_batch = {settings.engine.max_batch} (at RabbitMQ raise mqtt.prefetch)"
        )
    if dotted is not None and not dotted.endswith(_DOTTED):
        lacks.append(
            "no dots in topics: they come as slashes, so use none in node names, users and sessions, where watchers "
            "and senders then see another topic"
        )
    if is_served and not _has_retained_by_wildcard(settings, timeout):
        lacks.append(
            "no retained messages to subscriptions with a wildcard, so the web page and `edged top` see a daemon only "
            "at its next report"
        )
    return Features(in_flight=in_flight, lacks=tuple(lacks))


@contextlib.contextmanager
def _link(
    settings: Settings, name: str, topic_filter: str, timeout: float
) -> Iterator[tuple[Link, "queue.SimpleQueue[Delivery]"]]:
    came: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    changes: queue.SimpleQueue[LinkState] = queue.SimpleQueue()
    link = Link(
        settings=settings.mqtt,
        client_id=name,
        subscriptions=(topic_filter,),
        will=None,
        receive_maximum=2 * IN_FLIGHT,
        on_delivery=came.put,
        on_change=changes.put,
        ephemeral=True,
    )
    link.start()
    try:
        wait_connected(link, changes, where=address_of(settings.mqtt), timeout=timeout)
        yield link, came
    finally:
        link.stop(None, 1.0)


def _arrives_as(topic: str, link: Link, came: "queue.SimpleQueue[Delivery]") -> str | None:
    """The topic with which a message to `topic` comes back; None: it does not."""
    link.publish(Publication(topic=topic, payload=b"{}", qos=1))
    delivery = _next(came, _QUIET_S)
    if delivery is None:
        return None
    if delivery.ticket is not None:
        link.settle(delivery.ticket)
    return delivery.message.topic


def _in_flight(inbox: str, link: Link, came: "queue.SimpleQueue[Delivery]") -> int:
    """How many messages come while none is acked."""
    for _ in range(IN_FLIGHT):
        link.publish(Publication(topic=f"{inbox}/flight", payload=b"{}", qos=1))
    number = 0
    while number < IN_FLIGHT and _next(came, _QUIET_S) is not None:
        number += 1
    return number


def _has_retained_by_wildcard(settings: Settings, timeout: float) -> bool:
    status = topics_of(settings).status
    name = f"edged-check-{uuid.uuid4().hex[:12]}"
    with _link(settings, name, f"{settings.prefix}/+/status", timeout) as (_, came):
        until = time.monotonic() + _RETAINED_S
        while (delivery := _next(came, until - time.monotonic())) is not None:
            if delivery.message.topic == status:
                return True
    return False


def _next(came: "queue.SimpleQueue[Delivery]", seconds: float) -> Delivery | None:
    try:
        return came.get(timeout=max(0.0, seconds))
    except queue.Empty:
        return None
