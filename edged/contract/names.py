"""Names that callers give: of sessions and requests. They stand in topics, logs and database keys. Pure."""

from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from edged.errors import BadRequest

MAX_NAME_CHARS = 128
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[^/+#\x00-\x1f\x7f]+$")]

_NAME: TypeAdapter[str] = TypeAdapter(Name)


def is_name(value: object) -> bool:
    """Whether a value is a name."""
    try:
        _NAME.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def checked_name(name: str, *, field: str) -> str:
    """The name, if it can be one.

    Raises:
        BadRequest: it cannot.
    """
    if not is_name(name):
        raise BadRequest(f"a {field} is one topic level of 1 to {MAX_NAME_CHARS} characters", field=field)
    return name
