"""Control requests: `R/request/<command>` in, `R/response/<command>` out. Runs in the worker's thread.

What a command does is said in `contract.commands`. The broker's access list on `R/request/#` decides which clients may
send commands.
"""

import base64
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from edged.contract.commands import COMMANDS, ControlBody, ModelOrder, Respond
from edged.contract.names import is_name
from edged.contract.requests import Address, Contract, read_leniently, redirect
from edged.contract.results import encode
from edged.contract.topics import ControlRoute
from edged.errors import BackupFault, BadEncoding, BadRequest, Expired, JournalFault, ModelError, RequestError, TooLarge
from edged.monitoring.probe import Prober
from edged.ports.link import Delivery, Message
from edged.serving.answer import Addressee, Answer
from edged.serving.backup import make_backup
from edged.serving.live_settings import LiveSettings
from edged.serving.worker import Worker
from edged.tasks.conversation import Turn
from edged.tasks.shown import shown


class Control:
    """Obeys control requests, one answer each; the `Box` that commands act on."""

    def __init__(
        self,
        *,
        contract: Contract,
        worker: Worker,
        prober: Prober,
        set_log_level: Callable[[str], None],
        live: LiveSettings,
        change_model: Callable[[ModelOrder, Respond], None],
        drain: Callable[[], None],
        is_late: Callable[[Delivery], bool],
    ) -> None:
        """Assign.

        Args:
            contract: the topics and limits.
            worker: whose jobs and journal the commands act on, and whose way out the answers take.
            prober: decodes a token.
            set_log_level: raises ValueError for a level that does not exist.
            live: reads and changes the settings.
            change_model: see `Box`.
            drain: ends the daemon.
            is_late: whether the broker may have kept a delivery since before this process.
        """
        self._contract = contract
        self._worker = worker
        self._prober = prober
        self._set_log_level = set_log_level
        self._live = live
        self._change_model = change_model
        self._drain = drain
        self._is_late = is_late

    def use(self, live: LiveSettings) -> None:
        """Read commands by these settings from now on."""
        self._contract = live.contract

    def handle(self, route: ControlRoute, delivery: Delivery) -> None:
        """Obey the request in `delivery`."""
        message = delivery.message
        address = Address(topic=route.out, qos=min(message.qos, 1), correlation_data=message.correlation_data)
        body = ControlBody()
        try:
            if message.response_topic is not None:
                address = redirect(address, message.response_topic, self._contract, field="response_topic")
            if message.retain:
                raise BadRequest("a retained command would be obeyed at every start; publish it without that flag")
            body = self._read(message.payload)
            name, body = self._owned(route.command, body, message)
            self._obey(name, body, delivery, self._responder(delivery, address, body))
        except RequestError as error:
            if body.transaction is None:
                body = self._transaction_of(message.payload)
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

    def _owned(self, command: str, body: ControlBody, message: Message) -> tuple[str, ControlBody]:
        """The name of the command, and the body with the owner for whom a user's own topic speaks.

        That topic is R/request/<command>/<user>, or R/request/<command>/own where user properties name the users.
        """
        name, slash, level = command.partition("/")
        rule = self._contract.owners
        if rule.kind == "none" or not slash or name not in COMMANDS or not COMMANDS[name].is_users:
            return command, body
        owner = level if rule.kind == "topic" else rule.owner(message) if level == "own" else None
        if owner is None or (rule.kind == "topic" and not is_name(owner)):
            raise BadRequest("this topic names no user whose sessions these could be", field="owner")
        if body.owner not in {None, owner}:
            raise BadRequest("this topic is for what is the user's own", field="owner")
        return name, body.model_copy(update={"owner": owner})

    def _transaction_of(self, payload: bytes) -> ControlBody:
        """A body for a refused request that has only its transaction, if that is valid."""
        try:
            transaction = read_leniently(payload, limit=self._contract.payload_bytes).get("transaction")
            return ControlBody.model_validate({"transaction": transaction})
        except ValidationError:
            return ControlBody()

    def _obey(self, name: str, body: ControlBody, delivery: Delivery, respond: Respond) -> None:
        command = COMMANDS.get(name)
        if command is None:
            raise BadRequest(f"there is no such command; there are: {', '.join(COMMANDS)}")
        if command.only_now and (delivery.redelivered or self._is_late(delivery)):
            raise Expired("the command may be meant for an earlier daemon; send it again if it is still wanted")
        command.obey(self, body, respond)

    def _responder(self, delivery: Delivery, address: Address, body: ControlBody) -> Respond:
        def respond(answer: Mapping[str, Any] | RequestError) -> None:
            tickets = [] if delivery.ticket is None else [delivery.ticket]
            self._worker.outbound.send(
                Answer(
                    request_id=str(body.transaction or ""),
                    payload=_written(body, answer),
                    addressees=[Addressee(address, tickets)],
                    as_error=partial(_written, body),
                )
            )

        return respond

    # --------------------------------------------------------------------------------- what commands act on

    def probe(self, on_done: Callable[[float | None], None]) -> None:
        # The callback comes in the engine's thread; answers go out in the worker's.
        self._prober.probe(lambda ms: self._worker.call(lambda: on_done(ms)))

    def cancel(self, request_id: str, owner: str | None) -> int:
        return self._worker.cancel(request_id, owner)

    def turns(self, conversation: str) -> Sequence[Turn]:
        return self._worker.recorder.turns(conversation)

    def forget(self, conversation: str) -> int:
        return self._worker.forget(conversation)

    def set_log_level(self, level: str) -> None:
        self._set_log_level(level)

    def reload(self, respond: Respond) -> None:
        self._live.reload(respond)

    def change_options(self, patch: Mapping[str, Any], respond: Respond) -> None:
        self._live.change_options(patch, respond)

    def tasks(self) -> Mapping[str, Any]:
        return shown(self._live.contract.tasks, self._live.settings.tasks)

    def change_model(self, order: ModelOrder, respond: Respond) -> None:
        self._change_model(order, respond)

    def backup(self, respond: Respond, *, with_journal: bool) -> None:
        # In a thread of its own: a large journal takes seconds, in which requests are answered.
        sources = self._live.backup_sources()

        def make() -> None:
            answer: Mapping[str, Any] | RequestError
            try:
                made = make_backup(sources, with_journal=with_journal, wall_time=time.time())
                answer = {"zip": base64.b64encode(made).decode()}
            except BackupFault as fault:
                answer = ModelError(f"no backup was made: {fault}")
            self._worker.call(lambda: respond(answer))

        threading.Thread(target=make, name="backup", daemon=True).start()

    def drain(self) -> None:
        self._drain()


def _written(body: ControlBody, answer: Mapping[str, Any] | RequestError) -> bytes:
    """The JSON of an answer to a command."""
    if isinstance(answer, RequestError):
        fields: dict[str, Any] = {
            "status": "error",
            "error": {"code": answer.code, "message": answer.message, "field": answer.field},
        }
    else:
        fields = {"status": "ok", "data": answer}
    if body.transaction is not None:
        fields["transaction"] = body.transaction
    return encode(fields)
