import os
from pathlib import Path


def qwen_tokenizer() -> Path:
    return Path(os.environ["EDGED_TEST_QWEN_TOKENIZER"])
