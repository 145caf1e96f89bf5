"""A checkpoint's tokenizer: transformers' own, but its chat template is rendered here, with a bound on its steps.

transformers renders a template that loops for ever for ever.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from edged.engine.chat_template import ChatTemplate


class CheckpointTokenizer:
    """See `ModelTokenizer`; all but the template is left to the tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        """Assign; the template is compiled when it is used first."""
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._tokenizer(*args, **kwargs)

    def apply_chat_template(self, conversation: Sequence[Mapping[str, str]], **options: Any) -> str:
        """Render a conversation; see `ChatTemplate.render`."""
        return self._template.render(conversation, **options)

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self._tokenizer.get_chat_template(), dict(self._tokenizer.special_tokens_map))
