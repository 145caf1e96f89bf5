"""What is handed over: QoS 1 up to the receive maximum and until the drain, QoS 0 always."""

from edged.mqtt.delivery import Inbox
from edged.ports.link import Delivery, Message, Ticket


def arrive(inbox: Inbox, *packet_ids: int, qos: int = 1) -> list[int]:
    """The payloads of what is handed over when these arrive."""
    handed: list[Delivery] = []
    for packet_id in packet_ids:
        message = Message(topic="t", payload=b"%d" % packet_id, qos=qos)
        inbox.arrived(message, packet_id=packet_id, redelivered=False, now=1.0)
        handed += inbox.release()
    return numbers(handed)


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int(each.message.payload) for each in deliveries]


def handed_over(inbox: Inbox, packet_id: int) -> Ticket:
    """The ticket of a delivery that arrives and is handed over."""
    message = Message(topic="t", payload=b"%d" % packet_id, qos=1)
    delivery = inbox.arrived(message, packet_id=packet_id, redelivered=False, now=1.0)
    assert inbox.release() == [delivery]
    assert delivery.ticket is not None
    return delivery.ticket


def test_what_is_over_the_receive_maximum_waits_for_an_ack() -> None:
    inbox = Inbox(receive_maximum=2)
    first = handed_over(inbox, 1)
    assert arrive(inbox, 2, 3, 4) == [2]
    assert inbox.unacked == 4
    assert inbox.settle(first) == [1]
    assert numbers(inbox.release()) == [3]


def test_qos_0_never_waits() -> None:
    inbox = Inbox(receive_maximum=1)
    assert arrive(inbox, 1, 2) == [1]
    assert arrive(inbox, 3, qos=0) == [3]
    inbox.draining = True
    assert arrive(inbox, 4, qos=0) == [4]


def test_a_drain_holds_what_the_broker_keeps() -> None:
    inbox = Inbox(receive_maximum=10)
    inbox.draining = True
    assert arrive(inbox, 1, 2) == []
    assert inbox.unacked == 2


def test_what_was_held_is_forgotten_with_its_connection() -> None:
    inbox = Inbox(receive_maximum=1)
    old = handed_over(inbox, 1)
    arrive(inbox, 2)
    inbox.reset()
    assert inbox.unacked == 0
    assert inbox.release() == []
    assert inbox.settle(old) == []
    assert arrive(inbox, 2) == [2]


def test_what_is_skipped_is_acked_in_its_turn() -> None:
    inbox = Inbox(receive_maximum=10)
    first = handed_over(inbox, 1)
    assert inbox.skip(2) == []
    assert inbox.settle(first) == [1, 2]
    assert inbox.skip(3) == [3]
