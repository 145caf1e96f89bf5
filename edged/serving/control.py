"""Control requests: `R/request/<command>` in, `R/response/<command>` out. Runs in the worker's thread.

Who may control the daemon is decided by the broker's access list on `R/request/#`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import structlog
from pydantic import ValidationError

from edged.contract.commands import COMMANDS, ControlBody
from edged.contract.requests import Address, Contract, redirect
from edged.contract.results import encode
from edged.errors import BadEncoding, BadRequest, Expired, JournalFault, ModelError, RequestError, TooLarge
from edged.monitoring.probe import Prober
from edged.ports.link import Delivery, Link, Outcome, Publication
from edged.serving.worker import Worker

log = structlog.get_logger(__name__)

Respond = Callable[[Mapping[str, Any] | RequestError], None]

_FOR_NOW = {"cancel", "log_level", "drain"}  # meant for the daemon that runs when they are sent, and no later one


class Control:
    """Obeys control requests, one answer each."""

    def __init__(
        self,
        *,
        contract: Contract,
        link: Link,
        prober: Prober,
        set_log_level: Callable[[str], None],
        drain: Callable[[], None],
        is_late: Callable[[Delivery], bool],
    ) -> None:
        """Assign.

        Args:
            contract: the topics.
            link: where answers go.
            prober: decodes a token.
            set_log_level: raises ValueError for a level that there is not.
            drain: ends the daemon.
            is_late: whether the broker may have kept a delivery since before this process.
        """
        self._contract = contract
        self._link = link
        self._prober = prober
        self._set_log_level = set_log_level
        self._drain = drain
        self._is_late = is_late

    def handle(self, delivery: Delivery, worker: Worker) -> None:
        """Obey the request in `delivery`; in the worker's thread."""
        message = delivery.message
        command = self._contract.topics.control(message.topic) or ""
        address = Address(
            topic=self._contract.topics.response(command),
            qos=min(message.qos, 1),
            correlation_data=message.correlation_data,
        )
        body = ControlBody()
        try:
            if message.response_topic is not None:
                address = redirect(address, message.response_topic, self._contract, field="response_topic")
            if message.retain:
                raise BadRequest("a retained command would be obeyed at every start; publish it without that flag")
            body = self._read(message.payload)
            if command in _FOR_NOW and (delivery.redelivered or self._is_late(delivery)):
                raise Expired("the command may be meant for an earlier daemon; send it again if it is still wanted")
            self._obey(command, body, worker, self._responder(delivery, address, body))
        except RequestError as error:
            self._responder(delivery, address, body)(error)
        except JournalFault as fault:
            self._responder(delivery, address, body)(ModelError(f"the journal cannot be changed now: {fault}"))

    def _read(self, payload: bytes) -> ControlBody:
        if len(payload) > self._contract.payload_bytes:
            raise TooLarge(f"the payload has {len(payload)} bytes; at most {self._contract.payload_bytes} are taken")
        try:
            text = payload.decode()
        except UnicodeDecodeError as error:
            raise BadEncoding("the payload is not UTF-8") from error
        try:
            return ControlBody.model_validate_json(text) if text.strip() else ControlBody()
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            raise BadRequest(first["msg"], field=".".join(map(str, first["loc"])) or None) from error

    def _obey(self, command: str, body: ControlBody, worker: Worker, respond: Respond) -> None:
        if command == "ping":
            self._prober.probe(lambda ms: respond(ModelError("no token was decoded") if ms is None else {"ms": ms}))
        elif command == "cancel":
            respond({"cancelled": worker.cancel(_needed(body.id, "id"))})
        elif command == "forget":
            respond({"turns": worker.recorder.forget(_needed(body.session, "session"))})
        elif command == "session":
            respond({"turns": [asdict(turn) for turn in worker.recorder.turns(_needed(body.session, "session"))]})
        elif command == "log_level":
            respond(self._change_log_level(_needed(body.level, "level")))
        elif command == "drain":
            respond({"state": "draining"})
            self._drain()
        else:
            raise BadRequest(f"there is no such command; there are: {', '.join(COMMANDS)}")

    def _change_log_level(self, level: str) -> Mapping[str, Any]:
        try:
            self._set_log_level(level)
        except ValueError as error:
            raise BadRequest(str(error), field="level") from error
        return {"level": level}

    def _responder(self, delivery: Delivery, address: Address, body: ControlBody) -> Respond:
        def settle(_: Outcome) -> None:
            if delivery.ticket is not None:
                self._link.settle(delivery.ticket)

        def respond(answer: Mapping[str, Any] | RequestError) -> None:
            if isinstance(answer, RequestError):
                fields: dict[str, Any] = {
                    "status": "error",
                    "error": {"code": answer.code, "message": answer.message, "field": answer.field},
                }
            else:
                fields = {"status": "ok", "data": answer}
            if body.transaction is not None:
                fields["transaction"] = body.transaction
            publication = Publication(
                topic=address.topic,
                payload=encode(fields),
                qos=address.qos,
                correlation_data=address.correlation_data,
            )
            self._link.publish(publication, settle)

        return respond


def _needed(value: str | None, field: str) -> str:
    if value is None:
        raise BadRequest("this field is required", field=field)
    return value
