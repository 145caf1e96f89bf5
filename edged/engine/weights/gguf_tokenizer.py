"""The tokenizer that a GGUF file describes, as transformers' own class. Byte-level BPE only.

A file holds vocabulary and merges, and only the name of the rule that splits text into words. Each rule is spelled
out here as the models' own tokenizer.json has it; with another rule the same merges give other tokens, so a name that
is not known is refused.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from edged.engine.weights.gguf_file import GgufFile
from edged.errors import ModelUnavailable


class _Kind(IntEnum):
    """llama.cpp's types of tokens, as far as they matter here."""

    CONTROL = 3  # <|im_end|>: in text it is never meant
    USER_DEFINED = 4  # <think>: kept whole wherever it stands
    UNUSED = 5  # a row of padding


_NAMED_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_WORDS = _QWEN2_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _words_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


_RULES: Mapping[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "default": _gpt2,
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "qwen2": lambda: _words_by(_QWEN2_WORDS),
    "llama-bpe": lambda: _words_by(_LLAMA3_WORDS),
}


def tokenizer_of(file: GgufFile) -> PreTrainedTokenizerBase:
    """Build the tokenizer.

    Raises:
        ModelUnavailable: it is of a kind that is not known here, or incomplete.
    """
    said = {key.removeprefix("tokenizer.ggml."): value for key, value in file.metadata.items()}
    kind, rule = said.get("model"), said.get("pre", "default")
    if kind != "gpt2" or rule not in _RULES:
        raise ModelUnavailable(
            f"{file.path} has a tokenizer of kind {kind}/{rule}; byte-level BPE of {', '.join(_RULES)} is read: "
            "use the model's folder of safetensors"
        )
    try:
        return _build(said, str(rule), file.metadata.get("tokenizer.chat_template"))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelUnavailable(f"{file.path} has a tokenizer that makes no sense ({error}); fetch it again") from error


def _build(said: Mapping[str, Any], rule: str, chat_template: Any) -> PreTrainedTokenizerBase:
    tokens: list[str] = said["tokens"]
    kinds: list[int] = said.get("token_type", [1] * len(tokens))
    vocab = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != _Kind.UNUSED}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in said["merges"])]
    # Llama 3 takes a word that is a token whole, whatever the merges say.
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=rule == "llama-bpe"))
    if rule == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _RULES[rule]()
    backend.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _Kind.CONTROL]
    whole = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _Kind.USER_DEFINED]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in whole])
    named = {name: tokens[said[key]] for name, key in _NAMED_TOKENS.items() if key in said}
    if said.get("add_bos_token") and "bos_token" in named:
        bos = named["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokens.index(bos))]
        )
    make: Any = PreTrainedTokenizerFast  # ships no types
    tokenizer: PreTrainedTokenizerBase = make(
        tokenizer_object=backend,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=[token for token in control if token not in named.values()],
        **named,
    )
    return tokenizer
