"""`edged models status`, `switch` and `rollback`: a running daemon tells of its model, and changes it. Over MQTT."""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edged import progress
from edged.commands.answers import check_names
from edged.commands.options import add_command, add_timeout, quiet_settings
from edged.commands.terminal import print_json
from edged.errors import BrokerUnavailable, ExitCode, FatalError, ModelUnavailable, SettingsError

if TYPE_CHECKING:
    from edged.client import ControlClient

Ask = Callable[[Mapping[str, Any]], Mapping[str, Any]]  # gives the `data` of the answer to R/request/model

_LOOK_S = 0.5  # between two looks at how far a switch is
_ERRORS: Mapping[str, type[FatalError]] = {"bad_request": SettingsError, "model_error": ModelUnavailable}


def add(actions: Any) -> None:
    """Add the actions to those of `edged models`."""
    status = add_command(
        actions, "status", _status, "the model that a running daemon uses", "edged models status --set node=kitchen"
    )
    status.add_argument("--json", action="store_true", help="print the report as R/model has it")
    add_timeout(status, default=30.0)
    switch = add_command(
        actions,
        "switch",
        _switch,
        "have a running daemon use another model, if that is no worse",
        "edged models switch qwen3-0.6b",
    )
    switch.add_argument("id", metavar="NAME", help="preset, hub id, folder, GGUF file or imported bundle")
    rollback = add_command(
        actions, "rollback", _rollback, "have a running daemon use the model before again", "edged models rollback"
    )
    for each in (switch, rollback):
        each.add_argument(
            "--group",
            metavar="NAME",
            help="all boxes of this group, one after the other; the first that refuses the model ends it",
        )
        add_timeout(each, default=1800.0)


def change(
    ask: Ask,
    action: str,
    model: str | None,
    *,
    timeout: float,
    clock: Callable[[], float],
    pause: Callable[[float], None],
    doing: Callable[[str], contextlib.AbstractContextManager[None]],
) -> Mapping[str, Any]:
    """Have a daemon change its model, and wait for the end; gives its last report.

    Args:
        ask: gives the daemon a command.
        action: `switch` or `rollback`.
        model: to switch to.
        timeout: seconds for all of it.
        clock: seconds.
        pause: waits for so many seconds.
        doing: shows what is going on while its context lasts.

    Raises:
        ModelUnavailable: the model is not used; the message says why.
        BrokerUnavailable: that has not ended in time.
        FatalError: the daemon refuses the command.
    """
    until = clock() + timeout
    wanted = ask({"action": action} | ({} if model is None else {"id": model}))["id"]
    report = ask({"action": "status"})
    while report["in_progress"]:
        state = report["state"]
        with doing(f"{state} {wanted}"):
            while report["in_progress"] and report["state"] == state:
                if clock() >= until:
                    raise BrokerUnavailable(
                        f"{wanted} is still {state} after {timeout:g} s; the daemon goes on with it: look with "
                        "`edged models status`"
                    )
                pause(_LOOK_S)
                report = ask({"action": "status"})
    if report["installed_version"] != wanted:
        raise ModelUnavailable(f"{wanted} is not used: {report['reason']}; {report['installed_version']} stays in use")
    return report


def change_all(boxes: Sequence[str], change_one: Callable[[str], Mapping[str, Any]]) -> None:
    """Have boxes change their model one after the other, so that the others answer meanwhile; stop at a refusal.

    Raises:
        FatalError: a box refuses, or is not heard of; the message says how far it went.
    """
    for number, box in enumerate(boxes):
        try:
            report = change_one(box)
        except FatalError as error:
            left = boxes[number + 1 :]
            told = f"{box}: {error}" + (f"; not asked: {', '.join(left)}" if left else "")
            raise type(error)(told) from error
        print(f"{box}: {_changed(report)}", flush=True)


def lines_of(report: Mapping[str, Any]) -> Iterator[str]:
    """A report for people."""
    reason = f": {report['reason']}" if report["reason"] else ""
    yield f"in use:   {report['installed_version']}"
    if report["previous"]:
        yield f"before:   {report['previous']}"
    if report["latest_version"] != report["installed_version"]:
        yield f"fetched:  {report['latest_version']}"
    yield f"state:    {report['state']}{reason}"


def data_of(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data of an answer to a command.

    Raises:
        FatalError: it is an error.
    """
    if answer["status"] == "ok":
        data: Mapping[str, Any] = answer["data"]
        return data
    error = answer["error"]
    raise _ERRORS.get(error["code"], BrokerUnavailable)(f"the daemon answers {error['code']}: {error['message']}")


def _status(options: argparse.Namespace) -> ExitCode:
    with _connected(options) as (client, node):
        client.check_served(node)
        report = data_of(client.command(node, "model", {"action": "status"}))
    if options.json:
        print_json(report)
    else:
        print("\n".join(lines_of(report)))
    return ExitCode.DONE


def _switch(options: argparse.Namespace) -> ExitCode:
    return _change(options, "switch", options.id)


def _rollback(options: argparse.Namespace) -> ExitCode:
    return _change(options, "rollback", None)


def _change(options: argparse.Namespace, action: str, model: str | None) -> ExitCode:
    with _connected(options) as (client, node):

        def change_one(box: str) -> Mapping[str, Any]:
            return change(
                lambda body: data_of(client.command(box, "model", body)),
                action,
                model,
                timeout=options.timeout,
                clock=time.monotonic,
                pause=time.sleep,
                doing=progress.waiting,
            )

        if options.group is not None:
            change_all(client.boxes_of(options.group), change_one)
            return ExitCode.DONE
        client.check_served(node)
        print(_changed(change_one(node)))
    return ExitCode.DONE


def _changed(report: Mapping[str, Any]) -> str:
    return f"{report['installed_version']} is in use; the model before was {report['previous']}"


@contextlib.contextmanager
def _connected(options: argparse.Namespace) -> "Iterator[tuple[ControlClient, str]]":
    """Connect to the broker of the settings; gives the daemon's node too."""
    check_names(group=getattr(options, "group", None))
    settings = quiet_settings(options)
    from edged.client import ControlClient

    client = ControlClient(settings, timeout=min(options.timeout, 30.0), commands=("model",))
    with contextlib.ExitStack() as stack:
        with progress.waiting(f"connecting to the broker at {client.where}", lines=False):
            stack.enter_context(client)
        yield client, settings.node
