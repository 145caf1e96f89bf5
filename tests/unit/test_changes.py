"""Which settings a running daemon can change, and how the link subscribes again."""

from typing import Any

from edged.mqtt.events import Accepted
from edged.mqtt.limits import Limits
from edged.mqtt.subscriptions import Filters, Subscriptions
from edged.settings.changes import LIVE, changes
from edged.settings.schema import Settings
from edged.settings.text import names

ROUTE = {"subscribe": "a/+", "task": "sentiment", "publish": "b"}


def settings(**given: Any) -> Settings:
    return Settings.model_validate({"node": "box"} | given)


def test_every_live_setting_exists() -> None:
    assert {*names()} >= LIVE


def test_what_can_be_changed_is_and_the_rest_is_named() -> None:
    new = settings(
        language="zh",
        limits={"text_chars": 7},
        log={"level": "debug", "format": "json"},
        mqtt={"reply_topics": ["x/#"], "host": "elsewhere"},
        routes={"r": ROUTE},
        tasks={"t": {"kind": "generate", "system": "x"}},
    )
    found = changes(settings(), new)
    assert set(found.changed) == {
        "language",
        "limits.text_chars",
        "log.level",
        "mqtt.reply_topics",
        "routes.r",
        "tasks.t",
    }
    assert set(found.restart_required) == {"log.format", "mqtt.host"}
    assert found.settings.mqtt.host == "localhost"
    assert (found.settings.log.level, found.settings.log.format) == ("debug", "auto")
    again = changes(found.settings, new)
    assert not again.changed
    assert set(again.restart_required) == set(found.restart_required)


def test_the_order_of_routes_counts() -> None:
    one, other = ROUTE, ROUTE | {"task": "reply"}
    found = changes(settings(routes={"one": one, "other": other}), settings(routes={"other": other, "one": one}))
    assert found.changed == ("routes",)
    assert [*found.settings.routes] == ["other", "one"]


class Wire:
    def __init__(self) -> None:
        self.done: list[tuple[str, tuple[str, ...]]] = []

    def subscribe(self, filters: Any, *, at_qos_0: Any) -> None:
        self.done.append(("subscribe", tuple(f"{each}:{int(each not in at_qos_0)}" for each in filters)))

    def unsubscribe(self, filters: Any) -> None:
        self.done.append(("unsubscribe", tuple(filters)))


def test_the_link_subscribes_to_what_is_new_and_ends_what_is_not_wanted() -> None:
    subscriptions, wire = Subscriptions(Filters(own=("own",)), clock=lambda: 0.0), Wire()
    subscriptions.listen(("a", "b"), at_qos_0=("b",))
    subscriptions.connected(wire, Accepted(session_present=False, limits=Limits(), has_shared=True))
    subscriptions.listen(("b", "c", "a"), at_qos_0=())
    subscriptions.listen(("c",), at_qos_0=())
    subscriptions.disconnected()
    subscriptions.connected(wire, Accepted(session_present=True, limits=Limits(), has_shared=True))
    assert wire.done == [
        ("subscribe", ("own:1", "a:1", "b:0")),
        ("subscribe", ("b:1", "c:1")),
        ("unsubscribe", ("b", "a")),
        ("subscribe", ("own:1", "c:1")),
    ]
