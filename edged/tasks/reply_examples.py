"""What the English `reply` shows a very small model: messages and how to answer them. Only data. Pure.

A small model answers as the most similar example is answered. So all examples of a kind have nearly the same answer,
none of these promises anything, and a message is shown examples of its own kind. The kinds are those of
`message_kinds.py`, and for a statement the labels of the sentiment. Chosen by measurement with SmolLM2-135M:
deploy/MEASUREMENTS.md, "replies of the demo's model".
"""

from collections.abc import Mapping

from edged.tasks.conversation import Turn


def _turns(*pairs: tuple[str, str]) -> tuple[Turn, ...]:
    return tuple(
        turn
        for asked, answered in pairs
        for turn in (Turn(role="user", content=asked), Turn(role="assistant", content=answered))
    )


_CANNOT = "I can only write, so I cannot do that for you."
_CANNOT_SEE = "I can only write, so I cannot see that from here."
_WELCOME = "You are welcome! I am glad to hear that."
_GOOD_NEWS = "That is wonderful news! I am happy for you."
_ANNOYING = "That is really annoying. I understand that you are upset."
_HARD = "That sounds hard. I hope that it gets easier soon."

# For a conversation, and for a message whose kind is not known.
OF_ALL_KINDS = _turns(
    ("The chair I bought has a broken leg.", _ANNOYING),
    ("Thanks for the tip!", _WELCOME),
    ("How do I keep bread fresh?", "Keep it in a paper bag or in a bread box."),
    ("A ham sandwich and a juice, please.", _CANNOT),
    ("I feel lonely since I moved here.", _HARD),
    ("Is the garage closed?", _CANNOT_SEE),
    ("I love these headphones, the sound is superb.", _GOOD_NEWS),
    ("The bus was an hour late again.", _ANNOYING),
    ("Switch the fan on.", _CANNOT),
    ("What is the largest ocean?", "The largest ocean is the Pacific."),
    ("I am afraid of the flight on Sunday.", _HARD),
    ("Thank you, the radio plays again.", _WELCOME),
    ("Remind me of the meeting at ten.", _CANNOT),
    ("Which coat should I take to Norway?", "A warm coat with a hood is a good choice."),
    ("We had a lovely picnic by the lake.", _GOOD_NEWS),
)

OF_KIND: Mapping[str, tuple[Turn, ...]] = {
    "unseen": _turns(
        ("Is the garage closed?", _CANNOT_SEE),
        ("When will the doctor be here?", _CANNOT_SEE),
        ("How warm is it in the attic?", _CANNOT_SEE),
        ("Has the dog been fed?", _CANNOT_SEE),
    ),
    "question": _turns(
        ("How do I keep bread fresh?", "You can keep it in a paper bag or in a bread box."),
        ("What is the largest ocean?", "The largest ocean is the Pacific."),
        ("Are you a robot?", "I am a small language model, and I can only write."),
        ("What can I do with old bread?", "You can make toast, croutons or a bread soup with it."),
        ("Which coat should I take to Norway?", "A warm coat with a hood is a good choice."),
        ("How long does black tea have to steep?", "Black tea has to steep for three to five minutes."),
        ("Is it okay to swim after lunch?", "Yes, it is okay to swim after a light lunch."),
        ("Why do leaves turn yellow?", "Leaves turn yellow because they lose their green colour in autumn."),
        ("Can you suggest a film for tonight?", "A light comedy or an old adventure film is a good choice."),
        ("How do I get ink off my hands?", "You can rub them with soap and warm water."),
        ("Who invented the telephone?", "The telephone was invented by Alexander Graham Bell."),
        ("Should I water the lawn at noon?", "It is better to water the lawn in the morning or in the evening."),
    ),
    "order": _turns(
        ("A ham sandwich and a juice, please.", _CANNOT),
        ("Switch the fan on.", _CANNOT),
        ("Remind me of the meeting at ten.", _CANNOT),
        ("Tell my brother to come home.", _CANNOT),
    ),
    "thanks": _turns(
        ("Thanks for the tip!", _WELCOME),
        ("Thank you, the radio plays again.", _WELCOME),
        ("Thank you so much for the cake.", _WELCOME),
        ("thanks", _WELCOME),
    ),
    "positive": _turns(
        ("I love these headphones, the sound is superb.", "That is great to hear! Enjoy it."),
        ("I passed my driving test today!", _GOOD_NEWS),
        ("We had a lovely picnic by the lake.", "That sounds wonderful! I am happy for you."),
        ("My son learned to swim.", _GOOD_NEWS),
        ("The food was delicious and the staff was kind.", "That is great to hear! I am happy for you."),
        ("Our garden is full of flowers this year.", "That sounds wonderful! Enjoy it."),
    ),
    "negative": _turns(
        ("The chair I bought has a broken leg.", _ANNOYING),
        ("I feel lonely since I moved here.", _HARD),
        ("The bus was an hour late again.", "That is really annoying. I hope that it goes better next time."),
        ("I am afraid of the flight on Sunday.", "That sounds hard. I hope that it goes well."),
        ("My colleague was unkind to me.", "That sounds hard. I understand that you are upset."),
        ("The shop sold me a torn shirt.", _ANNOYING),
        ("My neck hurts.", "I am sorry to hear that. I hope that it gets better soon."),
        ("The printer jams all the time.", "That is really annoying. I hope that it gets better soon."),
    ),
}
