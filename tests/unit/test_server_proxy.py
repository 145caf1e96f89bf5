"""A proxy of the environment is for the way out, and not for a server in the house."""

import socket
from typing import Any

import pytest

from edged.engine.remote import proxy
from edged.settings.schema import ModelSettings

NAMES = {"localhost": "127.0.0.1", "gpu.lan": "192.168.1.7", "api.example.com": "93.184.215.14"}


@pytest.fixture(autouse=True)
def _network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names with addresses, and a proxy in the environment."""

    def look_up(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if host not in NAMES and not host[0].isdigit() and ":" not in host:
            raise socket.gaierror(f"{host} is not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (NAMES.get(host, host), port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("http_proxy", "http://user:hush@proxy.example.com:3128")
    monkeypatch.setenv("https_proxy", "http://user:hush@proxy.example.com:3128")


def model(url: str, **more: Any) -> ModelSettings:
    return ModelSettings.model_validate({"backend": "remote", "url": url, **more})


@pytest.mark.parametrize(
    ("url", "uses"),
    [
        ("http://127.0.0.1:8080/v1", False),
        ("http://localhost:8080/v1", False),
        ("http://[::1]:8080/v1", False),
        ("http://10.1.2.3/v1", False),
        ("http://172.20.0.2/v1", False),
        ("http://169.254.3.4/v1", False),
        ("http://100.64.0.9/v1", False),
        ("http://[fd00::7]:8080/v1", False),
        ("http://gpu.lan:8000/v1", False),
        ("https://api.example.com/v1", True),
        ("https://93.184.215.14/v1", True),
        ("https://only-the-proxy-knows.example.com/v1", True),
    ],
)
def test_the_proxy_is_asked_for_servers_outside_alone(url: str, uses: bool) -> None:
    assert proxy.uses_environment(model(url)) is uses
    assert proxy.uses_environment(model(url, proxy="environment")) is True
    assert proxy.uses_environment(model(url, proxy="none")) is False


def test_the_operator_is_told_without_the_password() -> None:
    for url, words in [
        ("http://10.1.2.3/v1", "without the proxy of the environment, proxy.example.com:3128"),
        ("https://api.example.com/v1", "by the proxy of the environment, proxy.example.com:3128"),
    ]:
        assert words in proxy.told(model(url))
        assert "hush" not in proxy.told(model(url))
    assert "model.proxy" in proxy.told(model("https://api.example.com/v1", proxy="none"))


def test_without_a_proxy_there_is_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("http_proxy")
    monkeypatch.delenv("https_proxy")
    for name in ("all_proxy", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert proxy.told(model("http://10.1.2.3/v1")) == ""
    assert proxy.uses_environment(model("https://api.example.com/v1")) is False
