"""Output held to a JSON Schema: which tokens may come next. llguidance knows; this is all that knows llguidance.

Source: github.com/guidance-ai/llguidance, docs/json_schema.md.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from edged import extras
from edged.errors import ModelError, ModelUnavailable, SettingsError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from transformers import PreTrainedTokenizerBase


class Constraint:
    """One output as it grows."""

    def __init__(self, matcher: "LLMatcher", eos: int) -> None:
        self._matcher = matcher
        self._eos = eos

    def mask(self, row: torch.Tensor, end_tokens: frozenset[int]) -> None:
        """Set the logits (vocab,) of all tokens that may not come next to minus infinity, in place.

        The model's own end tokens are in where the output may end here.
        """
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8).bool()
        ends = torch.tensor(sorted(end_tokens))
        allowed[ends] = allowed[self._eos].clone()
        row[: len(allowed)].masked_fill_(~allowed[: len(row)], float("-inf"))
        row[len(allowed) :] = float("-inf")

    def take(self, token: int) -> bool:
        """Take the token that was drawn; gives whether the output is complete.

        Raises:
            ModelError: the schema is too involved to go on; what is there is no whole output.
        """
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise ModelError(f"the output cannot be held to the task's schema any further: {_fault_of(self._matcher)}")
        return bool(self._matcher.is_stopped())


class Constraints:
    """The schemas of tasks on one vocabulary, each compiled once."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._vocabulary: LLTokenizer | None = None
        self._grammars: dict[str, str] = {}

    def begin(self, task: str, schema: Mapping[str, Any]) -> Constraint:
        """The constraint of a new output.

        Raises:
            SettingsError: the schema is none, or llguidance is not installed.
            ModelUnavailable: the model's vocabulary cannot be read by it.
        """
        try:
            from llguidance import LLMatcher  # noqa: PLC0415 - of an extra
            from llguidance.hf import from_tokenizer  # noqa: PLC0415
        except ImportError:
            raise SettingsError(missing(task)) from None
        if self._vocabulary is None:
            try:
                self._vocabulary = from_tokenizer(self._tokenizer, n_vocab=self._vocab_size)  # type: ignore[arg-type]
            except Exception as error:
                raise ModelUnavailable(
                    f"tasks.{task} extracts, and llguidance cannot read this model's tokenizer: {error}"
                ) from error
        if task not in self._grammars:
            # Without this a model may write white space for ever.
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults={"whitespace_flexible": False})
            fault = LLMatcher.validate_grammar(grammar, self._vocabulary)
            if fault := fault or _fault_at_first(LLMatcher(self._vocabulary, grammar)):
                raise SettingsError(f"tasks.{task}.schema: {fault}")
            self._grammars[task] = grammar
        return Constraint(LLMatcher(self._vocabulary, self._grammars[task]), int(self._vocabulary.eos_token))


def missing(task: str) -> str:
    """Words for a task that extracts where llguidance is not installed."""
    return f"tasks.{task} extracts, which needs the library llguidance: {extras.how_to_install('extract')}"


def _fault_at_first(matcher: "LLMatcher") -> str:
    """What is wrong with a schema that has no end: one whose required properties ask for itself."""
    forced = matcher.compute_ff_tokens()
    if forced and not matcher.consume_token(forced[0]):
        return f"no output of it is ever complete ({_fault_of(matcher)})"
    return ""


def _fault_of(matcher: "LLMatcher") -> str:
    """In a line: what comes after it is the state of the parser, with the output so far."""
    return matcher.get_error().partition("\n")[0]
