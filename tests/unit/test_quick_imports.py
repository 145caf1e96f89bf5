"""Imports at the start."""

import gc
import importlib
import sys

import pytest

from edged.commands.quick_imports import quick_imports


def test_rich_is_left_out_within_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rich", raising=False)
    with quick_imports():
        assert not gc.isenabled()
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("rich")
    assert gc.isenabled()
    importlib.import_module("rich")
