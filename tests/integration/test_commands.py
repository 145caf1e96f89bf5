"""The command line as a process: what it imports, prints and exits with."""

import json
import subprocess
import sys

import pytest

SLOW_LIBRARIES = {"torch", "transformers", "paho", "rich", "structlog", "pydantic_settings", "asyncio", "numpy", "tqdm"}
IMPORTED = """
import json, sys
from edged.commands.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
print()
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.mark.parametrize("command", ["", "run", "demo", "ask", "check", "top", "models prepare", "bench", "eval"])
def test_help_is_quick(command: str) -> None:
    arguments = [sys.executable, "-c", IMPORTED, *command.split(), "--help"]
    output = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=60).stdout
    code, modules = json.loads(output.splitlines()[-1])
    assert code == 0
    assert not SLOW_LIBRARIES & set(modules)
