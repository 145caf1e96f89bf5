"""A real llama.cpp server on the small model: `python -m tests.support.llama_server PORT`, or as a fixture."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import assets
from tests.support.broker import free_port
from tests.support.waiting import TIMEOUT

_START_S = 300.0  # spent only by a start that fails: where others take the cores, imports and loading take minutes


@dataclass(slots=True, kw_only=True)
class LlamaServer:
    """Started and stopped as often as a test likes, on one port of 127.0.0.1."""

    folder: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start, and wait until the model is loaded; the test fails where that takes too long."""
        self.stop()
        command = [sys.executable, "-m", "tests.support.llama_server", str(self.port)]
        log = self.folder / "llama.log"
        with log.open("ab") as file:
            self._process = process = subprocess.Popen(command, stdout=file, stderr=file)
        deadline = time.monotonic() + _START_S
        # It listens before it has loaded its model, and answers 503 until then.
        while not self._has_loaded():
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                pytest.fail(f"the llama.cpp server did not come up: {tail}")
            time.sleep(0.05)

    def _has_loaded(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5.0):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        """End the server, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(TIMEOUT)


@contextmanager
def llama_server(folder: Path) -> Iterator[LlamaServer]:
    """A server that has started; it ends with the block, whatever happens in it."""
    server = LlamaServer(folder=folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def main() -> None:
    parent = os.getppid()
    import xllamacpp  # type: ignore[import-untyped]  # noqa: PLC0415 - not in this process when it is a fixture

    params = xllamacpp.CommonParams()
    params.model.path = str(assets.small_model())
    params.port = int(sys.argv[1])
    params.n_parallel = 4
    params.n_ctx = 4 * 2048
    params.cpuparams.n_threads = 1  # more would wait for each other by spinning, on cores that other tests need
    params.warmup = False
    server = xllamacpp.Server(params)
    while server is not None and os.getppid() == parent:  # it does not outlive the tests, even if they are killed
        time.sleep(0.5)


if __name__ == "__main__":
    main()
