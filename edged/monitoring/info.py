"""Makes the message of `R/info`: what this daemon is, what it can do, and on which topics. Pure; it gets no secret."""

from typing import Any

from edged.contract.commands import COMMANDS, ControlBody
from edged.contract.requests import Contract, request_schema
from edged.contract.results import chunk_schema, compact_schema, error_schema, result_schema
from edged.contract.topics import Topics
from edged.ports.engine import ModelInfo
from edged.settings.routes import RouteSettings
from edged.settings.schema import Settings
from edged.tasks.own_calibration import OwnCalibration
from edged.tasks.specs import ComposeSpec, Tasks, TaskSpec


def describe(*, contract: Contract, settings: Settings, model: ModelInfo, version: str) -> dict[str, Any]:
    """The retained message of `R/info`, ready to be written as JSON."""
    topics = contract.topics
    return {
        "version": version,
        "node": topics.node,
        "model": {
            "id": model.id,
            "architecture": model.architecture,
            "format": model.format,
            "device": model.device,
            "threads": model.threads,
            "threads_reason": model.threads_reason,
            "kernels": model.kernels,
            "parameters": model.parameters,
        },
        "calibration": settings.calibration,
        "own_calibration": [_own(each) for each in model.own_calibrations],
        "tasks": {spec.name: _task(spec, contract.tasks) for spec in contract.tasks},
        "routes": {name: _route(each) for name, each in settings.routes.items()},
        "limits": {
            "payload_bytes": contract.payload_bytes,
            "text_chars": contract.text_chars,
            "context_tokens": model.max_context_tokens,
            "new_tokens": model.max_new_tokens,
            "queue": settings.queue_capacity,
        },
        "topics": {
            "in": f"{topics.root}/in/<task>[/<session>]",
            "out": f"{topics.root}/out/<task>[/<session>]",
            **_group(topics),
            "status": topics.status,
            "health": topics.health,
            "info": topics.info,
            "model": topics.model,
            "log": topics.log,
            "request": f"{topics.root}/request/<{'|'.join(COMMANDS)}>",
            "response": f"{topics.root}/response/<command>",
            "reply_topics": list(contract.reply_topics),
        },
        "schemas": {
            "request": request_schema(),
            "result": result_schema(contract.tasks),
            "compact_result": compact_schema(contract.tasks),
            "error": error_schema(),
            "chunk": chunk_schema(contract.tasks),
            "control": ControlBody.model_json_schema(),
        },
    }


def _own(found: OwnCalibration) -> dict[str, Any]:
    return {
        "task": found.task,
        "language": found.language,
        "texts": found.texts,
        "scale": found.scale,
        "biases": dict(zip(found.labels, found.biases, strict=True)),
    }


def _route(route: RouteSettings) -> dict[str, Any]:
    return {"subscribe": list(route.subscribe), "task": route.task, "publish": route.publish}


def _group(topics: Topics) -> dict[str, Any]:
    if topics.group is None:
        return {}
    parts = [f"{shard}/" for shard in topics.shards] or [""]
    return {
        "group_in": [f"{topics.group_root}/in/{part}<task>[/<session>]" for part in parts],
        "group_out": [f"{topics.group_root}/out/{part}<task>[/<session>]" for part in parts],
    }


def _task(spec: TaskSpec, tasks: Tasks) -> dict[str, Any]:
    if isinstance(spec, ComposeSpec):
        return {"kind": spec.kind, "parts": [part.name for part in tasks.parts(spec.name)]}
    return spec.summary()
