"""Settings of the HTTP server with OpenAI's API. Pure."""

import ipaddress

from pydantic import Field, SecretStr, field_validator, model_validator

from edged.settings.values import Section, checked_host, header_key

_TOKEN_CHARS = 16


class HttpSettings(Section):
    """OpenAI's API over HTTP, for programs that speak it: chat, completions, models; also `/health` and `/metrics`."""

    port: int = Field(0, ge=0, le=65535, description="Port to listen at, 8080 say; 0 listens nowhere.")
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen at; others than loopback need a token.")
    token: SecretStr | None = Field(
        None,
        description="The key that callers must have (Authorization: Bearer), of at least 16 characters; better given "
        "as the systemd credential http_token.",
    )

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        return checked_host(host)

    @field_validator("token")
    @classmethod
    def _long(cls, token: SecretStr | None) -> SecretStr | None:
        bare = header_key(token)
        if bare is not None and len(bare.get_secret_value()) < _TOKEN_CHARS:
            raise ValueError(
                f"a key has at least {_TOKEN_CHARS} characters, so that none guesses it: openssl rand -hex 16"
            )
        return bare

    @model_validator(mode="after")
    def _guarded(self) -> "HttpSettings":
        if self.port and self.token is None and not is_loopback(self.host):
            raise ValueError("a host other than 127.0.0.1 can be reached by others: set token too")
        return self


def is_loopback(host: str) -> bool:
    """Whether only programs on this box can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
