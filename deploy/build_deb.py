"""Makes a Debian package of edged from a wheel of `deploy/build.sh`.

usage: build_deb.py amd64|arm64 WHEEL OUT_DIR WORK_DIR [VERSION]

The Python packages are brought along, those with compiled code for each of PYTHONS: the names of compiled modules tell
for which Python they are, so all lie in one folder, and the package serves Debian 12 and 13 and the upgrade between
them. The same wheel and pins give the same bytes.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.parser import HeaderParser
from email.utils import parsedate_to_datetime
from pathlib import Path

import sbom
from packaging.requirements import Requirement

DEPLOY = Path(__file__).parent
DEBIAN = DEPLOY / "debian"
UNITS = DEPLOY.parent / "systemd"

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = ("extract", "fleet", "http", "metrics", "top")
# Of Debian 12 and newer; wheels say the oldest glibc that they run with.
GLIBCS = (17, 24, 26, 27, 28, 31)

PRIVATE = "usr/lib/edged"
SITE = f"{PRIVATE}/site-packages"
# What pip notes about its own work, and what a package needs for its own tests or to compile others against it.
_NOTES = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})
_UNUSED = re.compile(r"(^|/)(__pycache__|tests|include)/|\.(a|pyi|pxd|pyx|h|lib)$|^bin/")
# Two builds of one release may differ in what they say of themselves.
_BUILD_NOTES = re.compile(r"\.dist-info/(WHEEL$|METADATA$|sboms/)|/__config__\.py$")


def requirements(wheel: Path) -> list[str]:
    """What serving with all extras needs, of what the wheel asks for."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())
    left_out = project["tool"]["edged"]["not-for-serving"]  # torch alone is ten times as large as all the rest
    asked = map(Requirement, metadata.get_all("Requires-Dist", []))
    wanted = [
        each
        for each in asked
        if each.name not in left_out
        and (each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *EXTRAS)))
    ]
    return sorted(f"{each.name}{each.specifier}" for each in wanted)


def install(asked: Sequence[str], machine: str, python: str, folder: Path) -> None:
    """Have pip unpack packages and all that they need, for a machine and a Python that need not be this one."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--target", str(folder)]
    kind = ["--only-binary=:all:", "--no-compile", "--implementation", "cp", "--python-version", python]
    platforms = [f"--platform=manylinux_2_{each}_{machine}" for each in GLIBCS]
    limits = ["-c", str(DEPLOY / "constraints.txt")]
    subprocess.run([*pip, *kind, *platforms, f"--platform=manylinux2014_{machine}", *limits, *asked], check=True)


def merge(source: Path, site: Path) -> None:
    """Add the files of one Python's packages to those that are there, which must be the same where both have them."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        is_ours = name.startswith("edged/")  # whose C++ sources tell which kernels fit them
        unused = (_UNUSED.search(name) and not is_ours) or (".dist-info/" in name and path.name in _NOTES)
        if path.is_dir() or unused:
            continue
        target = site / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        elif target.read_bytes() != path.read_bytes() and not _BUILD_NOTES.search(name):
            raise SystemExit(f"build_deb: {name} is not the same for all of {', '.join(PYTHONS)}")


def place(text: str | bytes, target: Path, mode: int = 0o644) -> None:
    """Write a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text if isinstance(text, bytes) else text.encode())
    target.chmod(mode)


def pack(text: bytes) -> bytes:
    """Compress as Debian wants documents: best, without name and time."""
    return gzip.compress(text, 9, mtime=0)


def lay_out(root: Path) -> None:
    """Put all files into place but those of `SITE`."""
    for unit in ("edged.service", "edged@.service"):
        text = (UNITS / unit).read_text().replace("/opt/edged/bin/edged", "/usr/bin/edged")
        place(text, root / "usr/lib/systemd/system" / unit)
    place((UNITS / "edged.sysusers.conf").read_bytes(), root / "usr/lib/sysusers.d/edged.conf")
    place((DEPLOY / "edged.toml").read_bytes(), root / "etc/edged/edged.toml")
    (root / "etc/edged/credentials").mkdir(mode=0o700)

    place((DEBIAN / "edged.sh").read_bytes(), root / "usr/bin/edged", 0o755)
    place("home = /usr/bin\ninclude-system-site-packages = false\n", root / PRIVATE / "pyvenv.cfg")
    for python in PYTHONS:
        link(root / PRIVATE / f"lib/python{python}/site-packages", "../../site-packages")
    link(root / PRIVATE / "bin/python", "../../../bin/python3")
    place((DEBIAN / "rtupdate").read_bytes(), root / "usr/share/python3/runtime.d/edged.rtupdate", 0o755)

    documents = root / "usr/share/doc/edged"
    for name in ("copyright", "README.Debian"):
        place((DEBIAN / name).read_bytes(), documents / name)
    place(pack((DEBIAN / "changelog").read_bytes()), documents / "changelog.Debian.gz")
    place(pack((DEPLOY.parent / "CHANGELOG.md").read_bytes()), documents / "changelog.gz")
    for example in sorted((UNITS / "examples").iterdir()):
        place(example.read_bytes(), documents / "examples" / example.name)
    place(pack((DEBIAN / "edged.1").read_bytes()), root / "usr/share/man/man1/edged.1.gz")
    place((DEBIAN / "lintian-overrides").read_bytes(), root / "usr/share/lintian/overrides/edged")


def link(path: Path, target: str) -> None:
    """Make a symbolic link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def newest_entry() -> tuple[str, int]:
    """The version of the changelog's newest entry, and its time in seconds."""
    text = (DEBIAN / "changelog").read_text()
    version = re.match(r"edged \(([^)]+)\)", text)
    date = re.search(r"^ -- .*>  (.*)$", text, re.MULTILINE)
    if version is None or date is None:
        raise SystemExit("build_deb: debian/changelog has no entry that can be read")
    return version[1], int(parsedate_to_datetime(date[1]).timestamp())


def files(root: Path) -> Iterator[Path]:
    """The package's files and links, in order."""
    return (each for each in sorted(root.rglob("*")) if each.is_symlink() or not each.is_dir())


def control(root: Path, architecture: str, version: str) -> None:
    """Write the files that tell dpkg about the package."""
    ours = [each for each in files(root) if not each.is_symlink()]
    kilobytes = sum(-(-each.lstat().st_size // 1024) for each in files(root)) + sum(
        each.is_dir() for each in root.rglob("*")
    )
    values = {"@VERSION@": version, "@ARCHITECTURE@": architecture, "@SIZE@": str(kilobytes)}
    text = re.sub(r"@\w+@", lambda found: values[found[0]], (DEBIAN / "control").read_text())
    sums = "".join(f"{hashlib.md5(each.read_bytes()).hexdigest()}  {each.relative_to(root)}\n" for each in ours)  # noqa: S324 - dpkg's form
    place(text, root / "DEBIAN/control")
    place(sums, root / "DEBIAN/md5sums")
    place(
        "".join(f"/{each.relative_to(root)}\n" for each in ours if each.is_relative_to(root / "etc")),
        root / "DEBIAN/conffiles",
    )
    for script in ("preinst", "postinst", "prerm", "postrm"):
        place((DEBIAN / script).read_bytes(), root / "DEBIAN" / script, 0o755)


def build(root: Path, package: Path, epoch: int) -> None:
    """Have dpkg-deb make the package, with the same modes and times whoever builds it."""
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            private = path == root / "etc/edged/credentials"
            executable = path.is_dir() or os.access(path, os.X_OK)
            path.chmod(0o700 if private else 0o755 if executable else 0o644)
    for path in [*root.rglob("*"), root]:
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    command = ["dpkg-deb", "--root-owner-group", "--threads-max=1", "-Zxz", "--build", str(root), str(package)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def main(arguments: Sequence[str]) -> None:
    architecture, wheel, out, work = arguments[0], Path(arguments[1]), Path(arguments[2]), Path(arguments[3])
    newest, epoch = newest_entry()
    version = arguments[4] if len(arguments) > 4 else newest
    root = work / "root"
    shutil.rmtree(work, ignore_errors=True)
    lay_out(root)
    for python in PYTHONS:
        print(f"build_deb: packages for Python {python}, {architecture}", flush=True)
        install(requirements(wheel), MACHINES[architecture], python, work / python)
        merge(work / python, root / SITE)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work / "edged")
    merge(work / "edged", root / SITE)
    parts = sbom.installed(root / SITE)
    materials = sbom.bill(sbom.debian_package("edged", version, architecture), parts, epoch)
    place(materials, root / "usr/share/doc/edged/sbom.cdx.json")
    control(root, architecture, version)
    package = out / f"edged_{version}_{architecture}.deb"
    place(materials, package.with_suffix(".deb.cdx.json"))
    build(root, package, epoch)
    when = datetime.fromtimestamp(epoch, UTC).date()
    print(f"build_deb: {package} ({package.stat().st_size // 1_000_000} MB, files of {when})")


if __name__ == "__main__":
    main(sys.argv[1:])
