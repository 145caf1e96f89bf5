"""The optional dependencies (pip's extras): which of them are missing here, and the command that installs them.

Torch and transformers may be missing too: `deploy/install.sh --serve` installs what serves a bundle, and no more.
"""

import importlib.metadata
import importlib.util
import platform
import sys
from typing import Literal

Extra = Literal["demo", "extract", "fleet", "http", "metrics", "top"]

_LIBRARIES: dict[Extra, str] = {
    "demo": "amqtt",
    "extract": "llguidance",
    "fleet": "redis",
    "http": "uvicorn",
    "metrics": "prometheus_client",
    "top": "rich",
}

_PACKAGES: dict[Extra, str] = {"metrics": "prometheus-client"}  # where the package is named otherwise than its library

_WITHOUT_PIP = "this installation (a Debian package or an image)"


def is_missing(extra: Extra) -> bool:
    """Whether the library of an extra is not installed."""
    return importlib.util.find_spec(_LIBRARIES[extra]) is None


def how_to_install(extra: Extra) -> str:
    """The command that installs an extra into the environment that runs this, or where that cannot be, beside it."""
    if not _has_pip():
        return (
            f"{_WITHOUT_PIP} takes no further packages; install edged once more beside it, from a checkout: "
            f"sh deploy/install.sh{' --serve' if only_serves() else ''} --venv DIR --extras {extra}"
        )
    if only_serves():  # pip would bring torch along with edged
        return (
            f"install it with: {sys.prefix}/bin/python -m pip install {_PACKAGES.get(extra, _LIBRARIES[extra])} "
            f"(from a checkout: sh deploy/install.sh --serve --venv {sys.prefix} --extras {extra})"
        )
    build = " --cuda" if _is_for_gpu() else ""
    return (
        f"install it with: {sys.prefix}/bin/python -m pip install 'edged[{extra}]' "
        f"(from a checkout: sh deploy/install.sh --venv {sys.prefix} --extras {extra}{build})"
    )


def only_serves() -> bool:
    """Whether this installation is without torch, and so serves bundles and does nothing else with models."""
    try:
        return importlib.util.find_spec("torch") is None
    except ModuleNotFoundError:  # something in this process refuses to find it
        return True


def how_to_get_torch() -> str:
    """What to do where something takes torch, as the end of a sentence."""
    if not _has_pip():
        return (
            f"torch and transformers are needed, and {_WITHOUT_PIP} is without them and takes no further packages: use "
            "a box with the full installation, or install it beside this one, from a checkout: sh deploy/install.sh "
            "--venv DIR"
        )
    return (
        "torch and transformers are needed, and this installation is without them (deploy/install.sh --serve): use a "
        "box with the full installation, or make this one full, from a checkout: sh deploy/install.sh --venv "
        f"{sys.prefix}"
    )


def _has_pip() -> bool:
    """Whether packages can be installed into this environment: Debian packages and images are without pip."""
    return importlib.util.find_spec("pip") is not None


def _is_for_gpu() -> bool:
    """Whether torch is the build for GPUs, which `install.sh` would replace unless an option says otherwise."""
    try:
        wanted = importlib.metadata.requires("torch") or []
    except importlib.metadata.PackageNotFoundError:
        return False
    here = (each for each in wanted if "platform_machine" not in each or f'"{platform.machine()}"' in each)
    return any(("nvidia" in each or "cuda" in each) and "extra ==" not in each for each in here)
