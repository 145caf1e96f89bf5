"""What a figure of the health report is called in its JSON Schema, at Prometheus and at Home Assistant. Pure.

A field of the report carries one `Figure`. All three are made from it, so a new figure is one field and the code that
measures it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of a figure in the report.

    Attributes:
        symbol: as people write it; Home Assistant shows it.
        scale: makes the figure Prometheus's base unit (seconds, bytes, a ratio).
        device_class: Home Assistant's name for what is measured in this unit.
    """

    symbol: str
    scale: float = 1.0
    device_class: str | None = None


SECONDS = Unit("s", device_class="duration")
MILLISECONDS = Unit("ms", scale=1e-3, device_class="duration")
BYTES = Unit("B", device_class="data_size")
MEBIBYTES = Unit("MiB", scale=2.0**20, device_class="data_size")
CELSIUS = Unit("°C", device_class="temperature")
PERCENT = Unit("%", scale=0.01)
REQUESTS = Unit("requests")
TOKENS_PER_SECOND = Unit("tokens/s")


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure as Prometheus knows it.

    Attributes:
        name: in base units; of a counter without its `_total`, of an info without its `_info`.
        kind: `counter`: a number that only grows. `gauge`: any other number; true is 1. `states`: one sample for each
            value of an enumeration, 1 for the one in force. `presence`: 1 while the report tells the figure, 0 while it
            tells None. `info`: no number; the figure is a label, and all figures of one name share a metric.
        label: for a figure of several numbers, the label that tells them apart.
    """

    name: str
    kind: Literal["counter", "gauge", "states", "presence", "info"]
    label: str = ""


def counter(name: str, *, label: str = "") -> Metric:
    """A number that only grows."""
    return Metric(name, "counter", label)


def gauge(name: str, *, label: str = "") -> Metric:
    """Any other number."""
    return Metric(name, "gauge", label)


@dataclass(frozen=True, slots=True)
class Entity:
    """A figure as Home Assistant shows it; a figure that is true or false becomes a binary sensor.

    Attributes:
        name: what people read. The entity's id is made from it, so another name is another entity.
        of: for a figure of several numbers, the one that is shown.
        device_class: Home Assistant's name for what is measured, where the unit does not say it.
        is_optional: whether there is no entity on a box that does not tell this figure.
    """

    name: str
    of: str = ""
    device_class: str | None = None
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """What a field of the report is: for people, for Prometheus and for Home Assistant."""

    text: str
    unit: Unit | None = None
    metric: Metric | None = None
    entities: tuple[Entity, ...] = ()

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = handler(schema)
        made["description"] = self.text if self.unit is None else f"{self.text} Unit: {self.unit.symbol}."
        return made


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the report a figure is: the names of the fields from the top, and the type of the last one."""

    path: tuple[str, ...]
    kind: Any
    figure: Figure

    def value(self, report: BaseModel) -> Any:
        """What a report says there; None where it, or the section around it, says nothing."""
        value: Any = report
        for name in self.path:
            if value is None:
                return None
            value = getattr(value, name)
        return value


def places(model: type[BaseModel]) -> Iterator[Place]:
    """Every figure of a report and of its sections, in order."""
    for name, field in model.model_fields.items():
        figure = next((each for each in field.metadata if isinstance(each, Figure)), None)
        kind = _without_none(field.annotation)
        if figure is not None:
            yield Place((name,), kind, figure)
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (Place((name, *each.path), each.kind, each.figure) for each in places(kind))


def _without_none(annotation: Any) -> Any:
    """The type of a field: of `X | None` the X, and without what `Annotated` says beside it."""
    kinds = [each for each in get_args(annotation) if _bare(each) is not type(None)]
    is_optional = len(kinds) == 1 < len(get_args(annotation))
    return _bare(kinds[0]) if is_optional else annotation


def _bare(annotation: Any) -> Any:
    return annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation
