"""The web page's texts: each has its translation, and nothing is translated that is not there."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "deploy" / "dashboard"
_STRING = r'"((?:[^"\\]|\\.)*)"'
PUBLISHED = {  # words of daemons that the page translates
    "loading", "ready", "degraded", "draining", "stopped", "offline", "unknown",  # R/status
    "error", "warning",  # R/log
    "pull", "switch", "rollback",  # R/request/model
}  # fmt: skip


class Marked(HTMLParser):
    """Collects what `data-t` marks."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: set[str] = set()
        self._is_marked = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - HTMLParser's
        given = dict(attrs)
        names = (given.get("data-t") or "").split()
        self.texts |= {given[name] or "" for name in names if name != "text"}
        self._is_marked = "text" in names

    def handle_data(self, data: str) -> None:
        if self._is_marked:
            self.texts.add(data.strip())
            self._is_marked = False


def table() -> dict[str, str]:
    source = (PAGE / "words.js").read_text()
    found = re.findall(rf"^    {_STRING}:\s+{_STRING},$", source, re.MULTILINE)
    assert len(found) == len(re.findall(r'^    "', source, re.MULTILINE)), "an entry has another form"
    return {json.loads(f'"{key}"'): json.loads(f'"{value}"') for key, value in found}


def texts() -> set[str]:
    html = Marked()
    html.feed((PAGE / "index.html").read_text())
    sources = [each.read_text() for each in PAGE.glob("*.js")]
    said = {json.loads(f'"{each}"') for source in sources for each in re.findall(rf"\b(?:t|term)\({_STRING}", source)}
    return html.texts | said | PUBLISHED


def test_every_text_has_its_translation() -> None:
    assert texts() - {*table()} == set()


def test_no_translation_is_left_over() -> None:
    assert {*table()} - texts() == set()


@pytest.mark.parametrize(("english", "chinese"), table().items())
def test_a_translation_has_the_same_places_for_values(english: str, chinese: str) -> None:
    assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", chinese))


def test_the_page_loads_each_of_its_scripts_once() -> None:
    loaded = re.findall(r'<script src="([\w.]+)">', (PAGE / "index.html").read_text())
    assert sorted(loaded) == sorted(each.name for each in PAGE.glob("*.js"))


@pytest.mark.parametrize("script", sorted(PAGE.glob("*.js")), ids=lambda each: each.name)
def test_text_of_others_never_becomes_html(script: Path) -> None:
    source = script.read_text()
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", source)


def test_the_policy_lets_nothing_in_from_elsewhere() -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', (PAGE / "index.html").read_text())
    assert policy is not None
    assert policy[1] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; worker-src blob:; "
        "connect-src ws: wss:; base-uri 'none'; form-action 'none'"
    )
