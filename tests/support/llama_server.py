"""A real llama.cpp server on the small model: `python -m tests.support.llama_server PORT`, or as a fixture."""

import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import assets
from tests.support.broker import free_port, until_listening
from tests.support.waiting import TIMEOUT, eventually


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
        """Start, and wait until its model is loaded. A server that does not come up is ended again."""
        self.stop()
        command = [sys.executable, "-m", "tests.support.llama_server", str(self.port)]
        with (self.folder / "llama.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until_listening(self.port)
            eventually(self._has_loaded, "the server's model")  # until then it answers 503
        except BaseException:
            self.stop()
            raise

    def _has_loaded(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5.0):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(TIMEOUT)
            self._process = None


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
    while server is not None and os.getppid() == parent:  # it ends with the tests, even if they are killed
        time.sleep(0.5)


if __name__ == "__main__":
    main()
