"""A model hub on 127.0.0.1: the few addresses that the hub's own client asks when it fetches a model."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(kw_only=True)
class FakeHubServer:
    """What the server has, and how it misbehaves.

    Attributes:
        cut: a file whose first download ends after so many bytes, as a lost connection does.
        ranges: the Range header of every download, None where there was none.
    """

    repo: str
    files: Mapping[str, bytes]
    cut: dict[str, int] = field(default_factory=dict)
    ranges: list[tuple[str, str | None]] = field(default_factory=list)
    endpoint: str = ""

    def describe(self) -> dict[str, Any]:
        siblings = [{"rfilename": name, **self._hashes(name)} for name in self.files]
        return {"id": self.repo, "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0}

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "oid": described["blobId"], **described}
            for name in self.files
            for described in [self._hashes(name)]
        ]

    def etag(self, name: str) -> str:
        described = self._hashes(name)
        return str(described["lfs"]["sha256"] if "lfs" in described else described["blobId"])

    def _hashes(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        described: dict[str, Any] = {"size": len(content), "blobId": blob}
        if name.endswith(".safetensors"):
            sha256 = hashlib.sha256(content).hexdigest()
            described["lfs"] = {"sha256": sha256, "oid": sha256, "size": len(content), "pointerSize": 130}
        return described


class _Server(ThreadingHTTPServer):
    def __init__(self, hub: FakeHubServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the library
        pass

    def _answer(self) -> None:
        hub, path = self.server.hub, urlsplit(self.path).path
        if re.fullmatch(rf"/api/models/{hub.repo}(/revision/(main|{COMMIT}))?", path):
            self._send(json.dumps(hub.describe()).encode(), {})
        elif path.startswith(f"/api/models/{hub.repo}/revision/"):
            self._refuse("RevisionNotFound")
        elif path.startswith(f"/api/models/{hub.repo}/tree/"):
            self._send(json.dumps(hub.tree()).encode(), {})
        elif (name := path.removeprefix(f"/{hub.repo}/resolve/{COMMIT}/")) in hub.files:
            self._send_file(hub, name)
        else:
            self._refuse("RepoNotFound")

    def _refuse(self, code: str) -> None:
        self.send_response(HTTPStatus.NOT_FOUND)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_file(self, hub: FakeHubServer, name: str) -> None:
        content, wanted, is_get = hub.files[name], self.headers.get("Range"), self.command == "GET"
        first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        headers = {"ETag": f'"{hub.etag(name)}"', "X-Repo-Commit": COMMIT}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if is_get:
            hub.ranges.append((name, wanted))
        self._send(content[first:], headers, upto=hub.cut.pop(name, None) if is_get else None)

    def _send(self, content: bytes, headers: Mapping[str, str], *, upto: int | None = None) -> None:
        self.send_response(HTTPStatus.PARTIAL_CONTENT if "Content-Range" in headers else HTTPStatus.OK)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:upto])


@contextmanager
def serve(hub: FakeHubServer) -> Iterator[FakeHubServer]:
    """Run the hub until the block ends; `hub.endpoint` is its address."""
    server = _Server(hub)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
