"""A tiny random model that can be talked to: a checkpoint with a tokenizer and a chat template."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.support import tiny

_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_WORDS = "positive negative neutral Positive Negative happy sad good bad Comment Feeling 正面 负面 中性 好 差"


def save(folder: Path, name: str = "qwen3") -> Path:
    """Write the checkpoint of a tiny config into a folder, with a licence as makers of models give one."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    inner.train_from_iterator([_WORDS] * 20, trainer)
    marks = [AddedToken(each, special=True, normalized=False) for each in ("<|im_start|>", "<|im_end|>")]
    inner.add_special_tokens(marks)
    make: Any = PreTrainedTokenizerFast
    config = tiny.CONFIGS[name].to_dict() | {"max_position_embeddings": 2048}
    tiny.save(tiny.make(type(tiny.CONFIGS[name])(**config)), folder)
    make(tokenizer_object=inner, eos_token="<|endoftext|>", chat_template=_CHATML).save_pretrained(folder)
    (folder / "LICENSE").write_text("Do what you like.")
    return folder
