"""Memory that this process holds although nothing uses it any more."""

import ctypes
import gc
import sys
from contextlib import suppress


def give_back_memory() -> None:
    """Give it back to the system: the reading of a tokenizer leaves as much as the tokenizer takes."""
    with suppress(OSError, AttributeError):  # only glibc has this function
        ctypes.CDLL(None).malloc_trim(0)


def give_back_model() -> None:
    """Give back what a model held that nobody refers to any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    give_back_memory()
