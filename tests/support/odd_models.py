"""Tiny models as people have them: of another kind, saved by another program, or with parts missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2ForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.support import tiny

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
Change = Callable[[Path], Any]
SMALL: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 300 tokens, with ChatML's marks."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    words = "positive negative Positive Negative happy sad good bad Comment Feeling 正面 负面 好 差 喜欢 讨厌"
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    inner.train_from_iterator([words] * 20, trainer)
    inner.add_special_tokens(
        [AddedToken(each, special=True, normalized=False) for each in ("<|im_start|>", "<|im_end|>")]
    )
    make: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = make(tokenizer_object=inner, eos_token="<|endoftext|>", chat_template=CHATML)
    return made


def sized(config: Any) -> Any:
    return type(config)(**(config.to_dict() | {"max_position_embeddings": 2048}))


def saved(model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    tiny.save(model, folder)
    tokenizer.save_pretrained(folder)
    edit("generation_config.json", eos_token_id=0)(folder)
    return folder


def edit(name: str, **fields: Any) -> Change:
    def change(folder: Path) -> None:
        said = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps(said | fields))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    def write(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return write


def template(template: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        edit("tokenizer_config.json", chat_template=template)(folder)

    return change


def t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(T5Config(vocab_size=512, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2))


def labels() -> PreTrainedModel:
    make: Any = Qwen2ForSequenceClassification
    model: PreTrainedModel = make(tiny.CONFIGS["qwen2"])
    return model


def bert() -> PreTrainedModel:
    return BertForMaskedLM(BertConfig(**SMALL))


def random_model(config: Any) -> PreTrainedModel:
    make: Any = AutoModelForCausalLM.from_config
    model: PreTrainedModel = make(config)
    return model


def _deep(name: str, tensor: torch.Tensor) -> bool:
    return tensor.dim() == 2 and "layers" in name


def bitsandbytes(folder: Path) -> None:
    edit("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})(folder)
    tensors(
        lambda w: {k: torch.zeros((v.numel() // 2, 1), dtype=torch.uint8) if _deep(k, v) else v for k, v in w.items()}
    )(folder)


def mlx(folder: Path) -> None:
    edit("config.json", quantization={"group_size": 64, "bits": 4})(folder)
    tensors(lambda w: {k: torch.zeros((2, 2), dtype=torch.uint32) if _deep(k, v) else v for k, v in w.items()})(folder)


def only_adapter(folder: Path) -> None:
    for each in folder.iterdir():
        each.unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct"}')


def only(name: str) -> Change:
    def change(folder: Path) -> None:
        for each in folder.iterdir():
            each.unlink()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")

    return change


def described(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    inner = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    said = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [*words, *(f"[PAD{i}]" for i in range(512 - len(words)))],
        "token_type": [3 if word.startswith("<|") else 1 for word in words] + [5] * (512 - len(words)),
        "merges": [each if isinstance(each, str) else " ".join(each) for each in inner["merges"]],
        "eos_token_id": 0,
    }
    return {key: value for key, value in (said | more).items() if value is not None}
