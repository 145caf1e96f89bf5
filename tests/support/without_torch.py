"""Runs a module of Python as on a box where torch and transformers are not installed, nor what downloads models.

As `python -m tests.support.without_torch edged run`. What is imported all the same ends the program with an error.
"""

import runpy
import sys
from importlib.abc import MetaPathFinder
from typing import Any

BLOCKED = frozenset({"torch", "transformers", "accelerate", "safetensors", "gguf", "huggingface_hub", "tqdm"})


class Blocked(MetaPathFinder):
    """Finds no blocked library."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002 - Python's own form
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, Blocked())
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
