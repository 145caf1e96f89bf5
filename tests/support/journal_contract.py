"""What every `ports.Journal` does: the one in memory, the one on disk and the one that boxes share."""

from typing import Any

from edged.ports.journal import Entry, Journal, Recorded
from edged.tasks.calibration import Observation
from edged.tasks.conversation import Turn

NOON = 1_800_000_000.0  # of a day in 2027, as seconds since the epoch


def said(*contents: str) -> tuple[Turn, ...]:
    return tuple(Turn(role="assistant" if i % 2 else "user", content=content) for i, content in enumerate(contents))


def entry(request_id: str = "1", **fields: Any) -> Entry:
    known: dict[str, Any] = {
        "fingerprint": "f",
        "packet_id": None,
        "payload": request_id.encode(),
        "session": None,
        "turns": (),
        "at": NOON,
    }
    return Entry(request_id=request_id, **(known | fields))


class JournalContract:
    """Tests of a fixture `journal`."""

    def test_an_answer_is_found_by_the_request_and_no_other(self, journal: Journal) -> None:
        journal.record([entry("1"), entry("2", payload=b"\x00\xff")])
        assert journal.find("1", "f") == Recorded(request_id="1", payload=b"1")
        assert journal.find("2", "f") == Recorded(request_id="2", payload=b"\x00\xff")
        assert journal.find("1", "another question") is None
        assert journal.find("3", "f") is None

    def test_the_first_answer_stays(self, journal: Journal) -> None:
        first = entry("1", session="s", turns=said("a", "b"))
        again = entry("1", session="s", payload=b"other", turns=said("c", "d"))
        stands = Recorded(request_id="1", payload=b"1")
        assert journal.record([first, again, entry("2")]) == [stands, stands, Recorded(request_id="2", payload=b"2")]
        assert journal.record([again]) == [stands]
        assert journal.find("1", "f") == Recorded(request_id="1", payload=b"1")
        assert journal.turns("s") == said("a", "b")

    def test_observations_are_kept_with_their_answers_and_once(self, journal: Journal) -> None:
        seen = [Observation(judge="j", scores=(0.25, -0.25)), Observation(judge="k", scores=(0.5, -0.5, 0.0))]
        assert journal.observations() == ()
        journal.record([entry("1", observations=(seen[0],), session="s", turns=said("a", "b")), entry("2")])
        journal.record([entry("1", observations=(seen[0],)), entry("3", observations=(seen[1],))])
        assert journal.observations() == tuple(seen)
        journal.forget("s")
        assert journal.observations() == tuple(seen)  # they hold nobody's words

    def test_turns_are_each_sessions_own_and_oldest_first(self, journal: Journal) -> None:
        journal.record([entry("1", session="s", turns=said("a", "b")), entry("2", session="t", turns=said("x"))])
        journal.record([entry("3", session="s", turns=said("c", "好 😄")), entry("4", turns=said("nobody's"))])
        assert journal.turns("s") == said("a", "b", "c", "好 😄")
        assert journal.turns("t") == said("x")
        assert journal.turns("u") == ()

    def test_a_delivery_is_found_until_it_is_settled_and_its_request_after(self, journal: Journal) -> None:
        journal.record([entry("1", packet_id=7), entry("2", packet_id=8), entry("3")])
        assert journal.find_unsettled(7, "f") == Recorded(request_id="1", payload=b"1")
        assert journal.find_unsettled(7, "g") is None
        journal.settled([("1", "f"), ("unknown", "f")])
        assert journal.find_unsettled(7, "f") is None
        assert journal.find_unsettled(8, "f") == Recorded(request_id="2", payload=b"2")
        assert journal.find("1", "f") is not None

    def test_a_packet_id_may_be_used_again(self, journal: Journal) -> None:
        journal.record([entry("1", packet_id=7)])
        journal.settled([("1", "f")])
        journal.record([entry("2", packet_id=7)])
        assert journal.find_unsettled(7, "f") == Recorded(request_id="2", payload=b"2")

    def test_to_forget_takes_the_turns_and_the_answers_of_one_session(self, journal: Journal) -> None:
        journal.record([entry("1", session="s", turns=said("a", "b"), packet_id=1), entry("2", session="s")])
        journal.record([entry("3", session="t", turns=said("x")), entry("4")])
        assert journal.forget("s") == 2
        assert journal.forget("s") == 0
        assert journal.turns("s") == ()
        assert journal.find("1", "f") is journal.find("2", "f") is journal.find_unsettled(1, "f") is None
        assert journal.turns("t") == said("x")
        assert journal.find("3", "f") is not None
        assert journal.find("4", "f") is not None

    def test_a_forgotten_request_may_come_again(self, journal: Journal) -> None:
        journal.record([entry("1", session="s", turns=said("a"), packet_id=3)])
        journal.settled([("1", "f")])
        journal.forget("s")
        journal.record([entry("1", session="s", turns=said("b"), packet_id=3)])
        assert journal.turns("s") == said("b")
        assert journal.find_unsettled(3, "f") is not None

    def test_nothing_to_do_is_no_fault(self, journal: Journal) -> None:
        journal.record([])
        journal.settled([])
        assert journal.forget("nobody") == 0
