"""The tokenizer that a GGUF file describes, as transformers' own class: byte-level BPE, and SentencePiece's kind.

A file of byte-level BPE holds vocabulary and merges, and only the name of the rule that splits text into words. Each
rule is spelled out here as the models' own tokenizer.json has it; with another rule the same merges give other tokens,
so a name that is not known is refused. What a file leaves out is taken as llama.cpp takes it
(`llama_vocab::impl::load`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import structlog
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from edged.engine.weights.gguf_file import GgufFile
from edged.engine.weights.gguf_sentencepiece import backend_of
from edged.errors import ModelUnavailable

log = structlog.get_logger(__name__)


class _Kind(IntEnum):
    """llama.cpp's types of tokens, as far as they matter here."""

    NORMAL = 1
    CONTROL = 3  # <|im_end|>: in text it is never meant
    USER_DEFINED = 4  # <think>: kept whole wherever it stands
    UNUSED = 5  # a row of padding


_NAMED_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_BY_SCORES = "llama"  # what GGUF calls SentencePiece's kind
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# What ends a turn by its text, whatever the file says of it.
_END_TEXTS = frozenset(
    {
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|eom_id|>", "<|endoftext|>", "<EOT>"),
        *("_<EOT>", "[EOT]", "[EOS]", "<end_of_turn>", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "</s>"),
        "<｜end▁of▁sentence｜>",
    }
)
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


def _default() -> pre_tokenizers.PreTokenizer:
    """llama.cpp's rule for files that name none."""
    patterns = (
        r"[\p{P}\$\+<=>\^~\|]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"\p{N}+",
        "[0-9][0-9][0-9]",
    )
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """How text becomes words, and what goes with it.

    Attributes:
        adds_bos: whether a text begins with the BOS token, where the file does not say.
        ignores_merges: whether a word that is a token is taken whole, whatever the merges say.
        normalises: to Unicode's composed form.
    """

    words: Callable[[], pre_tokenizers.PreTokenizer]
    adds_bos: bool = False
    ignores_merges: bool = False
    normalises: bool = False


_QWEN2 = _Rule(words=lambda: _words_by(_QWEN2_WORDS), normalises=True)
_LLAMA3 = _Rule(words=lambda: _words_by(_LLAMA3_WORDS), adds_bos=True, ignores_merges=True)
_RULES: Mapping[str, _Rule] = {
    "default": _Rule(words=_default),
    "gpt-2": _Rule(words=_gpt2),
    "smollm": _Rule(words=_smollm),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}


def tokenizer_of(file: GgufFile) -> PreTrainedTokenizerBase:
    """Build the tokenizer.

    Raises:
        ModelUnavailable: it is of a kind that is not known here, or incomplete.
    """
    said = _said(file)
    kind, name = said.get("model"), said.get("pre") or "default"
    by_scores = kind == _BY_SCORES and "scores" in said
    if not by_scores and (kind != "gpt2" or name not in _RULES):
        raise ModelUnavailable(
            f"{file.path} has a tokenizer of kind {kind}/{name}; byte-level BPE of {', '.join(_RULES)} is read, and "
            "SentencePiece's kind with scores: use the model's folder of safetensors"
        )
    if not by_scores and not said.get("pre"):
        log.warning("tokenizer_guessed", missing="tokenizer.ggml.pre", taken=name, reason="as llama.cpp does")
    try:
        return _build(said, None if by_scores else _RULES[str(name)], file.metadata.get("tokenizer.chat_template"))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelUnavailable(f"{file.path} has a tokenizer that makes no sense ({error}); fetch it again") from error


def end_tokens_of(file: GgufFile) -> frozenset[int]:
    """Give the tokens that end a turn: those that the file names, and those that llama.cpp knows by their text."""
    said = _said(file)
    tokens = said.get("tokens", [])
    named = {said[key] for key in _END_KEYS if isinstance(said.get(key), int)}
    by_text = {i for i, token in enumerate(tokens) if token in _END_TEXTS} - named
    if by_text:
        log.info("ends_of_turn_guessed", tokens=sorted(tokens[i] for i in by_text), reason="by their text")
    return frozenset(named | by_text)


def adds_beginning(file: GgufFile) -> bool:
    """Tell whether every text begins with the BOS token."""
    said = _said(file)
    rule = _RULES.get(str(said.get("pre") or "default"), _Rule(words=_gpt2))
    by_scores = said.get("model") == _BY_SCORES
    return "bos_token_id" in said and bool(said.get("add_bos_token", by_scores or rule.adds_bos))


def _said(file: GgufFile) -> dict[str, Any]:
    return {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in file.metadata.items()
        if key.startswith("tokenizer.ggml.")
    }


def _build(said: Mapping[str, Any], rule: _Rule | None, chat_template: Any) -> PreTrainedTokenizerBase:
    """Build a tokenizer of byte-level BPE by a rule, or without one by scores."""
    tokens: list[str] = said["tokens"]
    kinds = _kinds(said, tokens)
    vocab = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != _Kind.UNUSED}
    backend = _by_scores(said, vocab, tokens, kinds) if rule is None else _byte_level(said, vocab, rule)
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _Kind.CONTROL]
    whole = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _Kind.USER_DEFINED]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in whole])
    named = {name: tokens[said[key]] for name, key in _NAMED_TOKENS.items() if key in said}
    processor = _around(said, named, tokens, adds_bos=rule is None or rule.adds_bos)
    if processor is not None:
        backend.post_processor = processor
    make: Any = PreTrainedTokenizerFast  # ships no types
    tokenizer: PreTrainedTokenizerBase = make(
        tokenizer_object=backend,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=[token for token in control if token not in named.values()],
        **named,
    )
    return tokenizer


def _kinds(said: Mapping[str, Any], tokens: list[str]) -> list[int]:
    """Give each token's type. What ends a turn is of type CONTROL, whatever the file says."""
    kinds: list[int] = list(said.get("token_type") or [_Kind.NORMAL] * len(tokens))
    ends = {i for i, token in enumerate(tokens) if token in _END_TEXTS}
    ends |= {said[key] for key in _END_KEYS if isinstance(said.get(key), int) and 0 <= said[key] < len(kinds)}
    wrong = sorted(i for i in ends if i < len(kinds) and kinds[i] != _Kind.CONTROL)
    for i in wrong:
        kinds[i] = _Kind.CONTROL
    if wrong:
        log.info("tokens_taken_as_control", tokens=[tokens[i] for i in wrong], reason="they end a turn")
    return kinds


def _byte_level(said: Mapping[str, Any], vocab: dict[str, int], rule: _Rule) -> Tokenizer:
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in said["merges"])]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=rule.ignores_merges))
    if rule.normalises:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = rule.words()
    backend.decoder = decoders.ByteLevel()
    return backend


def _by_scores(said: Mapping[str, Any], vocab: dict[str, int], tokens: list[str], kinds: list[int]) -> Tokenizer:
    unknown = said.get("unknown_token_id")
    of_text = {_Kind.NORMAL, _Kind.USER_DEFINED}
    scores = {token: score for token, score, kind in zip(tokens, said["scores"], kinds, strict=True) if kind in of_text}
    return backend_of(
        vocab,
        scores,
        unknown=None if unknown is None else tokens[unknown],
        adds_space=bool(said.get("add_space_prefix", True)),
    )


def _around(
    said: Mapping[str, Any], named: Mapping[str, str], tokens: list[str], *, adds_bos: bool
) -> processors.TemplateProcessing | None:
    """Give what puts BOS before a text and EOS after it, as far as the file or its rule wants them."""
    bos = named.get("bos_token") if said.get("add_bos_token", adds_bos) else None
    eos = named.get("eos_token") if said.get("add_eos_token", False) else None
    if bos is not None and "add_bos_token" not in said:
        log.info("tokenizer_guessed", missing="tokenizer.ggml.add_bos_token", taken=True, reason="as llama.cpp does")
    if bos is None and eos is None:
        return None
    one, two = (" ".join(filter(None, (bos, text, eos))) for text in ("$A", "$B"))
    special = [(token, tokens.index(token)) for token in {bos, eos} if token is not None]
    return processors.TemplateProcessing(single=one, pair=f"{one} {two}", special_tokens=special)
