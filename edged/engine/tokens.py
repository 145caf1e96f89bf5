"""Text to tokens: a prompt as one text, in which the user's words form no special token.

A prompt is put together from pieces: our words and the template's, and a user's words. The tokenizer gets them as one
text, so that the tokens are those that the model's makers had; a piece tokenized by itself would get a word mark of
its own in SentencePiece vocabularies. Where a user's words spell a special token, they are tokenized as plain text.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from edged.errors import ModelUnavailable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What marks something in a prompt: <think>, <|im_end|>, [INST].
_MARK = re.compile(r"<[^\s<>]+>|\[/?[A-Z][A-Z_]*\]")
_HIDDEN = "\ue002"  # stands for a character of a special token that somebody spelled, one for one
_MOST_ROUNDS = 8  # rounds of hiding; each round makes the rest shorter
_ANCHOR_CHARS = 32
_ANCHORS = ("|", "\n", ".", "0", "\u3002")  # texts after which a word is seldom joined to them


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt: `text`, and whether it is ours or the template's (else it is a user's words)."""

    text: str
    is_ours: bool


@dataclass(frozen=True, slots=True)
class _Token:
    id: int
    start: int  # in the text, white space that a mark takes along left out
    end: int
    is_unknown: bool = False  # it stands for characters that the vocabulary lacks


class TextTokens:
    """Tokenizes for one model.

    Attributes:
        special: the special tokens: those with a name (eos, ...), and those only marked as special (<|im_start|>).
        marks: other added tokens that mark something, and what they spell: <think>, <tool_call>, <|fim_prefix|>.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        vocab_size: int | None = None,
        ends: Collection[int] = (),
        literals: str = "",
    ) -> None:
        """Take the tokenizer and what is known beside it.

        Args:
            tokenizer: the model's.
            vocab_size: of the embedding; tokens beyond it are never given.
            ends: tokens that end a turn.
            literals: the chat template's own words; an added token that stands there marks something.
        """
        added = tokenizer.added_tokens_decoder
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self.special = frozenset(
            {token for token, each in added.items() if each.special} | set(tokenizer.all_special_ids)
        )
        self.marks: Mapping[int, str] = {
            token: each.content
            for token, each in added.items()
            if token not in self.special and _is_mark(token, each.content, ends, literals)
        }

    def whole(self, pieces: Sequence[Piece]) -> tuple[int, ...]:
        """Give the tokens of a prompt that begins here.

        Raises:
            ModelUnavailable: the tokenizer fails.
        """
        text = "".join(piece.text for piece in pieces)
        if not text:
            return ()
        if not self._tokenizer.is_fast:  # it tells no places
            parts = (self._ids(each.text) if each.is_ours else self.plain(each.text) for each in pieces if each.text)
            return tuple(token for part in parts for token in part if not self._is_beyond(token))
        theirs = _theirs(pieces)
        tokens = self._encode(text)
        if not any(self._is_formed(token, theirs) for token in tokens):
            return tuple(token.id for token in tokens)
        return tuple(self._guarded(text, theirs))

    def plain(self, text: str) -> tuple[int, ...]:
        """Give the tokens of somebody's words as a text of its own: nothing in them is special."""
        return tuple(self._plain(text, anchor=None)) if text else ()

    def after(self, before: str, text: str) -> tuple[int, ...]:
        """Give the tokens of somebody's words (and ours) that follow `before`; nothing in them is special."""
        return tuple(self._plain(text, anchor=before)) if text else ()

    def beyond(self) -> list[str]:
        """Give what the tokens beyond the embedding spell, in order."""
        if self._vocab_size is None or len(self._tokenizer) <= self._vocab_size:
            return []
        spelled = self._tokenizer.get_vocab().items()
        return [word for word, token in sorted(spelled, key=lambda each: each[1]) if self._is_beyond(token)]

    # ------------------------------------------------------------------------------------------ special tokens

    @cached_property
    def _contents(self) -> Mapping[int, str]:
        """What the added tokens spell, the longest first."""
        added = self._tokenizer.added_tokens_decoder.items()
        return dict(sorted(((token, each.content) for token, each in added), key=lambda each: -len(each[1])))

    @cached_property
    def _forbidden(self) -> frozenset[int]:
        """The tokens that somebody's words never form."""
        return self.special | frozenset(self.marks)

    def _is_beyond(self, token: int) -> bool:
        return self._vocab_size is not None and token >= self._vocab_size

    def _is_special(self, token: _Token) -> bool:
        """Tell whether a token is special, and does not stand for a character that the vocabulary lacks."""
        return token.id in self._forbidden and not token.is_unknown

    def _is_formed(self, token: _Token, theirs: Sequence[tuple[int, int]]) -> bool:
        """Tell whether a token is special and formed by somebody's words, or beyond the embedding."""
        if self._is_beyond(token.id):
            return True
        return self._is_special(token) and any(token.start < end and start < token.end for start, end in theirs)

    def _guarded(self, text: str, theirs: Sequence[tuple[int, int]]) -> Iterator[int]:
        """Give the tokens of a text in which somebody's words spell special tokens.

        These are hidden, which shows where the true special tokens are. Between two of those, text is tokenized by
        itself anyway; where something is hidden in it, as plain text.
        """
        hidden, tokens = list(text), self._encode(text)
        for _ in range(_MOST_ROUNDS):
            formed = [token for token in tokens if self._is_formed(token, theirs)]
            if not formed:
                break
            for token in formed:
                for at in range(token.start, token.end):
                    if self._is_beyond(token.id) or any(start <= at < end for start, end in theirs):
                        hidden[at] = _HIDDEN
            tokens = self._encode("".join(hidden))
        shown = "".join(hidden)
        run: list[_Token] = []
        begin, before = 0, ""
        for token in tokens:
            if not self._is_special(token) or self._is_formed(token, theirs):
                run.append(token)
                continue
            yield from self._segment(text, shown, begin, token.start, before, run)
            yield token.id
            run, begin, before = [], token.end, text[token.start : token.end]
        yield from self._segment(text, shown, begin, len(text), before, run)

    def _segment(
        self, text: str, hidden: str, begin: int, end: int, before: str, tokens: Sequence[_Token]
    ) -> Iterator[int]:
        """Give the tokens between two special ones: those that are known, unless something is hidden there."""
        if text[begin:end] == hidden[begin:end]:
            yield from (token.id for token in tokens if not self._is_special(token))
        elif begin < end:
            anchor = None if not before or self._marks_each_segment else before
            yield from self._plain(text[begin:end], anchor=anchor)

    # --------------------------------------------------------------------------------------------- plain text

    def _plain(self, text: str, *, anchor: str | None) -> Iterator[int]:
        parts = [text] if self._inside_mark is None else self._inside_mark.split(text)
        before = anchor
        for part in parts:
            yield from self._unformed(part, before)
            before = (before or "") + part

    def _unformed(self, text: str, before: str | None) -> Iterator[int]:
        """Tokens of plain text; the text is split where the vocabulary would still form special tokens of it."""
        if not text:
            return
        tokens = self._continued(text, before)
        formed = [token for token in tokens if self._is_special(token) or self._is_beyond(token.id)]
        if not formed:
            yield from (token.id for token in tokens)
            return
        if len(text) == 1:
            return  # a character that forms a special token by itself is left out
        # Split behind the first character of each; a token of one character is split from the text around it.
        cuts = {token.start + 1 for token in formed} | {t.start for t in formed if t.end - t.start == 1}
        places = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
        if len(places) == 2:
            places = [0, 1, len(text)]
        for begin, end in pairwise(places):
            yield from self._unformed(text[begin:end], (before or "") + text[:begin] if begin or before else None)

    def _continued(self, text: str, before: str | None) -> list[_Token]:
        """Tokens of `text` where `before` stands before it, with places in `text`; without one, it is a beginning."""
        if before is None or not self._marks_beginnings or not self._tokenizer.is_fast:
            return self._encode(text, is_plain=True)
        for anchor in (before[-_ANCHOR_CHARS:], *_ANCHORS):
            tokens = self._encode(anchor + text, is_plain=True)
            places = [token.start for token in tokens]
            first = next((i for i, place in enumerate(places) if place >= len(anchor)), len(tokens))
            if anchor and (first == 0 or tokens[first - 1].end <= len(anchor)):
                moved = len(anchor)
                return [_Token(t.id, t.start - moved, t.end - moved, t.is_unknown) for t in tokens[first:]]
        return self._encode(text, is_plain=True)

    @cached_property
    def _inside_mark(self) -> re.Pattern[str] | None:
        """Where to part a text so that a tokenizer, which takes such marks whole, sees none."""
        places = [
            f"(?<={re.escape(mark[0])})(?={re.escape(mark[1:])})" for mark in self.marks.values() if len(mark) > 1
        ]
        return re.compile("|".join(places)) if places else None

    @cached_property
    def _marks_beginnings(self) -> bool:
        """Whether a word at the beginning of a text gets a mark that it has not inside one."""
        alone = [token.id for token in self._encode("b", is_plain=True)]
        inside = self._encode("|b", is_plain=True)
        return [token.id for token in inside if token.start >= 1] != alone

    @cached_property
    def _marks_each_segment(self) -> bool:
        """Whether a text behind a special token is marked as a beginning too."""
        content = next((text for token, text in self._contents.items() if token in self.special), None)
        if content is None:
            return True
        alone = [token.id for token in self._encode("b")]
        return [token.id for token in self._encode(f"{content}b")][-len(alone) :] == alone

    # ------------------------------------------------------------------------------------------ the tokenizer

    def _ids(self, text: str, *, is_plain: bool = False) -> list[int]:
        try:
            encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=is_plain)
        except Exception as error:
            raise self._failed(error) from error
        return list(encoded["input_ids"])

    def _encode(self, text: str, *, is_plain: bool = False) -> list[_Token]:
        """Tokenize, with places; plain text has no special tokens."""
        if not self._tokenizer.is_fast:
            return [_Token(token, 0, 0) for token in self._ids(text, is_plain=is_plain)]
        try:
            encoded = self._tokenizer(
                text, add_special_tokens=False, split_special_tokens=is_plain, return_offsets_mapping=True
            )
        except Exception as error:  # the tokenizers library raises bare Exception
            raise self._failed(error) from error
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [self._placed(token, text, start, end) for token, (start, end) in pairs]

    def _placed(self, token: int, text: str, start: int, end: int) -> _Token:
        if token in self._contents:  # some take the white space around them along
            while start < end - 1 and text[start].isspace():
                start += 1
            while end > start + 1 and text[end - 1].isspace():
                end -= 1
        is_unknown = token == self._tokenizer.unk_token_id and text[start:end] != self._tokenizer.unk_token
        return _Token(token, start, end, is_unknown)

    def _failed(self, error: Exception) -> ModelUnavailable:
        return ModelUnavailable(
            f"the model's tokenizer fails ({type(error).__name__}): fetch the model again with `edged models pull`, or "
            "name another in EDGED_MODEL__ID"
        )


def _theirs(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """Where somebody's words are."""
    spans, at = [], 0
    for piece in pieces:
        if not piece.is_ours and piece.text:
            spans.append((at, at + len(piece.text)))
        at += len(piece.text)
    return spans


def token_of_mark(tokenizer: "PreTrainedTokenizerBase", text: str) -> int | None:
    """Give the token that the mark at the beginning of `text` is, special or not, if it is one of the vocabulary."""
    added = [(token, each.content) for token, each in tokenizer.added_tokens_decoder.items()]
    for token, content in sorted(added, key=lambda each: -len(each[1])):
        if content.strip() and text.startswith(content):
            return token
    match = _MARK.match(text)
    found = None if match is None else tokenizer.convert_tokens_to_ids(match[0])
    return found if isinstance(found, int) and found != tokenizer.unk_token_id else None


def _is_mark(token: int, content: str, ends: Collection[int], literals: str) -> bool:
    if _MARK.fullmatch(content) or token in ends:
        return True
    return bool(content.strip()) and not content.strip().isalnum() and content in literals
