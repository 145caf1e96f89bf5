"""One look at the box. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """One look at the box; None for what it does not tell.

    `cpu_percent` is of the whole box since the look before, `load` the mean of one minute.
    """

    cpu_percent: float | None
    load: float | None
    memory_rss_mb: float | None
    memory_available_mb: float | None
    temperature_c: float | None
    throttled: bool | None
    disk_free_mb: float | None
