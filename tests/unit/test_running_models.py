"""`edged models switch` and its like: what a person is told, by a daemon that answers by a script."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from edged.client import members_of, missing_of
from edged.commands.running_models import change, change_all, data_of, lines_of
from edged.errors import BrokerUnavailable, ModelUnavailable, SettingsError

OLD = {"installed_version": "old", "latest_version": "old", "in_progress": False, "previous": None, "reason": None}


def at(state: str, **fields: Any) -> dict[str, Any]:
    return OLD | {"state": state, "in_progress": state in {"loading", "judging"}} | fields


class Daemon:
    """Answers `switch`, and then each look at the state with the next report; the last one stays."""

    def __init__(self, *reports: Mapping[str, Any]) -> None:
        self.reports = [*reports]
        self.asked: list[Mapping[str, Any]] = []
        self.shown: list[str] = []
        self.now = 0.0

    def ask(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(body)
        if body["action"] != "status":
            return {"started": body["action"], "id": body.get("id", "before")}
        return self.reports.pop(0) if len(self.reports) > 1 else self.reports[0]

    def pause(self, seconds: float) -> None:
        self.now += seconds

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        self.shown.append(what)
        yield

    def change(self, action: str, model: str | None, timeout: float = 60.0) -> Mapping[str, Any]:
        return change(
            self.ask, action, model, timeout=timeout, clock=lambda: self.now, pause=self.pause, doing=self.doing
        )


def test_a_switch_is_followed_to_its_end() -> None:
    daemon = Daemon(
        at("loading"), at("loading"), at("judging"), at("switched", installed_version="new", previous="old")
    )
    assert daemon.change("switch", "new")["previous"] == "old"
    assert daemon.asked[0] == {"action": "switch", "id": "new"}
    assert daemon.shown == ["loading new", "judging new"]


def test_a_rollback_names_no_model() -> None:
    daemon = Daemon(at("switched", installed_version="before"))
    daemon.change("rollback", None)
    assert daemon.asked[0] == {"action": "rollback"}


def test_why_a_model_is_not_used_is_told() -> None:
    with pytest.raises(ModelUnavailable, match="new is not used: it was right for 50%; old stays in use"):
        Daemon(at("loading"), at("refused", reason="it was right for 50%")).change("switch", "new")


def test_nobody_waits_for_ever() -> None:
    with pytest.raises(BrokerUnavailable, match="new is still loading after 7 s"):
        Daemon(at("loading")).change("switch", "new", timeout=7)


@pytest.mark.parametrize(
    ("code", "error"), [("bad_request", SettingsError), ("model_error", ModelUnavailable), ("busy", BrokerUnavailable)]
)
def test_a_refusal_has_an_exit_code_of_its_kind(code: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"the daemon answers {code}: no"):
        data_of({"status": "error", "error": {"code": code, "message": "no"}})


def test_a_report_is_written_for_people() -> None:
    lines = [*lines_of(at("refused", reason="too slow", previous="older", latest_version="new"))]
    assert lines == ["in use:   old", "before:   older", "fetched:  new", "state:    refused: too slow"]


# ---------------------------------------------------------------------------------------------------------- a group


def health(*others: str, name: str = "team") -> dict[str, Any]:
    return {"state": "ready", "group": {"name": name, "members": [*others]}}


def test_the_boxes_of_a_group_are_those_that_run_and_all_of_them_must_be_heard_of() -> None:
    reports = {
        "edged/a/health": health("b"),
        "edged/a/status": {"state": "ready"},
        "edged/c/health": health(),
        "edged/c/status": {"state": "offline"},
        "edged/d/health": health(name="another"),
        "edged/e/health": {"state": "ready"},
    }
    assert members_of(reports, "team") == {"a"}
    assert missing_of(reports, "team") == {"b"}
    reports["edged/b/health"] = health("a")
    assert members_of(reports, "team") == {"a", "b"}
    assert missing_of(reports, "team") == set()


def test_boxes_take_turns_and_the_first_refusal_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def one(box: str) -> Mapping[str, Any]:
        asked.append(box)
        if box == "b":
            raise ModelUnavailable("new is not used: it was right for 50%; old stays in use")
        return at("switched", installed_version="new", previous="old")

    with pytest.raises(ModelUnavailable, match=r"^b: new is not used: .*; not asked: c, d$"):
        change_all(["a", "b", "c", "d"], one)
    assert asked == ["a", "b"]
    assert capsys.readouterr().out == "a: new is in use; the model before was old\n"
