"""The contract as an AsyncAPI 3 document, made from the same classes as the messages. Pure.

Source: asyncapi.com/docs/reference/specification/v3.0.0, and its MQTT bindings 0.2.0.
"""

from collections.abc import Mapping
from typing import Any

from edged import __version__
from edged.contract.commands import COMMANDS, ControlBody
from edged.contract.health import HealthReport
from edged.contract.model_report import ModelReport
from edged.contract.requests import request_schema
from edged.contract.results import chunk_schema, compact_schema, error_schema, result_schema
from edged.contract.schema import Published, schema_of
from edged.contract.status import Status
from edged.contract.topics import Topics
from edged.errors import RequestError
from edged.tasks.built_in import BUILT_IN
from edged.tasks.specs import Tasks

Schema = dict[str, Any]

_TOPICS = Topics(prefix="{prefix}", node="{node}")
_MQTT5 = "0.2.0"
_TEXT: Schema = {"type": "string"}
_ANSWERS = ("result", "compactResult", "error")
_COUNT: Schema = {"type": "integer", "minimum": 0}


def document(tasks: Tasks = BUILT_IN, report: type[Published] = HealthReport) -> Schema:
    """The document, ready to be written as JSON; `report` is the class of what `R/health` carries."""
    channels = _channels()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "edged",
            "version": __version__,
            "description": "One small language model on an edge box, used and watched over MQTT. Requests at QoS 1 "
            "are answered at least once; a repeated `id` gets the recorded answer.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "localhost:1883",
                "protocol": "mqtt",
                "protocolVersion": "5.0",
                "description": "Any MQTT 5 or 3.1.1 broker.",
                "bindings": {
                    "mqtt": {
                        "clientId": "edged-{prefix}-{node}",
                        "cleanSession": False,
                        "lastWill": {
                            "topic": _TOPICS.status,
                            "qos": 1,
                            "retain": True,
                            "message": '{"state":"offline"}',
                        },
                        "bindingVersion": _MQTT5,
                    }
                },
            }
        },
        "channels": channels,
        "operations": _operations(),
        "components": {"messages": _messages(tasks, report)},
    }


def payload_schema(message: str, tasks: Tasks = BUILT_IN) -> Schema:
    """The JSON Schema of a message's payload, by its name in the document."""
    schema: Schema = _messages(tasks)[message]["payload"]
    return schema


# ------------------------------------------------------------------------------------------------------- channels


def _channels() -> Schema:
    root = _TOPICS.root
    return {
        "requests": _channel(f"{root}/in/{{task}}", "Ask for a task.", "request", "text"),
        "sessionRequests": _channel(f"{root}/in/{{task}}/{{session}}", "Ask within a conversation.", "request", "text"),
        "results": _channel(_TOPICS.out("{task}"), "Answers, unless a request names another topic.", *_ANSWERS),
        "sessionResults": _channel(_TOPICS.out("{task}/{session}"), "Answers of a conversation.", *_ANSWERS),
        "streams": _channel(
            f"{_TOPICS.out('{task}')}/stream", "An answer as it comes, at QoS 0, where `stream` is true.", "chunk"
        ),
        "sessionStreams": _channel(f"{_TOPICS.out('{task}/{session}')}/stream", "The same in a conversation.", "chunk"),
        "replies": {
            "address": None,
            "description": "The Response Topic (MQTT 5) or `reply_to` of a request, within `mqtt.reply_topics`; "
            "chunks of a stream come below it, at `/stream`. Correlation Data comes back unchanged.",
            "messages": _named(*_ANSWERS, "chunk", "controlAnswer"),
        },
        "controls": _channel(f"{root}/request/{{command}}", "Give the daemon a command.", "control"),
        "controlAnswers": _channel(_TOPICS.response("{command}"), "One answer to each command.", "controlAnswer"),
        "status": _channel(_TOPICS.status, "The state that the daemon is in; retained, and its last will.", "status"),
        "health": _channel(_TOPICS.health, "The health report, every `health.interval` seconds; retained.", "health"),
        "info": _channel(_TOPICS.info, "What this daemon is and what it can do; retained.", "info"),
        "model": _channel(_TOPICS.model, "The model in use, and progress of another; retained.", "model"),
        "log": _channel(_TOPICS.log, "What the daemon logs, where `log.mqtt` says so; rate-limited, at QoS 0.", "log"),
    }


def _channel(address: str, description: str, *messages: str) -> Schema:
    known = {
        "prefix": {"description": "The first level or levels of every topic.", "default": "edged"},
        "node": {
            "description": "The name of a box. For requests and results also the name of a group "
            "(`mqtt.share_group`): one box of it answers. Where a group has shards, the shard stands before the task."
        },
        "task": {"description": "`R/info` lists them.", "examples": [*BUILT_IN.names]},
        "session": {
            "description": "The name of a conversation. Where the broker grants access by user name, "
            "it is the user's name."
        },
        "command": {"description": "The name of the command.", "enum": [*COMMANDS]},
    }
    return {
        "address": address,
        "description": description,
        "parameters": {name: each for name, each in known.items() if f"{{{name}}}" in address},
        "messages": _named(*messages),
    }


def _named(*messages: str) -> Schema:
    return {each: {"$ref": f"#/components/messages/{each}"} for each in messages}


def _operations() -> Schema:
    asked = {"address": {"location": "$message.header#/responseTopic"}, "channel": {"$ref": "#/channels/replies"}}
    received = {
        "answerRequest": ("requests", "Answer a request.", asked),
        "answerSessionRequest": ("sessionRequests", "Answer within a conversation.", asked),
        "obey": ("controls", "Carry out a command.", asked),
    }
    sent = {
        "sendResult": ("results", "Send an answer.", 1, False),
        "sendSessionResult": ("sessionResults", "Send an answer of a conversation.", 1, False),
        "sendChunk": ("streams", "Send a part of an answer.", 0, False),
        "sendSessionChunk": ("sessionStreams", "Send a part of an answer of a conversation.", 0, False),
        "answerControl": ("controlAnswers", "Answer a command.", 1, False),
        "tellStatus": ("status", "Tell the state when it changes.", 1, True),
        "tellHealth": ("health", "Tell the health report.", 1, True),
        "tellModel": ("model", "Tell which model is in use, and how far another is.", 1, True),
        "tellLog": ("log", "Tell what is logged.", 0, False),
        "tellInfo": ("info", "After the start, tell what the daemon is and what it can do.", 1, True),
    }
    operations: Schema = {}
    for name, (channel, summary, reply) in received.items():
        operations[name] = _operation("receive", channel, summary, qos=1, retain=False) | {"reply": reply}
    for name, (channel, summary, qos, retain) in sent.items():
        operations[name] = _operation("send", channel, summary, qos=qos, retain=retain)
    return operations


def _operation(action: str, channel: str, summary: str, *, qos: int, retain: bool) -> Schema:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "bindings": {"mqtt": {"qos": qos, "retain": retain, "bindingVersion": _MQTT5}},
    }


# ------------------------------------------------------------------------------------------------------- messages


def _messages(tasks: Tasks, report: type[Published] = HealthReport) -> Schema:
    expiry = "Seconds after which an answer is not wanted any more."
    headers = {
        "type": "object",
        "properties": {
            "responseTopic": {"type": "string", "description": "Response Topic of MQTT 5: where the answer is sent."},
            "correlationData": {"type": "string", "description": "Correlation Data of MQTT 5; the answer has it too."},
            "messageExpiryInterval": {"type": "integer", "description": expiry},
        },
    }
    text = _message("A request as plain text, for devices that do not write JSON.", _TEXT, headers=headers)
    return {
        "request": _message("A request.", request_schema(), headers=headers),
        "text": text | {"contentType": "text/plain"},
        "result": _message("The answer to a request.", result_schema(tasks)),
        "compactResult": _message("The answer to a request with `compact`.", compact_schema(tasks)),
        "error": _message("Why a request has no result.", error_schema()),
        "chunk": _message("A part of an answer, numbered by `seq`.", chunk_schema(tasks)),
        "control": _message("The parameters of a command; may be empty.", ControlBody.model_json_schema()),
        "controlAnswer": _message("The answer to a command.", _control_answer()),
        "status": _message("The daemon's state.", schema_of(Status)),
        "health": _message("The daemon's figures.", schema_of(report)),
        "info": _message("What the daemon is and what it can do.", _info()),
        "model": _message("The models of the daemon.", schema_of(ModelReport)),
        "log": _message("A line of the log; it may have further fields.", _log()),
    }


def _message(summary: str, payload: Schema, headers: Schema | None = None) -> Schema:
    message: Schema = {"summary": summary, "payload": _without_defs(payload)}
    return message if headers is None else message | {"headers": headers}


def _without_defs(schema: Schema) -> Schema:
    """The schema with each `$ref` replaced by what it refers to.

    Inside the AsyncAPI document the same `$ref` would point to a place in the document, not in the schema.
    """
    definitions = schema.get("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(each) for each in part]
        if not isinstance(part, Mapping):
            return part
        if isinstance(ref := part.get("$ref"), str) and ref.startswith("#/$defs/"):
            siblings = {key: value for key, value in part.items() if key != "$ref"}
            return resolved(definitions[ref.removeprefix("#/$defs/")]) | siblings
        return {key: resolved(value) for key, value in part.items() if key != "$defs"}

    whole: Schema = resolved(schema)
    return whole


def _object(*optional: str, **properties: Schema) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def _control_answer() -> Schema:
    codes = sorted(each.code for each in RequestError.__subclasses__())
    error = _object(code={"enum": codes}, message=_TEXT, field={"type": ["string", "null"]})
    return _object(
        "data",
        "error",
        "transaction",
        status={"enum": ["ok", "error"]},
        data={
            "type": "object",
            "description": "ping: ms; cancel: cancelled; forget, session: turns; log_level: level; "
            "reload: changed, restart_required; options: the same and options; "
            "tasks: tasks (kind, source, definition, prompts); backup: zip (base64); "
            "model: what R/model has, or started and id.",
        },
        error=error,
        transaction={"description": "The same as in the command."},
    )


def _log() -> Schema:
    levels: Schema = {"enum": ["info", "warning", "error"]}
    dropped: Schema = _COUNT | {"description": "Lines since the one before that were over the rate."}
    line = _object(
        "dropped", "error", time=_TEXT, level=levels, logger=_TEXT, event=_TEXT, error=_TEXT, dropped=dropped
    )
    return line | {"additionalProperties": True}


def _info() -> Schema:
    free: Schema = {"type": "object"}
    return _object(
        version=_TEXT,
        node=_TEXT,
        model=_object(
            id=_TEXT,
            architecture=_TEXT,
            format=_TEXT,
            device=_TEXT,
            threads=_COUNT,
            threads_reason={
                "type": "string",
                "description": "Why so many; empty where the model is elsewhere.",
            },
            kernels={
                "type": "string",
                "description": "The CPU instructions of its compiled kernels, or torch; empty where it is elsewhere.",
            },
            parameters=_COUNT,
        ),
        calibration={"enum": ["static", "running", "own"]},
        own_calibration={
            "type": "array",
            "description": "What `edged calibrate` learned and is in use: log p of a label times scale, plus its bias.",
            "items": _object(
                task=_TEXT,
                language=_TEXT,
                texts=_COUNT,
                scale={"type": "number"},
                biases={"type": "object", "additionalProperties": {"type": "number"}},
            ),
        },
        tasks={
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["kind"],
                "properties": {"kind": {"enum": ["compose", "classify", "generate", "extract"]}},
            },
        },
        routes={
            "type": "object",
            "additionalProperties": _object(subscribe={"type": "array", "items": _TEXT}, task=_TEXT, publish=_TEXT),
            "description": "The routes of the settings, by name.",
        },
        limits=_object(payload_bytes=_COUNT, text_chars=_COUNT, context_tokens=_COUNT, new_tokens=_COUNT, queue=_COUNT),
        topics=free,
        schemas=_object(request=free, result=free, compact_result=free, error=free, chunk=free, control=free),
    )
