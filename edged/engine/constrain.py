"""Holds an output to a JSON Schema: which tokens may come next. The only module that uses llguidance.

Source: github.com/guidance-ai/llguidance, docs/json_schema.md.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from edged import extras
from edged.engine.decoders.interface import Logits
from edged.engine.tokenizer import ModelTokenizer
from edged.errors import BadRequest, ModelError, ModelUnavailable, SettingsError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_MAX_GRAMMARS = 64  # that are kept compiled


class _Unusable(Exception):
    """The schema cannot be used; the message says why."""


class Constraint:
    """The constraint of one output, which follows the output token by token."""

    def __init__(self, matcher: "LLMatcher", eos: int) -> None:
        self._matcher = matcher
        self._eos = eos

    def mask(self, row: Logits, end_tokens: frozenset[int]) -> None:
        """Set the logits (vocab,) of all tokens that may not come next to minus infinity, in place.

        The model's end tokens are allowed where the output may end.
        """
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8) != 0
        allowed[list(end_tokens)] = allowed[self._eos]
        row[: len(allowed)][~allowed[: len(row)]] = -np.inf
        row[len(allowed) :] = -np.inf

    def take(self, token: int) -> bool:
        """Take the token that was drawn.

        Returns:
            Whether the output is complete.

        Raises:
            ModelError: llguidance cannot go on, because the schema is too complex; the output is not complete.
        """
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise ModelError(f"the output cannot be held to the task's schema any further: {_fault_of(self._matcher)}")
        return bool(self._matcher.is_stopped())


class Constraints:
    """The schemas of tasks and requests for one vocabulary; those used lately are kept compiled."""

    def __init__(self, tokenizer: ModelTokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._vocabulary: LLTokenizer | None = None
        self._grammars: OrderedDict[str, str] = OrderedDict()  # by schema; the one used last is the last

    def begin(self, task: str, schema: Mapping[str, Any]) -> Constraint:
        """Make the constraint of a new output of a task.

        Raises:
            SettingsError: the schema is not valid, or llguidance is not installed.
            ModelUnavailable: llguidance cannot read the model's vocabulary.
        """
        try:
            return self._begin(schema)
        except ModuleNotFoundError:
            why = "extracts, which needs the library llguidance"
            raise SettingsError(f"tasks.{task} {why}: {extras.how_to_install('extract')}") from None
        except ModelUnavailable as error:
            raise ModelUnavailable(f"tasks.{task} extracts, and {error}") from error
        except _Unusable as fault:
            raise SettingsError(f"tasks.{task}.schema: {fault}") from None

    def begin_request(self, schema: Mapping[str, Any]) -> Constraint:
        """Make the constraint of an output whose request may have brought the schema.

        Raises:
            BadRequest: the schema is not valid, or this box cannot hold outputs to schemas.
        """
        try:
            return self._begin(schema)
        except ModuleNotFoundError:
            raise BadRequest("this box has no llguidance, which schemas need", field="response_format") from None
        except (ModelUnavailable, _Unusable) as fault:
            raise BadRequest(f"the schema cannot be used: {fault}", field="response_format") from None

    def _begin(self, schema: Mapping[str, Any]) -> Constraint:
        from llguidance import LLMatcher  # noqa: PLC0415 - an optional dependency

        if self._vocabulary is None:
            try:
                self._vocabulary = _vocabulary_of(self._tokenizer, self._vocab_size)
            except Exception as error:
                raise ModelUnavailable(f"llguidance cannot read this model's tokenizer: {error}") from error
        key = json.dumps(schema)
        if key not in self._grammars:
            # With flexible white space a model may write white space for ever.
            grammar = LLMatcher.grammar_from_json_schema(key, defaults={"whitespace_flexible": False})
            fault = LLMatcher.validate_grammar(grammar, self._vocabulary)
            if fault := fault or _fault_at_first(LLMatcher(self._vocabulary, grammar)):
                raise _Unusable(fault)
            self._grammars[key] = grammar
            if len(self._grammars) > _MAX_GRAMMARS:
                self._grammars.popitem(last=False)
        self._grammars.move_to_end(key)
        return Constraint(LLMatcher(self._vocabulary, self._grammars[key]), int(self._vocabulary.eos_token))


def _vocabulary_of(tokenizer: ModelTokenizer, vocab_size: int) -> "LLTokenizer":
    """What llguidance needs of a tokenizer, as its own `hf.from_tokenizer` makes it, but without transformers."""
    from llguidance import LLTokenizer  # noqa: PLC0415 - an optional dependency

    if not tokenizer.is_fast:
        raise ValueError("only fast tokenizers are supported")
    backend = copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    return LLTokenizer(backend.to_str(), n_vocab=vocab_size, eos_token=tokenizer.eos_token_id)


def _fault_at_first(matcher: "LLMatcher") -> str:
    """What is wrong with a schema that no finite output fits, as one that requires itself; empty if nothing is."""
    forced = matcher.compute_ff_tokens()
    if forced and not matcher.consume_token(forced[0]):
        return f"no output of it is ever complete ({_fault_of(matcher)})"
    return ""


def _fault_of(matcher: "LLMatcher") -> str:
    """The first line of the error. The lines after it contain the output so far, which is user text."""
    return matcher.get_error().partition("\n")[0]
