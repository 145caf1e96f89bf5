"""JSON Schemas of what the daemon publishes, made from its pydantic models. Pure."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]  # RFC 3339, UTC
# The bound is for readers of the schema and is not checked: a wrong figure must not end the daemon.
Count = Annotated[int, Field(json_schema_extra={"minimum": 0})]


class Published(BaseModel):
    """A JSON object that the daemon sends: exactly these keys.

    A key that is left out when it has no value is declared as `X | SkipJsonSchema[None] = None`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Generator(GenerateJsonSchema):
    """Without titles, which only repeat the names of the keys, and without `None` as the default of a key."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - the base class names the argument
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is None:  # then the key is left out
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def schema_of(model: type[Published]) -> dict[str, Any]:
    """The JSON Schema of a model; its parts are below `$defs`."""
    return model.model_json_schema(schema_generator=_Generator)
