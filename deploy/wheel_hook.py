"""Puts compiled kernels into a wheel and names the machine that it is for, where `deploy/build.sh` asks for it.

Without EDGED_WHEEL_MACHINE it does nothing: the wheel is for every machine, and the kernels are compiled on the box.
"""

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        machine, kernels = os.environ.get("EDGED_WHEEL_MACHINE"), os.environ.get("EDGED_WHEEL_KERNELS")
        if version == "editable" or machine is None or kernels is None:
            return
        build_data["tag"] = f"py3-none-manylinux_2_17_{machine}"
        build_data["pure_python"] = False
        for library in sorted(Path(kernels).glob("edged-*.so")):
            build_data["force_include"][str(library)] = f"edged/engine/built/{library.name}"
