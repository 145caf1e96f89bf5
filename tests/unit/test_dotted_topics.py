"""Topics with dots on a broker that delivers each dot as a slash."""

import pytest

from edged.mqtt.dotted_topics import as_subscribed

FILTERS = ("edged/box.lan/in/#", "edged/box.lan/status", "edged/+/status", "a.b/+/c.d", "plain/#")


@pytest.mark.parametrize(
    ("arrived", "named"),
    [
        ("edged/box.lan/in/message", "edged/box.lan/in/message"),
        ("edged/box/lan/in/message", "edged/box.lan/in/message"),
        ("edged/box/lan/in/message/a/b", "edged/box.lan/in/message/a/b"),
        ("edged/box/lan/in", "edged/box.lan/in"),
        ("edged/box/lan/status", "edged/box.lan/status"),
        ("edged/other/status", "edged/other/status"),
        ("a/b/x/c/d", "a.b/x/c.d"),
        ("a/b/x/c", "a/b/x/c"),
        ("plain/x/y", "plain/x/y"),
        ("nobody/asked", "nobody/asked"),
        ("", ""),
    ],
)
def test_the_levels_that_a_filter_names_get_their_dots_back(arrived: str, named: str) -> None:
    assert as_subscribed(arrived, FILTERS) == named
