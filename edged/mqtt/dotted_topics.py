"""Topics with dots on a broker that writes each dot as a slash, as RabbitMQ does. Pure.

RabbitMQ keeps MQTT topics as AMQP routing keys, in which a dot separates the levels. A message to `edged/box.lan/in/x`
reaches the subscription `edged/box.lan/in/#`, but its topic is then `edged/box/lan/in/x`.
"""

from collections.abc import Sequence

from edged.contract.topics import topic_matches


def as_subscribed(topic: str, filters: Sequence[str]) -> str:
    """Give `topic` as our subscription has it.

    A topic that one of `filters` covers is left as it is. Else the first filter that covers it with dots for slashes
    gives the levels that it names; of those that a wildcard covers, nobody knows where dots were.
    """
    if any(topic_matches(each, topic) for each in filters):
        return topic
    for each in filters:
        with_slashes = each.replace(".", "/")
        if with_slashes != each and topic_matches(with_slashes, topic):
            return _with_dots(topic, each)
    return topic


def _with_dots(topic: str, topic_filter: str) -> str:
    levels = topic.split("/")
    restored: list[str] = []
    for want in topic_filter.split("/"):
        if want == "#":
            break
        taken = 1 + want.count(".")
        restored.append(levels[0] if want == "+" else want)
        del levels[:taken]
    return "/".join(restored + levels)
