"""What `edged top` shows of what daemons said."""

from typing import Any

import pytest
from rich.console import Console

from edged.commands.top_view import Node, render
from tests.support.report import REPORT


def shown(nodes: dict[str, Node], *, now: float = 100.0, width: int = 140) -> str:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render(nodes, now=now, where="box.lan:1883"))
    return capture.get()


def row(text: str, name: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [name] and ":" not in line)


def node(state: str = "ready", health: dict[str, Any] | None = None, heard: float | None = 90.0) -> Node:
    return Node(status={"state": state}, health=REPORT if health is None else health, heard=heard)


@pytest.mark.parametrize("width", [80, 140])
def test_a_node_is_a_row_of_its_figures(width: int) -> None:
    text = shown({"box": node()}, width=width)
    assert "1 of 1 ready" in text
    assert max(map(len, text.splitlines())) <= width
    assert row(text, "box")[1:] == ["ready", "12s", "–", "700ms", "900ms", "30.0", "3", "2MB", "48", "10s"]


@pytest.mark.parametrize("state", ["offline", "stopped"])
def test_a_node_that_is_gone_has_no_figures(state: str) -> None:
    text = shown({"box": node(state)})
    assert row(text, "box")[1:-1] == [state, *["–"] * 8]
    assert "0 of 1 ready" in text


@pytest.mark.parametrize("health", [{}, {"system": None, "latency_ms": {"total": None}, "uptime_s": "soon"}])
def test_what_is_not_told_is_a_dash(health: dict[str, Any]) -> None:
    assert row(shown({"box": node(health=health)}), "box")[2:-1] == ["–"] * 8


def test_reasons_and_errors_are_told_under_the_table() -> None:
    sick = Node(status={"state": "degraded", "reasons": ["journal: the disk is full"]}, health=REPORT, heard=None)
    text = shown({"box": sick})
    assert "box: journal: the disk is full" in text
    assert "box: errors since its start: 2 bad_request, 1 expired" in text
    assert row(text, "box")[-1] == "kept"


def test_names_are_not_markup() -> None:
    assert "[red]x[/red]" in shown({"[red]x[/red]": node()})


def test_nothing_yet_is_said() -> None:
    assert "No daemon has reported" in shown({})


def test_the_rate_is_of_the_last_two_reports_of_one_process() -> None:
    one = Node()
    one.report(REPORT, 10.0, retained=True)
    assert (one.heard, one.rate) == (None, None)
    one.report(REPORT, 20.0, retained=False)
    assert one.rate is None
    more = REPORT | {"requests": REPORT["requests"] | {"answered": 27}}
    one.report(more, 30.0, retained=False)
    assert one.rate == 2.0
    one.report(more | {"boot_id": "another"}, 40.0, retained=False)
    assert one.rate == 2.0
