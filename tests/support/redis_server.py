"""A Redis server for one test, on a free port of 127.0.0.1; it keeps nothing on disk."""

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.broker import free_port, until_listening
from tests.support.waiting import TIMEOUT


@dataclass(slots=True, kw_only=True)
class RedisServer:
    """A server that may be started and stopped many times; it loses its data when it stops."""

    folder: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        program = os.environ.get("EDGED_TEST_REDIS") or shutil.which("redis-server")
        if program is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("redis-server is not here: tests/run.sh fetches it")
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([program, *options], cwd=self.folder, stdout=log, stderr=log)
        until_listening(self.port)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(TIMEOUT)
