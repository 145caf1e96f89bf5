"""Decides whether the server is reached through the proxy that the environment names.

HTTP_PROXY and similar variables are meant for the way to the internet. A server on this box or in this network is asked
directly, unless `model.proxy` says otherwise.
"""

import ipaddress
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from edged.settings.schema import ModelSettings

_PORTS = {"http": 80, "https": 443}


def uses_environment(settings: ModelSettings) -> bool:
    """Whether the server is asked by the proxy of the environment, if there is one. May look a name up."""
    if settings.proxy == "auto":
        return environment_proxy(settings) is not None and not _is_near(str(settings.url))
    return settings.proxy == "environment"


def environment_proxy(settings: ModelSettings) -> str | None:
    """The proxy that the environment names for this URL, without its password; None if it names none."""
    proxies = getproxies()
    found = proxies.get(urlsplit(str(settings.url)).scheme) or proxies.get("all")
    return None if found is None else found.rpartition("@")[2]


def told(settings: ModelSettings) -> str:
    """Say in words whether the proxy is used; empty if the environment names none."""
    proxy = environment_proxy(settings)
    if proxy is None:
        return ""
    if uses_environment(settings):
        return f"by the proxy of the environment, {proxy}, unless NO_PROXY names the server"
    why = "model.proxy is none" if settings.proxy == "none" else "the server is on this box or a private network"
    return f"without the proxy of the environment, {proxy}: {why}"


def _is_near(url: str) -> bool:
    """Whether the URL's host is this box or in a private network. A name is looked up."""
    parts = urlsplit(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or _PORTS[parts.scheme], type=socket.SOCK_STREAM)
    except OSError:  # a box behind a proxy may not know the names outside
        return False
    addresses = [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]
    return all(not address.is_global for address in addresses)
