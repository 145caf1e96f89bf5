"""Times the start of a model in a fresh process, from the spawn of the process until its engine is ready.

Run as a program (`python -m edged.bench.cold_start`, settings as JSON on standard input), this module is the process
that is timed: it imports what the daemon imports, starts the engine as the daemon does, runs a few jobs and reports its
peak memory, as JSON lines on standard output. Broker and journal are left out: their time depends on the network and
the disk.
"""

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from edged import extras
from edged.errors import EdgedError, ModelUnavailable
from edged.ports.engine import ModelInfo
from edged.settings.schema import Settings

MESSAGES = 8  # run side by side before memory is read for the last time
_WHAT_IT_NEEDS = {"model", "engine", "model_dir", "half_width"}  # secrets are not passed to another process
_IMPORT = "import torch, transformers; print('{}', flush=True)"


@dataclass(frozen=True, kw_only=True, slots=True)
class ColdStart:
    """One start. Times are seconds from the spawn (`load_s`: of the engine alone), memory is in MiB.

    Attributes:
        import_s: of torch and transformers, by a Python that does nothing else; None where they are not installed.
    """

    import_s: float | None
    load_s: float
    ready_s: float
    first_token_s: float
    ready_memory_mb: float
    peak_memory_mb: float
    model: ModelInfo


def measure(settings: Settings) -> ColdStart:
    """Start the model of the settings in a fresh process, and a bare Python beside it for comparison.

    Raises:
        ModelUnavailable: the model does not start; the message comes from the process.
    """
    import_s = None
    if not extras.only_serves():
        with contextlib.closing(_told([sys.executable, "-c", _IMPORT], "")) as steps:
            import_s, _ = next(steps)
    wanted = settings.model_dump_json(include=_WHAT_IT_NEEDS)
    with contextlib.closing(_told([sys.executable, "-m", "edged.bench.cold_start"], wanted)) as steps:
        ready_s, ready = next(steps)
        first_token_s, _ = next(steps)
        _, worked = next(steps)
    return ColdStart(
        import_s=import_s,
        load_s=ready["model"]["load_s"],
        ready_s=ready_s,
        first_token_s=first_token_s,
        ready_memory_mb=ready["memory_mb"],
        peak_memory_mb=worked["memory_mb"],
        model=ModelInfo(**ready["model"]),
    )


def _told(command: list[str], given: str) -> Generator[tuple[float, Mapping[str, Any]], None, None]:
    """Run a program and give each JSON object that it prints, with the seconds since the spawn."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("both were asked for")
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(given)
            for line in process.stdout:
                seconds = time.perf_counter() - begin
                if not line.startswith("{"):
                    continue  # a line that a library printed
                body: Mapping[str, Any] = json.loads(line)
                if "error" in body:
                    raise ModelUnavailable(body["error"])
                yield seconds, body
            raise ModelUnavailable(f"a fresh process could not start the model: exit code {process.wait()}")
        finally:
            process.terminate()


def _main() -> int:
    """Run as the process that is timed."""
    # Imported here, so that the process that does the timing does not load torch.
    from edged import logs  # noqa: PLC0415
    from edged.bench.workloads import Workloads  # noqa: PLC0415
    from edged.build import make_engine  # noqa: PLC0415
    from edged.monitoring import system  # noqa: PLC0415
    from edged.tasks.built_in import BUILT_IN  # noqa: PLC0415

    logs.configure("error", "console")
    settings = Settings.model_validate(json.loads(sys.stdin.read()))
    engine = make_engine(settings, BUILT_IN)
    try:
        engine.start()
        engine.wait_ready()
        _tell(
            {
                "model": dataclasses.asdict(dataclasses.replace(engine.model, own_calibrations=())),
                "memory_mb": system.peak_memory_mb(),
            }
        )
        workloads = Workloads(engine)
        workloads.first_token()
        _tell({})
        workloads.messages(MESSAGES, MESSAGES)
        _tell({"memory_mb": system.peak_memory_mb()})
    except EdgedError as error:
        _tell({"error": str(error)})
        return 1
    finally:
        engine.stop()
    return 0


def _tell(body: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(body) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(_main())
