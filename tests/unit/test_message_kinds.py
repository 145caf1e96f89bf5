"""The kind of a message is told by its form."""

import pytest

from edged.tasks.built_in import REPLY, SENTIMENT
from edged.tasks.message_kinds import MessageKind, kind_of
from tests.support.reply_messages import MESSAGES


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("How do I peel garlic fast?", "question"),
        ("how do i clean a cast iron pan", "question"),
        ("What\u2019s the capital of Spain?", "question"),
        ("Is it bad to drink coffee at night?", "question"),
        ("Could you tell me a story?", "question"),
        ("Is the heating on?", "unseen"),
        ("Where are my keys?", "unseen"),
        ("When does the pharmacy close?", "unseen"),
        ("Will the train be late?", "unseen"),
        ("Do you think that it will snow tomorrow?", "unseen"),
        ("Switch the fan on", "order"),
        ("can you turn it off", "order"),
        ("Water the plants.", "order"),
        ("fan off", "order"),
        ("Two teas, please.", "order"),
        ("Thanks!", "thanks"),
        ("ok thank you", "thanks"),
        ("Thank you, but the lamp is still broken.", "statement"),
        ("Thanks for nothing", "statement"),
        ("Water drips from my ceiling", "statement"),
        ("Order arrived broken", "statement"),
        ("What a nice day", "statement"),
        ("When I came home the door was open.", "statement"),
        ("temperature 21.5 C", "statement"),
        ("", "statement"),
    ],
)
def test_the_form_tells_the_kind(text: str, kind: MessageKind) -> None:
    assert kind_of(text) == kind


def test_the_messages_by_which_replies_were_chosen_are_told_apart() -> None:
    kinds = {"mood": {"statement"}, "complaint": {"statement"}, "question": {"question", "unseen"}}
    for name, texts in MESSAGES.items():
        assert {kind_of(text) for text in texts} <= kinds.get(name, {name})


def test_every_kind_but_the_statement_has_examples_and_so_have_its_feelings() -> None:
    feelings = {label.canonical for label in SENTIMENT.labels}
    assert {*REPLY.examples_of_kind["en"]} == {"question", "unseen", "order", "thanks", *feelings}


def test_a_larger_model_is_shown_no_examples_and_keeps_its_role() -> None:
    large = REPLY.for_model(494_000_000)
    assert not large.examples
    assert not large.examples_of_kind
    assert large.feeling is None
    assert (large.system, large.is_checked) == (REPLY.system, REPLY.is_checked)
    assert REPLY.for_model(135_000_000) is REPLY
