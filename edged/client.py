"""A client of the daemon over MQTT: sends a request and waits for its result. For commands, demo and tests."""

import contextlib
import json
import queue
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from edged.contract.results import encode
from edged.contract.status import State
from edged.contract.topics import Topics, topic_matches
from edged.errors import BrokerUnavailable
from edged.mqtt.faults import address_of
from edged.mqtt.link import Link
from edged.ports.link import Delivery, LinkState, Outcome, Publication, Sent
from edged.settings.schema import Settings

_GONE = {State.STOPPED, State.OFFLINE}
_CANCEL_S = 1.0  # to wait until the broker confirms the publication of a cancel command
_STATUS_S = 5.0  # to wait for the reports that the broker keeps
_SETTLE_S = 1.0  # without another of them: then all have come


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A message that came back: first the chunks, if the request asked for them, then the result or error."""

    body: Mapping[str, Any]
    is_chunk: bool


def wait_connected(link: Link, changes: "queue.SimpleQueue[LinkState]", *, where: str, timeout: float) -> None:
    """Wait until `link` is connected; its `on_change` puts its states into `changes`.

    Raises:
        BrokerUnavailable: there is no connection within `timeout` seconds, or the link has a fault.
    """
    state: LinkState | None = None
    while state is None or state.connected_since is None:
        try:
            state = changes.get(timeout=timeout)
        except queue.Empty:
            state = link.state()
            if state.connected_since is not None:
                return
            reason = state.fault or f"no connection in {timeout:g} s"
            raise BrokerUnavailable(f"the broker at {where}: {reason}") from None
        if state.fault is not None:
            raise BrokerUnavailable(f"the broker at {where}: {state.fault}")


class Client:
    """One connection to the broker, to ask one daemon or a group of them. A context manager."""

    def __init__(self, settings: Settings, *, timeout: float, group: str | None = None, attempts: int = 1) -> None:
        """Assign; entering the context connects.

        Args:
            settings: the broker, and the daemon's node.
            timeout: seconds for the connection, and for the next message of an answer.
            group: ask this group, of which any box may answer, instead of the node.
            attempts: how often a request is sent, with the same id, before a missing answer is an error. A request
                that the broker gave to a box that then died is lost to the others.
        """
        self._topics = Topics(prefix=settings.prefix, node=group or settings.node)
        self._is_of_group = group is not None
        self._roots = set() if self._is_of_group else {self._topics.root}  # where a request can be cancelled
        self._timeout = timeout
        self._attempts = attempts
        self._status_filter = self._topics.status if group is None else f"{settings.prefix}/+/status"
        name = f"edged-client-{uuid.uuid4().hex[:12]}"
        # The topic contains the user's name, so that an access list can grant each user its own topics
        # (deploy/mosquitto/acl).
        address = f"{settings.mqtt.username}/{name}" if settings.mqtt.username else name
        self._replies = f"{self._topics.root}/reply/{address}"
        self._answers: queue.SimpleQueue[Answer | BrokerUnavailable] = queue.SimpleQueue()
        self._changes: queue.SimpleQueue[LinkState] = queue.SimpleQueue()
        self._states: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._link = Link(
            settings=settings.mqtt,
            client_id=name,
            subscriptions=(f"{self._replies}/#", self._status_filter),
            will=None,
            receive_maximum=100,
            on_delivery=self._on_delivery,
            on_change=self._changes.put,
            ephemeral=True,
        )
        self.where = address_of(settings.mqtt)

    def __enter__(self) -> Self:
        self._link.start()
        try:
            wait_connected(self._link, self._changes, where=self.where, timeout=self._timeout)
        except BaseException:
            self._link.stop(None, 1.0)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._link.stop(None, 1.0)

    def is_served(self, seconds: float) -> bool:
        """Whether the status says that a daemon is running; waits for the status, at most `seconds`."""
        try:
            status = self._states.get(timeout=seconds)
        except queue.Empty:
            return False
        self._states.put(status)
        return status.get("state") not in _GONE

    def ask(
        self, text: str, *, task: str = "message", timeout: float | None = None, **fields: Any
    ) -> Mapping[str, Any]:
        """Send one request and return its result or error; `fields` are further fields of the request's JSON.

        `timeout` replaces the client's own.

        Raises:
            BrokerUnavailable: no answer came in time; the message says what the daemon's status is.
        """
        *_, last = self.stream(text, task=task, timeout=timeout, **fields)
        return last.body

    def stream(
        self, text: str, *, task: str = "message", timeout: float | None = None, **fields: Any
    ) -> Generator[Answer, None, None]:
        """Send one request and yield its chunks, if `stream=True`, and then its result or error.

        A repeated attempt makes the same chunks again, if the same model answers; each chunk is yielded once. If the
        caller closes the iterator before the end, or the user presses Ctrl-C, the daemon is told to cancel the request.
        """
        request_id = uuid.uuid4().hex
        reply_to = f"{self._replies}/{request_id[:8]}"
        body = {"text": text, "id": request_id, "reply_to": reply_to, **fields}
        topic = f"{self._topics.root}/in/{task}"

        def on_end(outcome: Outcome) -> None:
            if outcome.sent is not Sent.CONFIRMED:
                self._answers.put(BrokerUnavailable(_may_not_publish(topic, self.where, outcome.reason)))

        self._link.publish(Publication(topic=topic, payload=encode(body), qos=1), on_end)

        def ask_again(attempt: int) -> None:
            again = encode({**body, "attempt": attempt})
            self._link.publish(Publication(topic=topic, payload=again, qos=1), on_end)

        is_answered = False
        try:
            for answer in self._answers_to(request_id, ask_again, timeout or self._timeout):
                is_answered = not answer.is_chunk
                yield answer
        except (KeyboardInterrupt, GeneratorExit):
            if not is_answered:
                self._cancel(request_id)
            raise

    def _answers_to(
        self, request_id: str, ask_again: Callable[[int], None], timeout: float
    ) -> Generator[Answer, None, None]:
        """Yield the messages that come back for one request, until its result or error."""
        attempt = 1
        chunks = 0
        while True:
            try:
                answer = self._answers.get(timeout=timeout)
            except queue.Empty:
                if attempt < self._attempts:
                    attempt += 1
                    ask_again(attempt)
                    continue
                raise BrokerUnavailable(
                    f"no answer in {timeout:g} s from {self._topics.root} at {self.where}; {self._status()}"
                ) from None
            if isinstance(answer, BrokerUnavailable):
                raise answer
            if answer.body.get("id") != request_id:
                continue
            if not answer.is_chunk:
                yield answer
                return
            if answer.body["seq"] >= chunks:  # else it was yielded in an earlier attempt
                chunks = answer.body["seq"] + 1
                yield answer

    def _cancel(self, request_id: str) -> None:
        """Tell the daemon to cancel the request; in a group, tell every box that may have it."""
        confirmed: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        roots = [*self._roots]  # the network thread adds to it
        for root in roots:
            cancel = Publication(topic=f"{root}/request/cancel", payload=encode({"id": request_id}), qos=1)
            self._link.publish(cancel, confirmed.put)
        until = time.monotonic() + _CANCEL_S
        with contextlib.suppress(queue.Empty):  # without a broker nothing can be cancelled
            for _ in roots:
                confirmed.get(timeout=max(0.0, until - time.monotonic()))

    @property
    def protocol(self) -> str | None:
        """The MQTT version of the connection."""
        return self._link.state().protocol

    def _status(self) -> str:
        status: Mapping[str, Any] | None = None
        while not self._states.empty():
            status = self._states.get()
        if status is None:
            return "no daemon of this name has ever reported (EDGED_NODE, EDGED_PREFIX); start one with `edged run`"
        reasons = "; ".join(map(str, status.get("reasons", ())))
        return f"its status says: {status.get('state')}" + (f" ({reasons})" if reasons else "")

    def _on_delivery(self, delivery: Delivery) -> None:
        message = delivery.message
        if delivery.ticket is not None:
            self._link.settle(delivery.ticket)
        try:
            body = json.loads(message.payload)
        except (ValueError, RecursionError):
            return  # sent by a client that is not a daemon
        if not isinstance(body, dict):
            return
        if topic_matches(self._status_filter, message.topic):
            self._states.put(body)
            if self._is_of_group:
                self._roots.add(message.topic.removesuffix("/status"))
        else:
            self._answers.put(Answer(body=body, is_chunk=message.topic.endswith("/stream")))


class ControlClient:
    """One connection to the broker, to give commands to daemons. A context manager."""

    def __init__(self, settings: Settings, *, timeout: float, commands: Sequence[str]) -> None:
        """Assign; entering the context connects.

        Args:
            settings: the broker, and the prefix of the daemons.
            timeout: seconds for the connection, and for each answer.
            commands: those that will be given.
        """
        self._prefix = settings.prefix
        self._timeout = timeout
        self._answers: queue.SimpleQueue[Mapping[str, Any] | BrokerUnavailable] = queue.SimpleQueue()
        self._changes: queue.SimpleQueue[LinkState] = queue.SimpleQueue()
        self._reports: queue.SimpleQueue[tuple[str, Mapping[str, Any]]] = queue.SimpleQueue()
        boxes = self._topics("+")
        self._link = Link(
            settings=settings.mqtt,
            client_id=f"edged-client-{uuid.uuid4().hex[:12]}",
            subscriptions=(*(boxes.response(each) for each in commands), boxes.status),
            will=None,
            receive_maximum=100,
            on_delivery=self._on_delivery,
            on_change=self._changes.put,
            ephemeral=True,
        )
        self.where = address_of(settings.mqtt)

    def __enter__(self) -> Self:
        self._link.start()
        try:
            wait_connected(self._link, self._changes, where=self.where, timeout=self._timeout)
        except BaseException:
            self._link.stop(None, 1.0)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._link.stop(None, 1.0)

    def command(self, node: str, name: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give a daemon a command, and wait for its answer: `status` and either `data` or `error`.

        Raises:
            BrokerUnavailable: no answer came in time, or the broker does not let this user command.
        """
        transaction = uuid.uuid4().hex
        topics = self._topics(node)
        topic = f"{topics.root}/request/{name}"

        def on_end(outcome: Outcome) -> None:
            if outcome.sent is not Sent.CONFIRMED:
                self._answers.put(BrokerUnavailable(_may_not_publish(topic, self.where, outcome.reason)))

        payload = encode({**body, "transaction": transaction})
        self._link.publish(Publication(topic=topic, payload=payload, qos=1), on_end)
        until = time.monotonic() + self._timeout
        while True:
            try:
                answer = self._answers.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise BrokerUnavailable(
                    f"no answer to {topic} in {self._timeout:g} s at {self.where}; the broker's access list must let "
                    f"this user publish there and read {topics.response(name)}"
                ) from None
            if isinstance(answer, BrokerUnavailable):
                raise answer
            if answer.get("transaction") == transaction:
                return answer

    def check_served(self, node: str) -> None:
        """See that a daemon runs.

        Raises:
            BrokerUnavailable: it does not, by its status.
        """
        root = self._topics(node).root
        statuses = self._read(lambda found: f"{root}/status" in found, settle_s=0.0)
        state = statuses.get(f"{root}/status", {}).get("state")
        if state is None or state in _GONE:
            said = "it has never reported" if state is None else f"its status says: {state}"
            raise BrokerUnavailable(
                f"no daemon {root} runs at {self.where} ({said}): start it with `edged run`, or name the right one "
                "with EDGED_NODE and EDGED_PREFIX"
            )

    def boxes_of(self, group: str) -> list[str]:
        """The boxes of a group that run now, by name.

        Raises:
            BrokerUnavailable: there are none, or some of them have not reported.
        """
        self._link.listen([self._topics("+").health])
        found = self._read(
            lambda found: bool(members_of(found, group)) and not missing_of(found, group), settle_s=_SETTLE_S
        )
        members, missing = members_of(found, group), missing_of(found, group)
        if not members or missing:
            reason = f"of it, {', '.join(sorted(missing))} did not report" if missing else "no box of it reports"
            raise BrokerUnavailable(f"the group {group} at {self.where}: {reason}")
        return sorted(members)

    def _topics(self, node: str) -> Topics:
        return Topics(prefix=self._prefix, node=node)

    def _read(
        self, is_enough: Callable[[Mapping[str, Mapping[str, Any]]], bool], *, settle_s: float
    ) -> dict[str, Mapping[str, Any]]:
        """The reports by topic: until they are enough and no more come for `settle_s`, or the time is over."""
        found: dict[str, Mapping[str, Any]] = {}
        until = time.monotonic() + min(self._timeout, _STATUS_S)
        while (left := until - time.monotonic()) > 0:
            try:
                topic, report = self._reports.get(timeout=min(left, settle_s) if is_enough(found) else left)
            except queue.Empty:
                break
            found[topic] = report
        return found

    def _on_delivery(self, delivery: Delivery) -> None:
        message = delivery.message
        if delivery.ticket is not None:
            self._link.settle(delivery.ticket)
        try:
            body = json.loads(message.payload)
        except (ValueError, RecursionError):
            return  # sent by a client that is not a daemon
        if not isinstance(body, dict):
            return
        if message.topic.endswith(("/status", "/health")):
            self._reports.put((message.topic, body))
        else:
            self._answers.put(body)


def members_of(reports: Mapping[str, Mapping[str, Any]], group: str) -> set[str]:
    """The boxes of a group that run, by their last health reports, by topic."""
    return {topic.split("/")[-2] for topic in _running(reports, group)}


def missing_of(reports: Mapping[str, Mapping[str, Any]], group: str) -> set[str]:
    """The boxes that others of the group know, and of which there is no report."""
    known = {str(each) for report in _running(reports, group).values() for each in report["group"].get("members", ())}
    return known - {topic.split("/")[-2] for topic in reports if topic.endswith("/health")}


def _running(reports: Mapping[str, Mapping[str, Any]], group: str) -> dict[str, Mapping[str, Any]]:
    return {
        topic: report
        for topic, report in reports.items()
        if isinstance(report.get("group"), dict)
        and report["group"].get("name") == group
        and reports.get(f"{topic.removesuffix('health')}status", report).get("state") not in _GONE
    }


def _may_not_publish(topic: str, where: str, reason: str) -> str:
    return f"{topic} at {where}: {reason}; the broker's access list must let this user publish there"
