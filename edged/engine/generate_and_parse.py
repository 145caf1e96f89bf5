"""The baseline that edged is compared with: transformers' `generate` in fp32, without a cache between texts."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging


def load(path: Path, max_new_tokens: int) -> Callable[[str], str]:
    """Load a model; gives a function that continues a prompt greedily.

    Args:
        path: a folder of safetensors, or a GGUF file.
        max_new_tokens: the most tokens of one answer.
    """
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the loading of the weights needs no progress bar
    folder, more = (path, {}) if path.is_dir() else (path.parent, {"gguf_file": path.name})
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **more)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, **more
    )
    model.train(mode=False)

    def generate(prompt: str) -> str:
        inputs = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(  # type: ignore[operator] # a mixin that transformers types as a tensor
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id
            )
        return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    return generate
