"""README.md and the pages of deploy/docs: links lead somewhere, settings are accepted, each setting is explained."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edged.errors import ExitCode
from edged.settings import load as config
from edged.settings import text

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "deploy/docs"
PAGES = DOCS / "pages"
MADE = {"settings.md", "contract.md"}  # by made_pages.py, when the site is built
WRITTEN = sorted(each.relative_to(PAGES).as_posix() for each in PAGES.rglob("*.md") if each.name not in MADE)


@pytest.fixture(scope="module")
def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("made_pages", DOCS / "made_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (PAGES / page).read_text(), re.DOTALL | re.MULTILINE)


def links(words: str) -> Iterator[str]:
    without_code = re.sub(r"^```.*?^```|`[^`\n]+`", "", words, flags=re.DOTALL | re.MULTILINE)
    return (found[1] for found in re.finditer(r"\]\(([^)\s]+)\)", without_code))


def anchors(page: Path) -> set[str]:
    """The names of its headings: given as {#name}, else made of the words as mkdocs does it."""
    without_code = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    given = {found[1] for title in titles if (found := re.search(r"\{#([\w-]+)\}$", title))}
    return given | {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", WRITTEN)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    for link in links((PAGES / page).read_text()):
        address, _, anchor = link.partition("#")
        if address.startswith("https://github.com/edged/edged/blob/main/"):
            assert (ROOT / address.partition("/blob/main/")[2]).is_file(), link
        elif not address.startswith("https://"):
            target = ((PAGES / page).parent / address).resolve() if address else PAGES / page
            assert target.is_relative_to(PAGES), link
            assert target.is_file() or target.name in MADE, link
            assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    words = (ROOT / "README.md").read_text()
    assert words.count("\n") < 200
    for link in links(words):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    for command in ("sh deploy/demo.sh", "sh tests/run.sh"):
        assert f"`{command}`" in words
        assert (ROOT / command.removeprefix("sh ")).is_file()


def test_every_page_is_in_the_contents() -> None:
    listed = set(re.findall(r"[\w./-]+\.md\b", (DOCS / "mkdocs.yml").read_text().partition("\nnav:")[2]))
    assert listed == {*WRITTEN, *MADE}


@pytest.mark.parametrize("page", [each for each in WRITTEN if blocks(each, "toml")])
def test_the_settings_of_a_page_are_accepted(page: str, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        assert config.load(flags={}, config_file=file).model_dump(exclude_unset=True)


def test_the_files_and_settings_that_the_pages_name_exist() -> None:
    for page in (*(PAGES / each for each in WRITTEN), ROOT / "README.md"):
        words = page.read_text()
        for path in re.findall(r"\b((?:deploy|systemd)/[\w./-]+\.\w+)", words):
            assert (ROOT / path).exists(), (page, path)
        for variable in re.findall(r"\bEDGED_[A-Z_]+\b", words):
            assert variable in {*map(text.variable, text.names()), "EDGED_VENV"}, (page, variable)


def test_troubleshooting_knows_every_exit_code() -> None:
    told = {int(each) for each in re.findall(r"`status=(\d+)`", (PAGES / "troubleshooting.md").read_text())}
    assert told == {int(each) for each in ExitCode} - {ExitCode.DONE, ExitCode.INTERRUPTED}


def test_the_reference_has_every_setting_and_topic(made: ModuleType) -> None:
    page = made.settings()
    assert [name for name in text.names() if f"`{text.variable(name)}`" not in page] == []
    assert "`{prefix}/{node}/in/{task}`" in made.contract()
    for words in (page, made.contract()):
        tables = [line for line in words.splitlines() if line.startswith("|")]
        assert {line.replace("\\|", "").count("|") for line in tables} == {5}
