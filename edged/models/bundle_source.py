"""Where a bundle is to be fetched from: a URL, and the checksum of the file there. Pure."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleSource:
    """Where a bundle is, and the SHA-256 of its file in hexadecimal."""

    url: str
    sha256: str

    def __post_init__(self) -> None:
        """Refuse what cannot be fetched.

        Raises:
            ValueError: the URL is none of HTTP, or the checksum is none.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the URL of a bundle begins with https:// or http:// and the name of a server")
        if parts.username is not None or parts.password is not None:
            raise ValueError("the URL of a bundle has no user and no password in it")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError("the SHA-256 of a bundle has 64 digits 0-9 and a-f; sha256sum prints it")

    @property
    def name(self) -> str:
        """The name of the file, without its ending."""
        return unquote(urlsplit(self.url).path.rpartition("/")[2]).removesuffix(".tar").removesuffix(".edged")

    def __str__(self) -> str:
        """The URL for people: what comes after `?` may be a key."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"
