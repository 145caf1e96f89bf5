"""Takes a model's reasoning out of its text, piece by piece. Pure.

A server may be told not to let the model reason, and the model reasons all the same. Servers that know the model's
marks put the reasoning in a field of its own. From others it comes in the text, between marks or with the closing mark
alone: some chat templates write the opening mark into the prompt (DeepSeek-R1, Qwen3-Thinking).
"""

# How reasoning begins and ends, by model: most; Gemma-like and others; Magistral; Seed-OSS; Kimi; gpt-oss; Gemma 4.
_MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<|channel>thought", "<channel|>"),
)
_CLOSING = tuple(close for _, close in _MARKS)


class AnswerFilter:
    """Lets the answer through and keeps the reasoning back.

    Attributes:
        has_seen_reasoning: whether there was any.
        was_unmarked: a closing mark came without an opening one. What was let through before it was reasoning; only
            what comes after it is the answer.
    """

    def __init__(self, *, begins_inside: bool = False) -> None:
        """Begin. `begins_inside`: the text begins with reasoning that has no opening mark."""
        self.has_seen_reasoning = False
        self.was_unmarked = False
        self._begins_inside = begins_inside
        self._at_beginning = not begins_inside  # only here an opening mark counts
        self._closing: tuple[str, ...] = _CLOSING if begins_inside else ()  # what ends the reasoning that is open
        self._let_through = ""
        self._kept = ""  # not decided yet; with reasoning open: its text

    @property
    def is_reasoning(self) -> bool:
        """Whether the text so far ends within reasoning."""
        return bool(self._closing)

    def add(self, piece: str) -> str:
        """Take a piece in and return the part of the answer that is now certain."""
        self._kept += piece
        while self._step():
            pass
        if self._closing:
            return ""
        if self._at_beginning and _may_become(self._kept.lstrip(), [open_ for open_, _ in _MARKS]):
            return ""
        held = _held_back(self._kept)
        certain, self._kept = self._kept[: len(self._kept) - held], self._kept[len(self._kept) - held :]
        if certain.strip():
            self._at_beginning = False
        self._let_through += certain
        return certain

    def finish(self, *, is_cut: bool = False) -> str:
        """End the text and return what was kept back though it is answer. `is_cut`: a limit ended the text."""
        if self._closing and not (self._begins_inside and not self.has_seen_reasoning and not is_cut):
            return ""
        rest, self._kept = self._kept, ""
        return rest

    def _step(self) -> bool:
        """Pass one mark; False when there is none in what is kept."""
        if self._closing:
            return self._pass_closing(self._closing)
        if self._at_beginning:
            text = self._kept.lstrip()
            for open_, close in _MARKS:
                if text.startswith(open_):
                    self._kept, self._closing = text[len(open_) :], (close,)
                    self.has_seen_reasoning = True
                    return True
        if not self.has_seen_reasoning and self._pass_closing(_CLOSING):
            self.was_unmarked = True
            return True
        return False

    def _pass_closing(self, marks: tuple[str, ...]) -> bool:
        found = [(self._kept.find(mark), mark) for mark in marks if mark in self._kept]
        if not found:
            return False
        at, mark = min(found)
        if not self._closing:  # a text that talks about marks has both of them
            before = self._let_through + self._kept[:at]
            if any(open_ in before for open_, close in _MARKS if close == mark):
                return False
        self._kept = self._kept[at + len(mark) :].lstrip()
        self._closing, self._at_beginning, self.has_seen_reasoning = (), True, True
        return True


def answer_of(text: str, *, begins_inside: bool = False, is_cut: bool = False) -> str:
    """The answer in a whole text."""
    answer = AnswerFilter(begins_inside=begins_inside)
    before = answer.add(text)
    return before + answer.finish(is_cut=is_cut)


def _may_become(text: str, marks: list[str]) -> bool:
    return any(mark.startswith(text) for mark in marks)


def _held_back(text: str) -> int:
    """Characters at the end that may be the beginning of a closing mark."""
    longest = max(map(len, _CLOSING)) - 1
    return next((size for size in range(min(longest, len(text)), 0, -1) if _may_become(text[-size:], [*_CLOSING])), 0)
