"""Where prompts are written: from a task, a text and a conversation to token ids that fit into the model's context.

The user's words are tokenized separately from the template around them, and special tokens in them are read as plain
text. So no text can end a turn, begin another role or change the system prompt.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from edged.engine.constrain import Constraints
from edged.engine.prefix_cache import shared_length
from edged.engine.scoring import LabelTrie
from edged.errors import ModelUnavailable, TooLong
from edged.tasks.conversation import Role, Turn, trim
from edged.tasks.specs import ClassifyPrompt, ClassifySpec, TextSpec, solved_cases
from edged.tasks.text import Language, normalise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MIN_NEW_TOKENS = 16  # a text that leaves no room for this many tokens of reply is too long

# While the template is rendered, each text is replaced by its index between two private-use characters.
_SLOT = "\ue000{}\ue001"
_SLOTS = re.compile("\ue000(\\d+)\ue001")
# For models without a chat template.
_PLAIN = {
    "en": ("{system}\n\n", "User: {text}\n", "Assistant: {text}\n", "Assistant:"),
    "zh": ("{system}\n\n", "用户:{text}\n", "助手:{text}\n", "助手:"),
}
# How such a model may begin the line of a speaker. It may change the language or the width of the colon.
_ROLES = ("User:", "Assistant:", "用户:", "助手:", "用户\uff1a", "助手\uff1a")
_MARK = re.compile(r"<[^\s<>]+>")
_DIALOGUE: tuple[Role, ...] = ("user", "assistant", "user")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationPrompt:
    """The prompt of a classification as tokens: `prefix` is the same for every text, `suffix` has the text.

    Attributes:
        labels: the tokens of all labels by the first reading, then by the next (see `Label.said`).
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    labels: LabelTrie

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prefix + self.suffix

    @property
    def capacity(self) -> int:
        """Tokens that need room in the context, including the branches of the labels."""
        return len(self.prefix) + len(self.suffix) + len(self.labels.branches)


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationPrompt:
    """A prompt that the model continues.

    Attributes:
        max_new_tokens: the most tokens of the reply: what was asked for, or the room that is left in the context.
        roles: names of speakers; a line that begins with one is not part of the reply.
        said: the tokens of the model's own earlier turns, oldest first.
    """

    tokens: tuple[int, ...]
    max_new_tokens: int
    roles: tuple[str, ...]
    said: tuple[int, ...]


class Prompter:
    """Makes prompts for one model."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_context_tokens: int,
        half_width: bool,
        end_tokens: Collection[int] = (),
    ) -> None:
        """`end_tokens` are those that the checkpoint names; the tokenizer's and the template's are added to them."""
        self._tokenizer = tokenizer
        self._max_context_tokens = max_context_tokens
        self._half_width = half_width
        self._own_ends = frozenset(end_tokens)
        self._literal = lru_cache(maxsize=512)(self._tokenize_literal)

    def classification(self, spec: ClassifySpec, *, text: str, language: Language) -> ClassificationPrompt:
        """Make the prompt that asks for a label of `text`.

        Raises:
            TooLong: the text does not fit into the context.
        """
        prompt = spec.prompts[language]
        before, after = _around_text(prompt)
        head, tail = before.rstrip(" "), before[len(before.rstrip(" ")) :]
        question, label_space = after.rstrip(" "), after[len(after.rstrip(" ")) :]
        cleaned = self._clean(text)
        # In byte-level vocabularies a space belongs to the word after it, so it is tokenized together with the text.
        words = tail + cleaned if cleaned else ""
        shown = solved_cases(spec, language) + head
        result = ClassificationPrompt(
            prefix=self._beginning + self._literal(prompt.role + shown),
            suffix=self._plain(words + question),
            labels=self._labels(spec, language, label_space),
        )
        room = self._max_context_tokens - result.capacity
        if room < 0:
            raise TooLong(
                f"the text does not fit: it is {-room} tokens over the model's context of {self._max_context_tokens}",
                field="text",
            )
        return result

    def generation(
        self, spec: TextSpec, *, text: str, language: Language, turns: Sequence[Turn], max_new_tokens: int
    ) -> GenerationPrompt:
        """Make the prompt for a reply to `text`, after as many of `turns` as fit; the oldest turns are dropped first.

        Raises:
            TooLong: the text leaves no room for a reply even without history.
        """
        system = spec.system[language]
        asked = Turn(role="user", content=self._clean(text))
        cleaned = [Turn(role=turn.role, content=self._clean(turn.content)) for turn in turns]
        alone = self._chat(system, [asked], language)
        kept = trim(
            cleaned,
            count=lambda turn: len(self._plain(turn.content)) + self._turn_overhead,
            budget=self._max_context_tokens - max_new_tokens - len(alone),
        )
        tokens = self._chat(system, [*kept, asked], language) if kept else alone
        room = self._max_context_tokens - len(tokens)
        if room < min(MIN_NEW_TOKENS, max_new_tokens):
            raise TooLong(
                f"the text takes {len(alone)} tokens of the model's context of {self._max_context_tokens} and "
                "leaves no room for a reply",
                field="text",
            )
        roles = () if self._tokenizer.chat_template else _ROLES
        said = [token for turn in kept if turn.role == "assistant" for token in self._plain(turn.content)]
        return GenerationPrompt(tokens=tokens, max_new_tokens=min(max_new_tokens, room), roles=roles, said=tuple(said))

    def constraints(self, vocab_size: int) -> Constraints:
        """Make what holds outputs to JSON Schemas, for this tokenizer."""
        return Constraints(self._tokenizer, vocab_size)

    def shared_beginning(self, spec: TextSpec, language: Language) -> tuple[int, ...]:
        """The tokens with which every prompt of `spec` begins, whatever the text is."""
        one, other = (
            self._chat(spec.system[language], [Turn(role="user", content=text)], language) for text in ("a", "b")
        )
        return one[: shared_length(one, other)]

    def end_tokens(self) -> frozenset[int]:
        """The tokens with which this model ends its turn, by its checkpoint, its tokenizer and its template."""
        ends = {self._tokenizer.eos_token_id, *self._own_ends} - {None}
        if self._tokenizer.chat_template:
            turns = [Turn(role=role, content=_SLOT.format(i)) for i, role in enumerate(_DIALOGUE)]
            after_answer = _SLOTS.split(self._apply_template(turns))[4]
            first = self._literal(after_answer)[:1]
            ends |= set(first) & self._special
        return frozenset(end for end in ends if end is not None)

    def banned_tokens(self, vocab_size: int) -> frozenset[int]:
        """Tokens that no reply contains: special ones, marks, and ids that only pad the vocabulary."""
        unused = range(len(self._tokenizer), vocab_size)
        return frozenset({*self._special, *self._marks, *unused}) - self.end_tokens()

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _clean(self, text: str) -> str:
        return normalise(text, half_width=self._half_width)

    def _plain(self, text: str) -> tuple[int, ...]:
        """Tokens of text from outside: special tokens in it are read as plain text."""
        parts = [text] if self._inside_mark is None else self._inside_mark.split(text)
        encoded = [self._tokenizer(part, add_special_tokens=False, split_special_tokens=True) for part in parts]
        return tuple(token for each in encoded for token in each["input_ids"])

    def _tokenize_literal(self, text: str) -> tuple[int, ...]:
        """Tokens of a task's or template's own words, in which special tokens count as such."""
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=False)
        return tuple(encoded["input_ids"])

    def _labels(self, spec: ClassifySpec, language: Language, space: str) -> LabelTrie:
        words = [
            word for reading in zip(*(each.words(language) for each in spec.labels), strict=True) for word in reading
        ]
        labels = [self._literal(space + word) for word in words]
        prefixes = any(a != b and b[: len(a)] == a for a in labels for b in labels)
        if prefixes:  # as "good" and "good enough": only the text after a label shows where it ends
            _, _, after = spec.prompts[language].case.partition("{label}")
            labels = [self._literal(space + word + (after or "\n")) for word in words]
        try:
            return LabelTrie.of(labels)
        except ValueError as error:
            raise ModelUnavailable(
                f"the labels of task {spec.name} ({', '.join(words)}) cannot be told apart by this model's "
                f"tokenizer: {error}; choose other words"
            ) from error

    def _chat(self, system: str, turns: Sequence[Turn], language: Language) -> tuple[int, ...]:
        """Tokens of a conversation, up to where the assistant's words begin."""
        rendered = self._render(_with_system(system, turns, fold=not self._takes_system), language)
        pieces = _SLOTS.split(rendered)  # literal, index, literal, index, ..., literal
        texts = [turn.content for turn in _with_system(system, turns, fold=not self._takes_system)]
        # A chat template contains the token that begins a sequence, if the model has one.
        tokens = [] if self._tokenizer.chat_template else [*self._beginning]
        for i, piece in enumerate(pieces):
            tokens += self._plain(texts[int(piece)]) if i % 2 else self._literal(piece) if piece else ()
        return tuple(tokens)

    def _render(self, turns: Sequence[Turn], language: Language) -> str:
        slots = [Turn(role=turn.role, content=_SLOT.format(i)) for i, turn in enumerate(turns)]
        if self._tokenizer.chat_template:
            return self._apply_template(slots)
        head, user, assistant, opening = _PLAIN[language]
        forms = {"user": user, "assistant": assistant, "system": head.replace("{system}", "{text}")}
        return "".join(forms[turn.role].format(text=turn.content) for turn in slots) + opening

    def _apply_template(self, turns: Sequence[Turn]) -> str:
        rendered = self._tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in turns],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # no chain of thought from Qwen3; other templates ignore it
        )
        return str(rendered)

    @cached_property
    def _beginning(self) -> tuple[int, ...]:
        """The token that begins every sequence, if the model has one: Llama and Gemma do, Qwen does not."""
        encoded = self._tokenizer("", add_special_tokens=True)["input_ids"]
        return tuple(token for token in encoded[:1] if token == self._tokenizer.bos_token_id)

    @cached_property
    def _special(self) -> frozenset[int]:
        """All special tokens: those with a role (eos, ...) and those only marked as special (<|im_start|>)."""
        marked = {token for token, added in self._tokenizer.added_tokens_decoder.items() if added.special}
        return frozenset(marked | set(self._tokenizer.all_special_ids))

    @cached_property
    def _marks(self) -> Mapping[int, str]:
        """Tokens that mark something other than a reply and are not special: <think>, <tool_call>, <|fim_prefix|>."""
        added = self._tokenizer.added_tokens_decoder.items()
        return {token: each.content for token, each in added if not each.special and _MARK.fullmatch(each.content)}

    @cached_property
    def _inside_mark(self) -> re.Pattern[str] | None:
        """Where to split a text so that the tokenizer, which reads a mark as one token, sees no whole mark."""
        rests = "|".join(re.escape(mark[1:]) for mark in self._marks.values())
        return re.compile(f"(?<=<)(?={rests})") if rests else None

    @cached_property
    def _takes_system(self) -> bool:
        """Whether the template has a system role; if not, the system prompt goes before the user's first words."""
        if not self._tokenizer.chat_template:
            return True
        probe = [Turn(role="system", content=_SLOT.format(0)), Turn(role="user", content=_SLOT.format(1))]
        try:
            return _SLOT.format(0) in self._apply_template(probe)
        except Exception:  # noqa: BLE001 - templates raise errors of many types to refuse a role
            return False

    @cached_property
    def _turn_overhead(self) -> int:
        """The most tokens that the template puts around one turn."""
        slot = Turn(role="user", content="")
        pair = [Turn(role="user", content=""), Turn(role="assistant", content="")]
        return max(
            len(self._chat("", [*pair, slot], language)) - len(self._chat("", [slot], language))
            for language in ("en", "zh")
        )


def _around_text(prompt: ClassifyPrompt) -> tuple[str, str]:
    """The parts of a case before its text, and between its text and its label."""
    question, _, _ = prompt.case.partition("{label}")
    before, _, after = question.partition("{text}")
    return before, after


def _with_system(system: str, turns: Sequence[Turn], *, fold: bool) -> list[Turn]:
    if not fold:
        return [Turn(role="system", content=system), *turns]
    first, *rest = turns
    return [Turn(role=first.role, content=f"{system}\n\n{first.content}"), *rest]
