"""Bundles from a server of the operator's own: what is fetched, what is gone on with, and what is thrown away."""

import hashlib
import io
import tarfile
import urllib.error
from collections.abc import Callable, Mapping
from email.message import Message as Headers
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edged.errors import ModelUnavailable
from edged.models import bundle_download
from edged.models.bundle import Origin, export, verify, write_manifest
from edged.models.bundle_download import download
from edged.models.bundle_source import BundleSource
from edged.models.store import Store

URL = "https://box.lan/models/tiny.tar?key=secret"
CONTENT = bytes(range(256)) * 40


class Response(io.BytesIO):
    """An answer of the server."""

    def __init__(self, content: bytes, *, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(content)
        self.status = status
        self.headers = headers


class Server:
    """Has one file.

    Attributes:
        cut: how many bytes of the first answer come; None: all.
        ranges: whether it can go on from a byte.
        asked: from which bytes on it was asked.
    """

    def __init__(self, content: bytes = CONTENT, *, cut: int | None = None, ranges: bool = True) -> None:
        self.content = content
        self.cut = cut
        self.ranges = ranges
        self.asked: list[int] = []

    def open_url(self, url: str, start: int) -> Any:
        assert url == URL
        self.asked.append(start)
        if start and start >= len(self.content) and self.ranges:
            raise urllib.error.HTTPError(url, 416, "Range Not Satisfiable", Headers(), None)
        rest = self.content[start:] if self.ranges else self.content
        cut, self.cut = self.cut, None
        headers = {"Content-Length": str(len(rest))}
        return Response(rest[:cut], status=206 if start and self.ranges else 200, headers=headers)


def source(content: bytes = CONTENT) -> BundleSource:
    return BundleSource(url=URL, sha256=hashlib.sha256(content).hexdigest())


def fetch(server: Server, to: Path, wanted: BundleSource | None = None) -> None:
    download(wanted or source(), to, need_room=lambda _: None, show_progress=False, open_url=server.open_url)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_broken_off_goes_on(tmp_path: Path, *, ranges: bool) -> None:
    server, file = Server(cut=1000, ranges=ranges), tmp_path / "file"
    with pytest.raises(ModelUnavailable, match="the connection was lost after 1000 of 10240 bytes") as error:
        fetch(server, file)
    assert "secret" not in str(error.value)
    fetch(server, file)
    assert file.read_bytes() == CONTENT
    assert server.asked == [0, 1000]


def test_what_is_here_whole_is_not_fetched_again(tmp_path: Path) -> None:
    server, file = Server(), tmp_path / "file"
    file.write_bytes(CONTENT)
    fetch(server, file)
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("before", [b"", b"another file"])
def test_another_file_than_was_told_is_thrown_away(tmp_path: Path, before: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(before)
    with pytest.raises(ModelUnavailable, match="it was thrown away"):
        fetch(Server(CONTENT + b"!"), file)
    assert not file.exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (urllib.error.HTTPError(URL, 404, "Not Found", Headers(), None), "the server answers 404 Not Found"),
        (urllib.error.URLError("no route to host"), "cannot be fetched: no route to host"),
        (TimeoutError("timed out"), "cannot be fetched: timed out"),
    ],
)
def test_why_nothing_came_is_told(tmp_path: Path, fault: Exception, words: str) -> None:
    def open_url(_url: str, _start: int) -> Any:
        raise fault

    with pytest.raises(ModelUnavailable, match=words):
        download(source(), tmp_path / "f", need_room=lambda _: None, show_progress=False, open_url=open_url)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://box.lan/a.tar", "https:///a.tar", "https://ada:secret@box.lan/a.tar", "a.tar"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="the URL of a bundle"):
        BundleSource(url=url, sha256="0" * 64)


@pytest.mark.parametrize("digest", ["", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_a_bundle_needs_its_checksum(digest: str) -> None:
    with pytest.raises(ValueError, match="64 digits"):
        BundleSource(url=URL, sha256=digest)


@pytest.fixture
def exported(tmp_path: Path) -> bytes:
    folder = tmp_path / "made"
    folder.mkdir()
    for name in ("weights.safetensors", "tokenizer.json"):
        (folder / name).write_bytes(b"{}")
    write_manifest(folder, ["weights.safetensors", "tokenizer.json"], Origin(model="tiny", made_of="abc"), {})
    export(folder, tmp_path / "made.tar")
    return (tmp_path / "made.tar").read_bytes()


Serve = Callable[[Server], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    def begin(server: Server) -> None:
        monkeypatch.setattr(bundle_download, "download", partial(download, open_url=server.open_url))

    return begin


def test_a_bundle_is_fetched_and_taken_in(tmp_path: Path, exported: bytes, serve: Serve) -> None:
    serve(Server(exported))
    store = Store(tmp_path / "store")
    assert store.fetch_bundle(source(exported), check=verify, show_progress=False) == "tiny"
    assert store.has_bundle("tiny")
    assert [each.name for each in (tmp_path / "store").iterdir()] == ["bundles"]


def test_a_file_that_is_no_bundle_leaves_nothing(tmp_path: Path, serve: Serve) -> None:
    serve(Server(CONTENT))
    store = Store(tmp_path / "store")
    with pytest.raises(ModelUnavailable, match="no exported bundle"):
        store.fetch_bundle(source(), "mine", check=verify, show_progress=False)
    assert [each for each in (tmp_path / "store").rglob("*") if each.is_file()] == []
    with pytest.raises(ModelUnavailable, match="cannot name a bundle"):
        store.fetch_bundle(source(), "../mine", check=verify, show_progress=False)


def test_a_disk_without_room_is_told_before_the_download(tmp_path: Path, exported: bytes) -> None:
    def no_room(needed: int) -> None:
        assert needed == 2 * len(exported)
        raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        download(
            source(exported),
            tmp_path / "f",
            need_room=no_room,
            show_progress=False,
            open_url=Server(exported).open_url,
        )
    assert tarfile.is_tarfile(tmp_path / "made.tar")
    assert not (tmp_path / "f").exists()
