"""Takes out of an environment what edged never imports there, for images: the environment cannot be changed any more.

usage: slim.py ENVIRONMENT

Text models are prepared and served as before. What goes: tests, headers and test programs of the packages; the code of
transformers' models that write no text (their settings and tokenizers stay); setuptools and networkx, which torch asks
for and edged's ways through torch do not import; parts of sympy and pygments that nothing here uses; bytecode; and, by
`strip`, the names of functions that only debuggers read. Of pip an archive stays, where models are prepared: `edged
models pull` runs it for models of the package index.
"""

import re
import shutil
import subprocess
import sys
import zipfile
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
    "sympy/physics",
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
    "pygments/lexers/[a-z]*.py",  # the languages; the modules that list them stay
    "pygments/lexers/_*_builtins.py",
)
PIP_ARCHIVE = "lib/pip.zip"  # edged/models/wheel.py looks for it there
_NEEDED_PROGRAM = "torch_shm_manager"  # torch looks for it when it is imported
# auditwheel has rewritten these libraries, which strip would damage.
_REWRITTEN = re.compile(r"\.libs/|-[0-9a-f]{8}\.so")
# In transformers' auto/modeling_auto.py: the classes that continue a text.
_WRITERS = re.compile(r"^MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict\((.*?)^\)", re.MULTILINE | re.DOTALL)
_CLASS = re.compile(r"^class (\w+)", re.MULTILINE)
_KIND = re.compile(r"^ +model_type = \"([\w-]+)\"", re.MULTILINE)
_PART = re.compile(r"\bmodel_type=\"([\w-]+)\"|CONFIG_MAPPING\[\"([\w-]+)\"\]")


def main() -> None:
    environment = Path(sys.argv[1])
    (site,) = environment.glob("lib/python3*/site-packages")
    if (site / "torch").is_dir():
        archive_pip(site / "pip", environment / PIP_ARCHIVE)
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


def archive_pip(pip: Path, archive: Path) -> None:
    """Pack pip into one file, which Python can run: a sixth of its size, and no module that others would find."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for file in sorted(pip.rglob("*")):
            if file.is_file() and file.suffix not in {".pyc", ".exe", ".pyi"}:
                packed.write(file, file.relative_to(pip.parent))


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
    listed = _WRITERS.search(code["auto"])
    writers = set(re.findall(r"\w+", listed[1])) if listed else set()
    of_kind = {kind: name for name, words in code.items() for kind in _KIND.findall(words)}
    kept = {name for name, words in code.items() if "ForCausalLM" in words} | {"auto"}
    for name, words in code.items():
        heads = writers.intersection(_CLASS.findall(words))
        if heads:
            kept.add(name)
        if any(each.endswith("ForConditionalGeneration") for each in heads):  # it is built with its other parts
            kept |= {of_kind[kind] for pair in _PART.findall(words) for kind in pair if kind in of_kind}
    while more := {used for name in kept for used in re.findall(r"from \.\.(\w+)", code[name]) if used in code} - kept:
        kept |= more
    for name in code.keys() - kept:
        for pattern in ("modeling_*.py", "generation_*.py", "*processing_*.py", "feature_extraction_*.py"):
            yield from (models / name).glob(pattern)


if __name__ == "__main__":
    main()
