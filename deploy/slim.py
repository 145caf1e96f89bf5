"""Takes out of an environment what edged never imports there, for images: the environment cannot be changed any more.

usage: slim.py ENVIRONMENT

Text models are prepared and served as before. What goes: tests, headers and test programs of the packages; the code of
transformers' models that write no text (their settings and tokenizers stay); pip, setuptools and networkx, which torch
asks for and edged's ways through torch do not import; bytecode; and, by `strip`, the names of functions that only
debuggers read.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Of torch/testing/_internal torch itself imports parts.
_FOLDERS = (
    "torch/test",
    "torch/include",
    *(f"torch/testing/_internal/{each}" for each in ("data", "generated", "opinfo", "optests")),
    "torch/share",
    "numpy/f2py",
    "numpy/_core/include",
    "networkx",
    "networkx-*.dist-info",
    "pip",
    "pip-*.dist-info",
    "setuptools",
    "setuptools-*.dist-info",
    "pkg_resources",
    "_distutils_hack",
    "**/tests",
    "**/__pycache__",
)
_FILES = (
    "torch/lib/*test.so",
    *(f"torch/testing/_internal/common_{each}.py" for each in ("methods_invocations", "modules", "nn")),
    "transformers/models/*/modular_*.py",
    "transformers/models/*/convert_*.py",
    "*.dist-info/RECORD",
    "distutils-precedence.pth",  # of setuptools
    "**/*.pyi",
)
_NEEDED_PROGRAM = "torch_shm_manager"  # torch looks for it when it is imported
# auditwheel has rewritten these libraries, which strip would damage.
_REWRITTEN = re.compile(r"\.libs/|-[0-9a-f]{8}\.so")
_WRITES_TEXT = "ForCausalLM"


def main() -> None:
    environment = Path(sys.argv[1])
    (site,) = environment.glob("lib/python3*/site-packages")
    for folder in [each for pattern in _FOLDERS for each in site.glob(pattern)]:
        shutil.rmtree(folder, ignore_errors=True)  # one may have gone with another
    unneeded = [each for pattern in _FILES for each in site.glob(pattern)]
    unneeded += [each for each in site.glob("torch/bin/**/*") if each.is_file() and each.name != _NEEDED_PROGRAM]
    unneeded += [*environment.glob("bin/pip*"), *other_models(site / "transformers/models")]
    for file in unneeded:
        file.unlink(missing_ok=True)
    libraries = [each for each in site.rglob("*.so") if not _REWRITTEN.search(str(each))]
    if libraries:
        subprocess.run(["strip", "--strip-unneeded", *map(str, libraries)], check=True)


def other_models(models: Path) -> Iterator[Path]:
    """The code of transformers' models that neither write text nor are used by one that does.

    Settings and tokenizers stay for every model, because transformers looks them up by the names of others.
    """
    if not models.is_dir():
        return
    code = {
        folder.name: "".join(file.read_text() for file in folder.glob("*.py") if not file.name.startswith("modular_"))
        for folder in models.iterdir()
        if folder.is_dir()
    }
    kept = {name for name, words in code.items() if _WRITES_TEXT in words} | {"auto"}
    while more := {used for name in kept for used in re.findall(r"from \.\.(\w+)", code[name]) if used in code} - kept:
        kept |= more
    for name in code.keys() - kept:
        for pattern in ("modeling_*.py", "*processing_*.py", "feature_extraction_*.py", "processing_*.py"):
            yield from (models / name).glob(pattern)


if __name__ == "__main__":
    main()
