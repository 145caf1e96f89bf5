"""Imports in less time: without a search for garbage, and without libraries that others import and nobody uses here.

The search takes a tenth of the time of imports and finds none: what they make stays.
"""

import contextlib
import gc
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from typing import Any

# structlog imports rich wherever it is installed, as with transformers, for tracebacks that edged does not show. That
# takes as long as all of structlog. `edged top`, which draws with it, imports it later.
_NOT_WANTED = frozenset({"rich"})


class _Refusing(MetaPathFinder):
    """Has imports of what is not wanted fail, as if it were not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002 - Python's own form
        if name in _NOT_WANTED:
            raise ModuleNotFoundError(f"{name} is not wanted here", name=name)


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Search for no garbage within this context; what it made is left out of later searches."""
    refusing = _Refusing()
    sys.meta_path.insert(0, refusing)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        sys.meta_path.remove(refusing)
