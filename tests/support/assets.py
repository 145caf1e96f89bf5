"""Files that `tests/run.sh` fetches: paths from the environment. Missing ones skip on a laptop and fail in CI."""

import os
from pathlib import Path
from typing import NoReturn

import pytest


def small_model() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct."""
    return _path("EDGED_TEST_MODEL")


def qwen_tokenizer() -> Path:
    """A folder with the real tokenizer of Qwen1.5. Its config names the base model's end token, which ends no turn."""
    return _path("EDGED_TEST_QWEN_TOKENIZER")


def mosquitto_client(name: str) -> Path:
    """`mosquitto_pub`, `mosquitto_sub` or `mosquitto_rr`."""
    return _path("EDGED_MOSQUITTO_CLIENTS") / name


def nginx() -> Path:
    """The web server."""
    return _path("EDGED_TEST_NGINX")


def chromium() -> Path:
    """The browser."""
    return _path("EDGED_TEST_CHROMIUM")


def axe() -> Path:
    """axe-core, the script that checks a page for accessibility."""
    return _path("EDGED_TEST_AXE")


def build() -> Path:
    """What `deploy/build.sh` made and keeps: the compiler, and the wheels of both machines with their kernels."""
    return _path("EDGED_TEST_BUILD")


def qemu() -> Path:
    """A folder with the emulator of ARM, and the C library of arm64."""
    return _path("EDGED_TEST_QEMU")


def arm64() -> Path:
    """A folder with an arm64 Python and the packages that serving a bundle needs."""
    return _path("EDGED_TEST_ARM64")


def other_broker(name: str) -> Path:
    """The folder with a broker that `tests/fetch_broker.sh` unpacked."""
    return _path("EDGED_TEST_BROKERS") / name


def node_red() -> Path:
    """Node-RED's program, for node."""
    return _path("EDGED_TEST_NODE_RED") / "node_modules/node-red/red.js"


def homeassistant() -> Path:
    """The Python that runs Home Assistant. Where Debian's mirror lacks it, its tests are skipped, in CI too."""
    missing = _path("EDGED_TEST_HOMEASSISTANT") / "missing"
    if missing.exists():
        pytest.skip(missing.read_text().strip())
    return _path("EDGED_TEST_HOMEASSISTANT") / "bin" / "python"


def _path(variable: str) -> Path:
    value = os.environ.get(variable)
    if value is None:
        _missing(f"{variable} is not set; `sh tests/run.sh` fetches what the tests need")
    path = Path(value)
    if not path.exists():
        _missing(f"{variable}: there is no {path}")
    return path


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
