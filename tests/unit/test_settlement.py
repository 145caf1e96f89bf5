"""Acks leave in order of arrival, on the connection of their delivery, and all of them do in the end."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edged.mqtt.delivery import Settlement
from edged.ports.link import Ticket


@pytest.mark.parametrize(
    ("order", "acks"),
    [
        ([0, 1, 2], [[10], [11], [12]]),
        ([2, 1, 0], [[], [], [10, 11, 12]]),
        ([1, 0, 2], [[], [10, 11], [12]]),
        ([0, 0, 1], [[10], [], [11]]),  # twice is once
        ([1, 1, 0], [[], [], [10, 11]]),
    ],
)
def test_acks_leave_in_the_order_of_arrival(order: list[int], acks: list[list[int]]) -> None:
    settlement = Settlement()
    tickets = [settlement.arrived(packet_id) for packet_id in (10, 11, 12)]
    assert [settlement.settle(tickets[index]) for index in order] == acks


def test_a_ticket_of_an_earlier_connection_is_void() -> None:
    settlement = Settlement()
    settlement.connected()
    old = settlement.arrived(10)
    settlement.connected()
    new = settlement.arrived(10)  # the broker gives the same id to another message
    assert settlement.settle(old) == []
    assert settlement.unacked == 1
    assert settlement.settle(new) == [10]


def test_a_ticket_that_was_never_given_is_void() -> None:
    settlement = Settlement()
    settlement.arrived(10)
    assert settlement.settle(Ticket(epoch=settlement.epoch, number=99, packet_id=10)) == []


class SettlementMachine(RuleBasedStateMachine):
    """Against a model that keeps the whole history: arrivals of the epoch, what was settled, what was acked."""

    def __init__(self) -> None:
        super().__init__()
        self.settlement = Settlement()
        self.ever: list[Ticket] = []
        self.arrived: list[Ticket] = []
        self.settled: set[Ticket] = set()
        self.acked: list[int] = []

    @rule()
    def connect(self) -> None:
        before = self.settlement.epoch
        assert self.settlement.connected() > before
        self.arrived, self.settled, self.acked = [], set(), []

    @rule(packet_id=st.integers(1, 3))  # few, so that ids come again
    def arrive(self, packet_id: int) -> None:
        ticket = self.settlement.arrived(packet_id)
        assert ticket not in self.ever
        self.ever.append(ticket)
        self.arrived.append(ticket)

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        if not self.ever:
            return
        ticket = data.draw(st.sampled_from(self.ever))
        acks = self.settlement.settle(ticket)
        assert not acks or ticket in self.arrived, "a void ticket acks nothing"
        self.acked += acks
        if ticket in self.arrived:
            self.settled.add(ticket)

    @invariant()
    def acks_are_the_settled_prefix_of_the_arrivals(self) -> None:
        prefix = []
        for ticket in self.arrived:
            if ticket not in self.settled:
                break
            prefix.append(ticket.packet_id)
        assert self.acked == prefix

    @invariant()
    def the_rest_is_unacked(self) -> None:
        assert self.settlement.unacked == len(self.arrived) - len(self.acked)


TestSettlementMachine = SettlementMachine.TestCase
