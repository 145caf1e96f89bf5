"""Requests by the routes of the settings: reads a message by the first rule whose conditions hold. Pure.

A message is not answered that the broker had retained (it was answered when it was sent), or that came about by an
answer of this daemon: each answer bears a mark (MQTT 5), and a chain of marks is never longer than `MAX_CHAIN`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from edged.contract.names import checked_name
from edged.contract.owners import ROUTES
from edged.contract.requests import Address, Contract, Rejected, Request, checked_text
from edged.contract.rules import MARK, MAX_CHAIN, Rule, Shape
from edged.contract.templates import Source, Template, TemplateError
from edged.contract.topics import RuleRoute
from edged.errors import BadEncoding, BadRequest, RequestError, TooLarge
from edged.ports.link import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A message that is no request; `reason` in words."""

    reason: str


def read(message: Message, route: RuleRoute, *, contract: Contract, new_id: str) -> Request | Rejected | Skipped:
    """Read a message of a topic to which routes subscribe.

    Args:
        message: as it came.
        route: of the message's topic.
        contract: what is allowed.
        new_id: the id of the request.

    Returns:
        The request, or why there is none. Never raises, whatever the bytes.
    """
    marks = tuple(value for name, value in message.user_properties if name == MARK)
    if message.retain:
        return Skipped(reason="it was retained")
    if any(mark.startswith(f"{contract.topics.root}:") for mark in marks):
        return Skipped(reason="it came about by an answer of this daemon")
    source = _source(message)
    rule = next((rule for rule in route.rules if all(each.holds(source) for each in rule.when)), None)
    if rule is None:
        return Skipped(reason="no route's conditions hold")
    errors = _errors_address(rule, source, message, contract, marks)
    try:
        return _request(message, rule, source, marks=marks, errors=errors, contract=contract, new_id=new_id)
    except RequestError as error:
        return Rejected(id=new_id, task=rule.task, address=errors, error=error, rule=rule.name)


def _source(message: Message) -> Source:
    return Source(topic=message.topic, payload=message.payload.decode(errors="replace"))


def _request(
    message: Message,
    rule: Rule,
    source: Source,
    *,
    marks: tuple[str, ...],
    errors: Address,
    contract: Contract,
    new_id: str,
) -> Request:
    if len(marks) >= MAX_CHAIN:
        raise BadRequest(f"it came about by {len(marks)} routes one after the other; at most {MAX_CHAIN} are allowed")
    if len(message.payload) > contract.payload_bytes:
        raise TooLarge(f"the payload has {len(message.payload)} bytes; at most {contract.payload_bytes} are taken")
    try:
        message.payload.decode()
    except UnicodeDecodeError as error:
        raise BadEncoding(f"the payload is not UTF-8 (byte {error.start})") from error
    text = _made(rule, "text", rule.text, lambda template: template.render(source))
    session = None
    if rule.session is not None:
        name = _made(rule, "session", rule.session, lambda template: template.render(source))
        session = checked_name(name, field="session")
    topic = _made(rule, "publish", rule.publish, lambda template: template.render_topic(source))
    if not contract.topics.may_answer(topic):
        raise BadRequest("the answer would go where a daemon or a route listens", field=f"routes.{rule.name}.publish")
    return Request(
        id=new_id,
        has_own_id=False,
        task=rule.task,
        text=checked_text(text, contract, field="text"),
        address=Address(
            topic=topic,
            qos=rule.qos,
            correlation_data=message.correlation_data,
            retain=rule.retain,
            content_type="text/plain" if rule.is_text else "application/json",
            user_properties=errors.user_properties,
            errors=errors,
            is_in_parts=rule.parts > 1,
        ),
        session=session,
        owner=None if contract.owners.kind == "none" else f"{ROUTES}{rule.name}",
        time_left_ms=None if message.expiry_s is None else 1000 * message.expiry_s,
        max_bytes=rule.max_bytes if rule.parts == 1 else None,
        sender=contract.sender.sender(message, session=session, answer_topic=topic),
        shape=Shape(rule=rule, source=source),
    )


def _made(rule: Rule, key: str, template: Template, make: Callable[[Template], str]) -> str:
    try:
        return make(template)
    except TemplateError as error:
        raise BadRequest(str(error), field=f"routes.{rule.name}.{key}") from error


def _errors_address(
    rule: Rule, source: Source, message: Message, contract: Contract, marks: tuple[str, ...]
) -> Address:
    """Where an error goes: as the rule says, or where those of other requests go."""
    topic = contract.topics.out(rule.task)
    if rule.errors is not None:
        try:
            made = rule.errors.render_topic(source)
        except TemplateError:
            made = ""
        topic = made if contract.topics.may_answer(made) else topic
    path = (*marks, f"{contract.topics.root}:{rule.name}")
    return Address(
        topic=topic,
        qos=rule.qos,
        correlation_data=message.correlation_data,
        user_properties=tuple((MARK, each) for each in path),
    )
