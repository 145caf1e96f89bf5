"""What prompts need of a model's tokenizer, and the tokenizer of a bundle, which needs no transformers.

The interface is that part of transformers' own that the prompter uses, so transformers' tokenizers keep it as they
are. Tests hold both to the same tokens and the same rendered templates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer

from edged.engine.chat_template import ChatTemplate


class AddedToken(Protocol):
    """A token that is found in a text before the text is split into words."""

    content: str
    special: bool


class ModelTokenizer(Protocol):
    """The part of transformers' `PreTrainedTokenizerBase` that is used here."""

    @property
    def chat_template(self) -> Any:
        """A template, several by name, or None."""
        ...

    @property
    def eos_token_id(self) -> Any: ...

    @property
    def bos_token_id(self) -> Any: ...

    @property
    def unk_token_id(self) -> Any: ...

    @property
    def unk_token(self) -> Any: ...

    @property
    def is_fast(self) -> bool:
        """Whether it is one of the `tokenizers` library, which tells the places of tokens in the text."""
        ...

    @property
    def backend_tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer` of one that is fast."""
        ...

    @property
    def all_special_ids(self) -> list[int]: ...

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...

    def __len__(self) -> int: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def get_vocab(self) -> dict[str, int]: ...

    def convert_tokens_to_ids(self, *args: Any, **kwargs: Any) -> Any: ...

    def decode(self, *args: Any, **kwargs: Any) -> Any: ...

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any: ...


class TokenizerConfig(BaseModel):
    """What a tokenizer's own file does not say.

    Attributes:
        chat_template: None where the model has none.
        special: the named special tokens, as `eos_token`, by what they spell.
        special_ids: the ids of these and of further special tokens.
        cleans_up: whether spaces before punctuation are taken out of decoded text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    chat_template: str | None
    special: dict[str, str]
    special_ids: list[int]
    cleans_up: bool = False


@dataclass(frozen=True)
class BundleTokenizer:
    """A tokenizer by the `tokenizers` library alone; see `ModelTokenizer`."""

    backend_tokenizer: Tokenizer
    config: TokenizerConfig

    @property
    def is_fast(self) -> bool:
        return True

    @property
    def chat_template(self) -> str | None:
        return self.config.chat_template

    @cached_property
    def eos_token_id(self) -> int | None:
        return self._named("eos_token")

    @cached_property
    def bos_token_id(self) -> int | None:
        return self._named("bos_token")

    @cached_property
    def unk_token_id(self) -> int | None:
        return self._named("unk_token")

    @property
    def unk_token(self) -> str | None:
        return self.config.special.get("unk_token")

    @property
    def all_special_ids(self) -> list[int]:
        return self.config.special_ids

    @cached_property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        return self.backend_tokenizer.get_added_tokens_decoder()

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def __call__(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        split_special_tokens: bool = False,
        return_offsets_mapping: bool = False,
    ) -> Mapping[str, Any]:
        """Tokenize, as transformers' tokenizers do when they are called with the same options."""
        if self.backend_tokenizer.encode_special_tokens != split_special_tokens:
            self.backend_tokenizer.encode_special_tokens = split_special_tokens
        encoded = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": encoded.ids} | ({"offset_mapping": encoded.offsets} if return_offsets_mapping else {})

    def get_vocab(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        found = self.backend_tokenizer.token_to_id(token)
        return self.unk_token_id if found is None else found

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        text = self.backend_tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)
        return _cleaned_up(text) if self.config.cleans_up else text

    def apply_chat_template(self, conversation: Sequence[Mapping[str, str]], **options: Any) -> str:
        """Render a conversation; see `ChatTemplate.render`."""
        return self._template.render(conversation, **options)

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.config.chat_template or "", self.config.special)

    def _named(self, name: str) -> int | None:
        content = self.config.special.get(name)
        return None if content is None else self.convert_tokens_to_ids(content)


def _cleaned_up(text: str) -> str:
    """Take out the spaces that WordPiece vocabularies have before punctuation, as transformers does."""
    for apart, joined in ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")):
        text = text.replace(apart, joined)
    for ending in ("'m", "'s", "'ve", "'re"):
        text = text.replace(f" {ending}", ending)
    return text
