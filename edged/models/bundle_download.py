"""Fetches an exported bundle from a server of the operator's own, and holds it against the checksum that was told.

Knows nothing of what is in the file. A download that was broken off goes on where it ended.
"""

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from edged.errors import ModelUnavailable
from edged.models.bundle_source import BundleSource
from edged.models.files import sha256
from edged.models.progress_bar import bar

_TIMEOUT_S = 30.0  # for the connection, and without a byte
_MIB = 1 << 20


def open_url(url: str, start: int) -> Any:
    """Ask a server for a file, from the byte `start` on if it can do that."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - BundleSource takes HTTP alone
    return urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310 - as above


def download(
    source: BundleSource,
    to: Path,
    *,
    need_room: Callable[[int], None],
    show_progress: bool,
    open_url: Callable[[str, int], Any] = open_url,
) -> None:
    """Fetch a bundle's file.

    Args:
        source: the bundle.
        to: the file; what an earlier try left there is gone on with.
        need_room: raises OSError where the disk has no room for so many bytes.
        show_progress: whether a terminal shows a bar.
        open_url: asks for a URL from a byte on; gives an HTTP response.

    Raises:
        ModelUnavailable: it cannot be fetched, or is another file than it should be.
    """
    start = to.stat().st_size if to.exists() else 0
    try:
        with open_url(source.url, start) as response:
            if response.status != HTTPStatus.PARTIAL_CONTENT:
                start = 0
            length = int(response.headers.get("Content-Length") or 0)
            need_room(length + start + length)  # the file, and what is unpacked from it
            with to.open("ab" if start else "wb") as file:
                came = _copy(response, file, length=length, name=source.name, show_progress=show_progress)
        if length and came < length:
            raise ModelUnavailable(f"{source}: the connection was lost after {came} of {length} bytes: pull it again")
    except urllib.error.HTTPError as error:
        if not (start and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):  # else all of it is here
            raise ModelUnavailable(f"{source}: the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise ModelUnavailable(f"{source} cannot be fetched: {getattr(error, 'reason', error)}") from error
    if (found := sha256(to)) != source.sha256:
        to.unlink()
        raise ModelUnavailable(f"{source} has the SHA-256 {found}, and not the one that was told: it was thrown away")


def _copy(response: Any, file: IO[bytes], *, length: int, name: str, show_progress: bool) -> int:
    came = 0
    with bar(show_progress=show_progress)(total=length or None, unit="B", unit_scale=True, desc=name) as shown:
        while block := response.read(_MIB):
            file.write(block)
            came += len(block)
            shown.update(len(block))
    return came
