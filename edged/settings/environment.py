"""Settings in the environment, found by pydantic-settings. Imported only where there are any."""

from typing import Any

from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from edged.settings.schema import Settings
from edged.settings.text import ENVIRONMENT_PREFIX


class _Sourced(Settings, BaseSettings):
    """How pydantic-settings finds settings in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,  # composes write NAME=${NAME:-}
        enable_decoding=False,  # a list comes as text; the schema splits it
        extra="forbid",
        frozen=True,
        defer_build=True,  # nothing is validated by it
    )


def read() -> dict[str, Any]:
    """The settings among the variables of the environment, nested, as text."""
    return EnvSettingsSource(_Sourced)()
