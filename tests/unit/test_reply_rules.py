"""The rules for sentences of a reply: faults are found, and good replies are left alone."""

import pytest

from edged.tasks.reply_rules import Fault, fault_of, has_rules, is_suspect

PARCEL = "The parcel came late, broken, and nobody answers my calls."


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("Dear [Your Name],", "placeholder"),
        ("Best regards, [Company Name]", "placeholder"),
        ("You can reach us at [phone number].", "placeholder"),
        ("Call [insert number] for help.", "placeholder"),
        ("Hello {name}!", "placeholder"),
        ("See [the manual](https://example.org) for more.", None),
        ("The first point [1] is true.", None),
        ("I'm sorry for your loss.", "condolence"),
        ("I am so sorry to hear about the loss of your parcel.", "condolence"),
        ("My deepest condolences to you.", "condolence"),
        ("It sounds as if your loved one is gone.", "condolence"),
        ("I am sorry that it came late.", None),
        ("That must be a sad moment for you.", None),
        ("I'll turn it off.", "claim"),
        ("I will turn the lamp off for you.", "claim"),
        ("I have sent you a new one.", "claim"),
        ("I\u2019ve already contacted the courier.", "claim"),
        ("I'm looking into it now.", "claim"),
        ("I'm going to call the plumber.", "claim"),
        ("Let me check that for you.", "claim"),
        ("We'll make sure that this does not happen again.", "claim"),
        ("I can send you a new one.", "claim"),
        ("Your order has been placed.", "claim"),
        ("Your refund is being processed.", "claim"),
        ("The bedroom lamp is now turned off.", "claim"),
        ("I'll be happy for you.", None),
        ("I'll keep my fingers crossed.", None),
        ("I will not turn it off, because I can only write.", None),
        ("I cannot send anything.", None),
        ("I can't call anybody.", None),
        ("I can only write, so please turn it off yourself.", None),
        ("I can see why you are upset.", None),
        ("I have heard good things about it.", None),
        ("I am glad that you called.", None),
        ("You can send a photo of it to the shop.", None),
        ("Please ask the shop to send a new one.", None),
        ("The parcel came late, broken, and nobody answers my calls.", "echo"),
        ("The parcel came late, broken, and nobody answers your calls!", "echo"),
        ("A parcel that came late and broken is a reason to be upset.", None),
        ("Nobody answers?", None),
    ],
)
def test_a_fault_is_found_and_nothing_else(sentence: str, fault: Fault | None) -> None:
    assert fault_of(sentence, [PARCEL]) == fault


@pytest.mark.parametrize(
    "asked",
    [
        "My dog died yesterday.",
        "We buried my grandfather.",
        "I lost my mother last spring.",
        "It is the funeral today.",
    ],
)
def test_condolences_are_right_where_somebody_died(asked: str) -> None:
    assert fault_of("I am so sorry for your loss.", [asked]) is None
    assert fault_of("I am so sorry for your loss.", [asked, "Thank you."]) is None  # an earlier turn told of it
    assert fault_of("I am so sorry for your loss.", ["I lost my wallet."]) == "condolence"


def test_a_placeholder_of_the_user_may_be_spoken_of() -> None:
    assert fault_of("Write your own name there: [Your Name].", ["What goes into [Your Name]?"]) is None


@pytest.mark.parametrize(
    ("beginning", "suspect"),
    [
        (" I ", True),
        ("I'll ", True),
        ('"Let ', True),
        ("[", True),
        ("Your ", True),
        ("I am ", True),
        ("I hope ", False),
        ("I am so happy ", False),
        ("I hope", True),
        ("It ", False),
        ("If ", False),
    ],
)
def test_the_first_words_tell_which_sentence_to_hold_back(beginning: str, suspect: bool) -> None:
    assert is_suspect(beginning) == suspect


def test_there_are_rules_in_english_only() -> None:
    assert has_rules("en")
    assert not has_rules("zh")
