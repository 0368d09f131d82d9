"""A hub on loopback: a small HTTP server that speaks those parts of Hugging Face's API that its library uses.

    GET  /api/models/OWNER/REPO/revision/REVISION    the files of a repository, with sizes and digests
    GET  /OWNER/REPO/resolve/COMMIT/PATH             redirects to a content server, which is another origin
    GET  /content/...                                the bytes, by ranges

It notes every request, and breaks, stalls and lies as it is told.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PIECE_BYTES = 1 << 16
COMMIT = "c0ffee" * 6 + "c0de"


@dataclass(frozen=True, slots=True)
class Request:
    """One that came."""

    method: str
    path: str
    range: str
    authorization: str


@dataclass(slots=True)
class StandIn:
    """What the hub holds, how it behaves, and what it was asked."""

    files: dict[str, dict[str, Path]] = field(default_factory=dict)  # OWNER/REPO: {path: file}
    digests: dict[str, str] = field(default_factory=dict)  # by path, instead of the true ones
    sizes: dict[str, int] = field(default_factory=dict)  # by path, as listed instead of the true ones
    lfs: bool = True  # whether files are kept for themselves, as large ones are, and not in git
    commit: str = COMMIT
    failure: tuple[int, dict[str, str], str] | None = None  # status, headers and body of every answer of the API
    token: str = ""  # without which nothing is given; "": anybody may
    cuts: list[int] = field(default_factory=list)  # after so many bytes of content, connections break, in this order
    busy: int = 0  # so many answers of the content server are 503
    stall: int | None = None  # content stops for good after so many bytes of an answer
    ranges: bool = True
    requests: list[Request] = field(default_factory=list)
    bytes_sent: int = 0  # of content
    stalled: threading.Event = field(default_factory=threading.Event)
    address: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)  # with it end the connections that stall

    def environment(self, home: Path) -> dict[str, str]:
        """What a process is told, so that this is its hub."""
        return {"HF_ENDPOINT": self.address, "HF_HOME": str(home)}

    def asked(self, part: str) -> list[Request]:
        """The requests whose path has `part`."""
        return [request for request in self.requests if part in request.path]


@contextmanager
def serving(hub: StandIn) -> Iterator[StandIn]:
    """Answers until the context ends."""

    class Handler(_Handler):
        stand_in = hub

    with _Server(("127.0.0.1", 0), Handler) as api, _Server(("127.0.0.1", 0), Handler) as content:
        for server in (api, content):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        hub.address = f"http://127.0.0.1:{api.server_port}"
        Handler.content = f"http://127.0.0.1:{content.server_port}"
        try:
            yield hub
        finally:
            hub.ended.set()
            for server in (api, content):
                server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away, as those that are killed do."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn
    content = ""
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        with suppress(ConnectionError):
            self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests are noted."""

    def _answer(self) -> None:
        hub, headers = self.stand_in, self.headers
        path = unquote(urlsplit(self.path).path)
        with hub.lock:
            told = headers.get("Range", ""), headers.get("Authorization", "")
            hub.requests.append(Request(self.command, path, *told))
        if path.startswith("/content/"):
            self._send_content(path.removeprefix("/content/"))
        elif hub.failure is not None:
            status, more, body = hub.failure
            self._send(status, body.encode(), more)
        elif hub.token and headers.get("Authorization") != f"Bearer {hub.token}":
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/"):
            self._send_listing(path.removeprefix("/api/models/"))
        else:
            self._redirect(path)

    def _send_listing(self, path: str) -> None:
        hub = self.stand_in
        repo, _, revision = path.partition("/revision/")
        if repo not in hub.files:
            self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", hub.commit):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [_sibling(hub, name, file) for name, file in hub.files[repo].items()]
            listing = {"id": repo, "sha": hub.commit, "siblings": siblings}
            # The library writes such a warning to standard error, as it is.
            facts = {"Content-Type": "application/json", "X-HF-Warning": "topic; said by the hub"}
            self._send(200, json.dumps(listing).encode(), facts)

    def _redirect(self, path: str) -> None:
        repo, _, rest = path.strip("/").partition("/resolve/")
        _, _, name = rest.partition("/")
        file = self.stand_in.files.get(repo, {}).get(name)
        if file is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        facts = {"X-Repo-Commit": self.stand_in.commit, "X-Linked-Size": str(file.stat().st_size)}
        facts["X-Linked-Etag"] = (
            f'"{_sibling(self.stand_in, name, file)["lfs"]["sha256"]}"' if self.stand_in.lfs else ""
        )
        self._send(302, b"", facts | {"Location": f"{self.content}/content/{repo}/{name}"})

    def _send_content(self, path: str) -> None:
        hub = self.stand_in
        with hub.lock:
            hub.busy -= 1
            busy = hub.busy >= 0
        if busy:
            self._send(503, b"", {"Retry-After": "0"})
            return
        owner, repo, name = path.split("/", 2)
        file = hub.files[f"{owner}/{repo}"][name]
        size = file.stat().st_size
        begin, end, status, facts = 0, size, 200, {"Content-Length": str(size)}
        if hub.ranges and (asked := self.headers.get("Range")):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last) + 1 if last else size, size)
            status = 206
            facts = {"Content-Length": str(end - begin), "Content-Range": f"bytes {begin}-{end - 1}/{size}"}
        self.send_response(status)
        for key, value in facts.items():
            self.send_header(key, value)
        self.end_headers()
        self._send_bytes(file, begin, end)

    def _send_bytes(self, file: Path, begin: int, end: int) -> None:
        hub, here = self.stand_in, 0
        with hub.lock:
            cut = hub.cuts.pop(0) if hub.cuts else None
        with file.open("rb") as source:
            source.seek(begin)
            while begin + here < end:
                if hub.stall is not None and here >= hub.stall:
                    hub.stalled.set()
                    hub.ended.wait()
                    self.close_connection = True
                    return
                most = min(PIECE_BYTES, end - begin - here, *(limit - here for limit in (cut, hub.stall) if limit))
                if cut is not None and here >= cut:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.wfile.write(source.read(most))
                here += most
                with hub.lock:
                    hub.bytes_sent += most

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sibling(hub: StandIn, name: str, file: Path) -> dict[str, Any]:
    size = hub.sizes.get(name, file.stat().st_size)
    if not hub.lfs:
        data = file.read_bytes()
        return {"rfilename": name, "size": size, "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
    digest = hub.digests.get(name) or _sha256(file)
    lfs = {"sha256": digest, "size": size, "pointerSize": 134}
    return {"rfilename": name, "size": size, "blobId": "0" * 40, "lfs": lfs}


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
