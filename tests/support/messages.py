"""Hypothesis strategies for any MQTT message below `in/`: what a device may send by mistake or with bad intent."""

import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from edged.ports.link import Message

_JSON_TYPE = "application/json"

_VALUES: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = (
    "text",
    "id",
    "session",
    "stream",
    "reply_to",
    "deadline_ms",
    "params",
    "history",
    "turn",
    "attempt",
    "max_bytes",
    "compact",
    "priority",
    "other",
)
_BODIES = st.dictionaries(st.sampled_from(KEYS), _VALUES, max_size=5)
_GOODISH = st.fixed_dictionaries({"text": st.text(min_size=1)}, optional=dict.fromkeys(KEYS[1:], _VALUES))
_PAYLOADS = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    (_BODIES | _GOODISH).map(lambda body: json.dumps(body).encode()),
    (_BODIES | _GOODISH).map(lambda body: json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")[:-1]),
)
_MQTT_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
# What a broker lets through: no wildcards in names of topics, no control characters.
_NAME = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"], exclude_characters="+#"), max_size=30)


def messages(*, as_a_broker_lets_through: bool = False) -> SearchStrategy[Message]:
    """Messages with any payload, in any of the topics below `in/`, with any properties."""
    name = _NAME if as_a_broker_lets_through else _MQTT_TEXT
    wild = st.nothing() if as_a_broker_lets_through else st.just("a/#")
    reply = (
        st.none() | name.filter(bool) | name.map("edged/".__add__) | st.sampled_from(["edged/x/in/a", "$SYS"]) | wild
    )
    return st.builds(
        Message,
        topic=(name | st.sampled_from(["message", "sentiment/s", "reply/"])).map("edged/box/in/".__add__)
        | st.just("edged/box/in"),
        payload=_PAYLOADS,
        qos=st.integers(0, 2),
        retain=st.just(False) | st.booleans(),
        response_topic=reply,
        correlation_data=st.none() | st.binary(max_size=70),
        content_type=st.none() | st.sampled_from(["text/plain", _JSON_TYPE]) | name,
        expiry_s=st.none() | st.integers(0, 2**32 - 1),
    )
