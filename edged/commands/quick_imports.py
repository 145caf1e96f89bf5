"""Imports without a search for garbage, which takes a tenth of their time and finds none: what they make stays."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Search for no garbage within this context; what it made is left out of later searches."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
