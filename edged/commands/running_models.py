"""`edged models status`, `switch` and `rollback`: a running daemon tells of its model, and changes it. Over MQTT."""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edged import progress
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
    with _daemon(options) as daemon:
        report = data_of(daemon.command("model", {"action": "status"}))
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
    with _daemon(options) as daemon:
        report = change(
            lambda body: data_of(daemon.command("model", body)),
            action,
            model,
            timeout=options.timeout,
            clock=time.monotonic,
            pause=time.sleep,
            doing=progress.waiting,
        )
    print(f"{report['installed_version']} is in use; the model before was {report['previous']}")
    return ExitCode.DONE


@contextlib.contextmanager
def _daemon(options: argparse.Namespace) -> "Iterator[ControlClient]":
    """Connect to the daemon of the settings."""
    settings = quiet_settings(options)
    from edged.client import ControlClient

    client = ControlClient(settings, timeout=min(options.timeout, 30.0), commands=("model",))
    with contextlib.ExitStack() as stack:
        with progress.waiting(f"connecting to the broker at {client.where}", lines=False):
            stack.enter_context(client)
        yield client
