"""Where prompts are written: from a task, a text and a conversation to token ids that fit into the model's context.

`tokens.py` sees to it that the user's words form no special token: no text can end a turn, open another role or reach
the system prompt.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from edged.engine.constrain import Constraints
from edged.engine.prefix_cache import shared_length
from edged.engine.scoring import LabelTrie
from edged.engine.tokenizer import ModelTokenizer
from edged.engine.tokens import Piece, TextTokens, token_of_mark
from edged.errors import ModelUnavailable, TooLong
from edged.tasks.conversation import Role, Turn, trim
from edged.tasks.specs import ClassifyPrompt, ClassifySpec, TextSpec, solved_cases
from edged.tasks.text import Language, normalise

_EXAMPLES_SHARE = 0.5  # of the context, at most, for the examples of a task
MIN_NEW_TOKENS = 16  # a text that leaves no room for this many tokens of reply is too long

# While the template is rendered, each text is replaced by its index between two private-use characters.
_SLOT = "\ue000{}\ue001"
_SLOTS = re.compile("\ue000(\\d+)\ue001")
# For models without a chat template.
_PLAIN = {
    "en": ("{system}\n\n", "User: {text}\n", "Assistant: {text}\n", "Assistant:"),
    "zh": ("{system}\n\n", "用户:{text}\n", "助手:{text}\n", "助手:"),
}
# How a model without a template may begin a speaker's line: in either language, with either width of the colon.
_ROLES = ("User:", "Assistant:", "用户:", "助手:", "用户\uff1a", "助手\uff1a")
_DIALOGUE: tuple[Role, ...] = ("user", "assistant", "user")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationPrompt:
    """The prompt of a classification as tokens: `prefix` is the same for every text, `suffix` has the text.

    Attributes:
        labels: the tokens of all labels for the first reading, then for the next (see `Label.said`), then of others.
        words: the same as text. Of the other words (see `ClassifyPrompt.plain_words`, `signal_words`), those that are
            several tokens of this model are left out.
        scored: how many of them are words of the labels.
        named: where among them the names of the labels stand, or their first words.
        plain: where the plain words stand.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    labels: LabelTrie
    words: tuple[str, ...]
    scored: int
    named: tuple[int, ...] = ()
    plain: tuple[int, ...] = ()

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
        tokenizer: ModelTokenizer,
        *,
        max_context_tokens: int,
        half_width: bool,
        end_tokens: Collection[int] = (),
        vocab_size: int | None = None,
        always_begins: bool = False,
    ) -> None:
        """Assign.

        Args:
            tokenizer: the model's.
            max_context_tokens: of prompt and reply together.
            half_width: whether full-width letters and punctuation of users become half-width.
            end_tokens: those that the checkpoint itself names, beside the tokenizer's and the template's.
            vocab_size: of the embedding; tokens beyond it are kept out of prompts and replies.
            always_begins: whether a prompt begins with the BOS token, also where the template leaves it out.
        """
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._always_begins = always_begins
        self._max_context_tokens = max_context_tokens
        self._half_width = half_width
        self._own_ends = frozenset(end_tokens)
        self._literal = lru_cache(maxsize=512)(self._tokenize_literal)
        self._following = lru_cache(maxsize=2048)(self._tokenize_following)

    def read(self, spec: ClassifySpec, text: str, language: Language) -> str:
        """A text as `spec` shows it to the model; further prompts of the same task are to show it so too."""
        return spec.read(self._clean(text), language)

    def classification(self, spec: ClassifySpec, *, text: str, language: Language) -> ClassificationPrompt:
        """Make the prompt that asks for a label of `text`.

        Raises:
            TooLong: the text does not fit the context.
        """
        prompt = spec.prompts[language]
        before, after = _around_text(prompt)
        head, tail = before.rstrip(" "), before[len(before.rstrip(" ")) :]
        question, label_space = after.rstrip(" "), after[len(after.rstrip(" ")) :]
        cleaned = self.read(spec, text, language)
        # A space belongs to the word after it in byte-level vocabularies, so it is tokenized with the text.
        shown_text = tail + cleaned if cleaned else ""
        shown = solved_cases(spec, language) + head
        scored = _label_words(spec, language)
        labels = self._labels(spec, language, question, label_space)
        others = (*prompt.plain_words, *prompt.signal_words)
        with_others, places = labels.with_words([self._following(question, label_space + word) for word in others])
        words = dict(enumerate(scored)) | {
            place: word for word, place in zip(others, places, strict=True) if place is not None
        }
        result = ClassificationPrompt(
            prefix=self._beginning + self._literal(prompt.role + shown),
            suffix=self._tokens.after(head, shown_text + question),
            labels=with_others,
            words=tuple(words.values()),
            scored=len(scored),
            named=_named(spec, language),
            plain=tuple(place for place, word in words.items() if word in prompt.plain_words),
        )
        if (room := self.room_beside(result)) < 0:
            raise TooLong(
                f"the text does not fit: it is {-room} tokens over the model's context of {self._max_context_tokens}",
                field="text",
            )
        return result

    def room_beside(self, prompt: ClassificationPrompt) -> int:
        """The tokens of the context that a prompt leaves; below 0 where it does not fit."""
        return self._max_context_tokens - prompt.capacity

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._plain(text))

    def generation(
        self,
        spec: TextSpec,
        *,
        text: str,
        language: Language,
        turns: Sequence[Turn],
        max_new_tokens: int,
        kind: str | None = None,
    ) -> GenerationPrompt:
        """Make the prompt for a reply to `text` after as many of `turns` as fit, oldest dropped first.

        The task's own examples, those for this `kind` of message, come before them all, where the context is large
        enough for them.

        Raises:
            TooLong: the text leaves no room for a reply even without history.
        """
        if spec.is_raw:
            return self._continuation(text, max_new_tokens)
        system, shown = spec.system.get(language), self._examples(spec, language, kind)
        asked = Turn(role="user", content=self._clean(text))
        cleaned = [Turn(role=turn.role, content=self._clean(turn.content)) for turn in turns]
        alone = self._chat(system, [*shown, asked], language)
        kept = trim(
            cleaned,
            count=lambda turn: len(self._plain(turn.content)) + self._turn_overhead,
            budget=self._max_context_tokens - max_new_tokens - len(alone),
        )
        tokens = self._chat(system, [*shown, *kept, asked], language) if kept else alone
        while kept and self._max_context_tokens - len(tokens) < max_new_tokens:  # the turns together take more
            kept = kept[1:]
            tokens = self._chat(system, [*shown, *kept, asked], language)
        room = self._room(tokens, max_new_tokens)
        roles = () if self._tokenizer.chat_template else _ROLES
        said = [token for turn in kept if turn.role == "assistant" for token in self._plain(turn.content)]
        return GenerationPrompt(tokens=tokens, max_new_tokens=min(max_new_tokens, room), roles=roles, said=tuple(said))

    def _continuation(self, text: str, max_new_tokens: int) -> GenerationPrompt:
        """The prompt for a text that the model continues as it is."""
        tokens = self._beginning + self._plain(text)
        room = self._room(tokens, max_new_tokens)
        return GenerationPrompt(tokens=tokens, max_new_tokens=min(max_new_tokens, room), roles=(), said=())

    def _room(self, tokens: Sequence[int], max_new_tokens: int) -> int:
        """The tokens of the context that are left for the reply.

        Raises:
            TooLong: these are too few.
        """
        room = self._max_context_tokens - len(tokens)
        if room < min(MIN_NEW_TOKENS, max_new_tokens):
            raise TooLong(
                f"the text takes {len(tokens)} tokens of the model's context of {self._max_context_tokens} and "
                "leaves no room for a reply",
                field="text",
            )
        return room

    def constraints(self, vocab_size: int) -> Constraints:
        """Make the constraints that hold outputs to JSON Schemas, for this vocabulary."""
        return Constraints(self._tokenizer, vocab_size)

    def shared_beginning(self, spec: TextSpec, language: Language, kind: str | None = None) -> tuple[int, ...]:
        """The tokens with which every prompt of `spec` for a `kind` of message begins, whatever the text is."""
        system, shown = spec.system.get(language), self._examples(spec, language, kind)
        one, other = (self._chat(system, [*shown, Turn(role="user", content=text)], language) for text in ("a", "b"))
        return one[: shared_length(one, other)]

    def _examples(self, spec: TextSpec, language: Language, kind: str | None) -> tuple[Turn, ...]:
        """The turns that a task shows first; none where they would take too much of the model's context."""
        turns = spec.examples.get(language, ())
        if kind is not None:
            turns = spec.examples_of_kind.get(language, {}).get(kind, turns)
        if not turns:
            return ()
        asked = Turn(role="user", content="")
        tokens = len(self._chat("", [*turns, asked], language)) - len(self._chat("", [asked], language))
        return turns if tokens <= _EXAMPLES_SHARE * self._max_context_tokens else ()

    def try_template(self) -> None:
        """Check that the chat template accepts a conversation and leaves nothing out.

        Raises:
            ModelUnavailable: it cannot be used.
        """
        self._chat("Be brief.", [Turn(role="user", content="Hi")], "en")

    def end_tokens(self) -> frozenset[int]:
        """Give the tokens with which this model ends its turn: the checkpoint's, the tokenizer's, the template's.

        Raises:
            ModelUnavailable: the chat template cannot be used.
        """
        return self._ends

    def banned_tokens(self, vocab_size: int) -> frozenset[int]:
        """Give the tokens that a reply never holds: special ones, marks, and rows of the head without a token."""
        unused = range(len(self._tokenizer), vocab_size)
        banned = frozenset({*self._tokens.special, *self._tokens.marks, *unused}) - self._ends
        return frozenset(token for token in banned if token < vocab_size)

    def beyond_vocabulary(self) -> list[str]:
        """Give the texts of the tokens that the tokenizer has and the embedding lacks."""
        return self._tokens.beyond()

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text, special tokens left out."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _clean(self, text: str) -> str:
        return normalise(text, half_width=self._half_width)

    def _plain(self, text: str) -> tuple[int, ...]:
        """Tokens of a user's words, which form no special token."""
        return self._tokens.plain(text)

    def _tokenize_literal(self, text: str) -> tuple[int, ...]:
        """Tokens of our own words, special tokens included."""
        return self._tokens.whole([Piece(text, is_ours=True)])

    def _tokenize_following(self, before: str, text: str) -> tuple[int, ...]:
        return self._tokens.after(before, text)

    def _labels(self, spec: ClassifySpec, language: Language, question: str, space: str) -> LabelTrie:
        words = _label_words(spec, language)
        labels = [self._following(question, space + word) for word in words]
        prefixes = any(a != b and b[: len(a)] == a for a in labels for b in labels)
        if prefixes:  # as "good" and "good enough": only the text after a label shows where it ends
            _, _, after = spec.prompts[language].case.partition("{label}")
            labels = [self._following(question, space + word + (after or "\n")) for word in words]
        try:
            return LabelTrie.of(labels)
        except ValueError as error:
            raise ModelUnavailable(
                f"the labels of task {spec.name} ({', '.join(words)}) cannot be told apart by this model's "
                f"tokenizer: {error}; choose other words"
            ) from error

    def _chat(self, system: str | None, turns: Sequence[Turn], language: Language) -> tuple[int, ...]:
        """Tokens of a conversation, up to where the assistant's words begin."""
        turns = _with_system(system, turns, fold=not self._takes_system)
        parts = _SLOTS.split(self._render(turns, language))  # literal, index, literal, index, ..., literal
        if str(len(turns) - 1) not in parts[1::2]:
            raise self._unusable("it leaves out what the user says")
        pieces = [
            Piece(turns[int(part)].content if i % 2 else part, is_ours=i % 2 == 0) for i, part in enumerate(parts)
        ]
        tokens = self._tokens.whole(pieces)
        # A template writes the beginning of a sequence itself, where the model has one.
        begins = not self._tokenizer.chat_template or self._always_begins
        if begins and tokens[: len(self._beginning)] != self._beginning:
            return self._beginning + tokens
        return tokens

    def _render(self, turns: Sequence[Turn], language: Language) -> str:
        slots = [Turn(role=turn.role, content=_SLOT.format(i)) for i, turn in enumerate(turns)]
        if self._tokenizer.chat_template:
            return self._apply_template(slots)
        head, user, assistant, opening = _PLAIN.get(language, _PLAIN["en"])
        forms = {"user": user, "assistant": assistant, "system": head.replace("{system}", "{text}")}
        return "".join(forms[turn.role].format(text=turn.content) for turn in slots) + opening

    def _apply_template(self, turns: Sequence[Turn]) -> str:
        try:
            rendered = self._tokenizer.apply_chat_template(
                [{"role": turn.role, "content": turn.content} for turn in turns],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # no chain of thought from Qwen3; other templates ignore it
            )
        except Exception as error:  # a template may refuse by raising any exception
            raise self._unusable(" ".join(str(error).split())[:300] or type(error).__name__) from error
        return str(rendered)

    def _unusable(self, reason: str) -> ModelUnavailable:
        template = self._tokenizer.chat_template
        if isinstance(template, dict):
            reason = f"it has several by name ({', '.join(template)}) and none of them is the default"
        return ModelUnavailable(
            f"the model's chat template cannot be used: {reason}; mend it (chat_template.jinja, or chat_template in "
            "tokenizer_config.json), or name another model in EDGED_MODEL__ID"
        )

    @cached_property
    def _tokens(self) -> TextTokens:
        literals = "\n".join(self._dialogue[::2])
        return TextTokens(self._tokenizer, vocab_size=self._vocab_size, ends=self._ends, literals=literals)

    @cached_property
    def _dialogue(self) -> list[str]:
        """What the template makes of a short dialogue: its own words and, between them, the numbers of the turns."""
        if not self._tokenizer.chat_template:
            return []
        turns = [Turn(role=role, content=_SLOT.format(i)) for i, role in enumerate(_DIALOGUE)]
        return _SLOTS.split(self._apply_template(turns))

    @cached_property
    def _ends(self) -> frozenset[int]:
        ends = {self._tokenizer.eos_token_id, *self._own_ends}
        answer = str(len(_DIALOGUE) - 2)
        if answer in self._dialogue[1::2]:
            after_answer = self._dialogue[2 * self._dialogue[1::2].index(answer) + 2]
            ends.add(token_of_mark(self._tokenizer, after_answer.lstrip()))
        limit = len(self._tokenizer) if self._vocab_size is None else self._vocab_size
        return frozenset(end for end in ends if isinstance(end, int) and 0 <= end < limit)

    @cached_property
    def _beginning(self) -> tuple[int, ...]:
        """The token with which every sequence of this model begins: Llama and Gemma have one, Qwen has none."""
        encoded = self._tokenizer("a", add_special_tokens=True)["input_ids"]
        bos = self._tokenizer.bos_token_id
        is_known = self._vocab_size is None or (bos is not None and bos < self._vocab_size)
        return tuple(token for token in encoded[:1] if token == bos and is_known)

    @cached_property
    def _takes_system(self) -> bool:
        """Whether the template has a system role; if not, the system prompt goes before the user's first words."""
        if not self._tokenizer.chat_template:
            return True
        probe = [Turn(role="system", content=_SLOT.format(0)), Turn(role="user", content=_SLOT.format(1))]
        try:
            return _SLOT.format(0) in self._apply_template(probe)
        except ModelUnavailable:
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


def _label_words(spec: ClassifySpec, language: Language) -> list[str]:
    """The words of all labels for the first reading, then for the next."""
    return [word for reading in zip(*(each.words(language) for each in spec.labels), strict=True) for word in reading]


def _named(spec: ClassifySpec, language: Language) -> tuple[int, ...]:
    """Where among the words of all readings the names of the labels stand; where none is read, the first reading."""
    readings = [*zip(*(each.words(language) for each in spec.labels), strict=True)]
    names = tuple(each.names[language] for each in spec.labels)
    first = readings.index(names) if names in readings else 0
    return tuple(range(first * len(names), (first + 1) * len(names)))


def _with_system(system: str | None, turns: Sequence[Turn], *, fold: bool) -> list[Turn]:
    if system is None:
        return list(turns)
    if not fold:
        return [Turn(role="system", content=system), *turns]
    first, *rest = turns
    return [Turn(role=first.role, content=f"{system}\n\n{first.content}"), *rest]
