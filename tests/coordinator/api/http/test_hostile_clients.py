"""Who asks for much, says little or reads nothing takes nobody else's place, and makes no noise in the log."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from numoe.coordinator.api.http import answers, connection, routes
from numoe.coordinator.api.http.stream import message
from tests.coordinator.api.grpc.grpc_serving import Running, running_server, until
from tests.coordinator.api.http.http_client import PATIENCE_SECONDS, ask, messages, order

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]
UNENDING = 400  # connections of one attack: more than there is room for


async def say(http: str, text: str, limit: int = 1) -> Pair:
    """A connection on which that was said, HOST being the service's; of it no more is read ahead than `limit`."""
    host, _, port = http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=limit)
    writer.write(text.replace("HOST", f"Host: {http}").encode("latin-1"))
    return reader, writer


@asynccontextmanager
async def saying(http: str, text: str, times: int) -> AsyncIterator[list[Pair]]:
    """So many connections for the length of a block."""
    pairs = [await say(http, text) for _ in range(times)]
    try:
        yield pairs
    finally:
        for _, writer in pairs:
            writer.transport.abort()


async def is_ended(reader: asyncio.StreamReader) -> bool:
    """Whether the service ends a connection in time; whatever it says before is left out."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
    return True


def open_connections(running: Running) -> int:
    """As many as the door holds."""
    door = running.coordinator._doors._http
    assert door is not None
    return len(door._server.server_state.connections)


@contextmanager
def quietly() -> Iterator[None]:
    """Nothing may be logged as an error, by us or by the event loop, which is told of what a protocol lets through."""
    loop, told = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda _, context: told.append(context))
    with capture_logs() as logs:
        yield
    loop.set_exception_handler(None)
    assert told == []
    assert [one for one in logs if one["log_level"] in ("error", "critical")] == []


@pytest.mark.parametrize(
    "said",
    [
        "",
        "GET /livez HTTP/1.1\r\nHOST\r\nx-slow: ",
        "GET /livez HTTP/1.1\r\nHOST\r\n\r\nGET /livez HTTP",
        "GET /livez HTTP/1.1\r\nHOST\r\ncontent-length: 1000\r\n\r\n",
        "GET /ops/stream HTTP/1.1\r\nHOST\r\n\r\n",
        "HEAD /ops/stream HTTP/1.1\r\nHOST\r\n\r\n",
        "POST /ops/actions/abort HTTP/1.1\r\nHOST\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{",
        "POST /v1/chat/completions HTTP/1.1\r\nHOST\r\ncontent-length: 9\r\n\r\n{",
    ],
)
async def test_health_is_answered_whoever_else_holds_connections(said: str) -> None:
    with quietly():
        async with running_server() as running, saying(running.ready.http, said, UNENDING):
            assert (await ask(running.ready.http, "/livez")).status == 200
            assert (await ask(running.ready.http, "/readyz")).status == 200
            assert (await ask(running.ready.http, "/metrics")).status == 200
            assert open_connections(running) <= connection.CONNECTIONS + 1


@pytest.mark.parametrize(
    "said",
    [
        "",
        "GET /livez HTTP/1.1\r\nHOST\r\nx-slow: ",
        "GET /livez HTTP/1.1\r\nHOST\r\n\r\nGET /livez HTTP",
        "POST /livez HTTP/1.1\r\nHOST\r\ncontent-length: 1000\r\n\r\nx",
        "POST /ops/actions/abort HTTP/1.1\r\nHOST\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{",
    ],
)
async def test_who_says_no_more_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(connection, "CLIENT_SECONDS", 0.1)
    monkeypatch.setattr(answers, "BODY_SECONDS", 0.1)
    with quietly():
        async with running_server() as running, saying(running.ready.http, said, 1) as [(reader, _)]:
            assert await is_ended(reader)


async def test_a_connection_that_was_answered_is_kept_for_longer_than_clients_keep_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who closed it when they do would hang up on some that ask."""
    monkeypatch.setattr(connection, "CLIENT_SECONDS", 1.0)
    asked = "GET /livez HTTP/1.1\r\nHOST\r\n\r\n"
    async with running_server() as running:
        reader, writer = await say(running.ready.http, asked, 1 << 16)
        await reader.readuntil(b"ok\n")
        await asyncio.sleep(6.0)
        writer.write(asked.replace("HOST", f"Host: {running.ready.http}").encode())
        await reader.readuntil(b"ok\n")
        writer.write(b"G")
        assert await is_ended(reader)  # as who has begun to ask goes on
        writer.close()


async def test_who_sends_bodies_slowly_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS", 4)
    said = "POST /v1/completions HTTP/1.1\r\nHOST\r\ncontent-length: 9\r\n\r\n{"
    async with running_server() as running, saying(running.ready.http, said, 4) as pairs:
        await until(lambda: open_connections(running) == 4)
        assert (await ask(running.ready.http, "/livez")).status == 200
        assert await is_ended(pairs[0][0])


async def test_a_crowd_displaces_itself_before_a_client_of_another_address() -> None:
    async with running_server() as running:
        host, _, port = running.ready.http.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))  # a check of health, which is slow to ask
        await until(lambda: open_connections(running) == 1)
        crowd = [
            await asyncio.open_connection(host, int(port), local_addr=("127.0.0.2", 0))
            for _ in range(connection.CONNECTIONS + 50)
        ]
        writer.write(f"GET /livez HTTP/1.1\r\nhost: {running.ready.http}\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _, other in (*crowd, (reader, writer)):
            other.transport.abort()


async def test_a_body_that_does_not_come_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BODY_SECONDS", 0.1)
    head = "POST /ops/actions/abort HTTP/1.0\r\nHOST\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"
    async with running_server() as running, saying(running.ready.http, head, 1) as [(reader, _)]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            told = b"".join([part async for part in _parts(reader)])
    assert told.startswith(b"HTTP/1.1 400")
    assert b"body: did not come within 0.1 s" in told


async def _parts(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while part := await reader.read(1 << 16):
        yield part


async def test_who_reads_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def flood(*given: Any) -> AsyncIterator[bytes]:
        while True:
            yield message({"now": b"1" * 100_000})
            await asyncio.sleep(0)  # as every stream waits for something

    monkeypatch.setattr(routes, "events", flood)
    monkeypatch.setattr(connection, "CLIENT_SECONDS", 0.1)
    async with running_server() as running:
        for said in ("GET /ops/stream HTTP/1.1\r\nHOST\r\n\r\n", "GET /ops/status HTTP/1.1\r\nHOST\r\n\r\n" * 3000):
            async with saying(running.ready.http, said, 1):
                await until(lambda: open_connections(running) == 1)
                await until(lambda: open_connections(running) == 0)


async def test_a_viewer_that_reads_is_never_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one whose service has nothing to tell."""
    monkeypatch.setattr(connection, "CLIENT_SECONDS", 0.1)
    async with running_server() as running:
        stream = messages(running.ready.http)
        for _ in range(3):  # a second each
            assert await anext(stream)
        await stream.aclose()


async def test_viewers_are_bounded_and_one_more_is_told_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "VIEWERS", 2)
    async with running_server() as running:
        http = running.ready.http
        viewers = [messages(http) for _ in range(2)]
        for viewer in viewers:
            await anext(viewer)
        refused = await ask(http, "/ops/stream")
        assert (refused.status, refused.json["error"]["reason"]) == (503, "UNAVAILABLE")
        assert refused.headers["retry-after"] == "5"
        assert "2 pages" in refused.json["error"]["message"]
        await viewers[0].aclose()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                another = messages(http)
                try:
                    await anext(another)
                    break
                except AssertionError:  # it was refused, as the end of the other is not noticed yet
                    await another.aclose()
        await another.aclose()
        await viewers[1].aclose()


async def test_actions_are_bounded_and_one_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "ACTIONS", 2)
    head = "POST /ops/actions/abort HTTP/1.1\r\nHOST\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"
    async with running_server() as running:
        http = running.ready.http
        async with saying(http, head, 2):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (told := await order(http, "abort", {"request_id": "r"})).status == 200:
                    pass
            assert (told.status, told.json["error"]["reason"]) == (503, "UNAVAILABLE")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await order(http, "abort", {"request_id": "r"})).status != 200:
                pass


async def test_a_head_of_the_stream_ends() -> None:
    async with running_server() as running:
        reply = await ask(running.ready.http, "/ops/stream", "HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("kind", ["text/plain", "application/json"])
@pytest.mark.parametrize("target", ["POST /ops/actions/abort", "GET /ops/stream", "POST /livez"])
@pytest.mark.parametrize("rest", ["zzz\r\nnonsense\r\n\r\n", "\x00\xff\r\n\r\n", None])
async def test_nonsense_after_a_good_beginning_makes_no_noise(target: str, kind: str, rest: str | None) -> None:
    """None: nothing comes any more."""
    head = f"{target} HTTP/1.1\r\nHOST\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
    with quietly():
        async with running_server() as running:
            reader, writer = await say(running.ready.http, head, limit=1 << 16)
            if target != "POST /ops/actions/abort" or kind != "application/json":
                await reader.readuntil(b"\r\n\r\n")  # the answer's head is sent, so that there is no other one
            await until(lambda: open_connections(running) == 1)
            if rest is None:
                writer.transport.abort()
            else:
                writer.write(rest.encode("latin-1"))
                assert await is_ended(reader)
                writer.transport.abort()
            await until(lambda: open_connections(running) == 0)


@pytest.mark.parametrize(
    "path",
    [
        "/ops/../../../../etc/passwd",
        "/ops/%2e%2e/%2e%2e/guard.py",
        "/ops/..%2f..%2fguard.py",
        "/ops/..%5cguard.py",
        "/ops/..",
        "/ops//etc/passwd",
        "/ops/%00",
        "/ops/main.js%00.html",
        "/ops/%ff%fe",
        "/ops/experts",
        "/ops/experts/",
        f"/ops/{'a' * 300}",
        f"/ops/{'a/' * 4000}",
        "//evil.example/",
        "http://evil.example/ops/",
    ],
)
async def test_no_path_leads_out_of_the_page(path: str) -> None:
    with quietly():
        async with running_server() as running:
            reply = await ask(running.ready.http, path)
    assert reply.status == 404
    assert reply.body == b"Not Found"


async def test_a_client_that_vanished_is_given_up_by_the_kernel() -> None:
    async with running_server() as running, saying(running.ready.http, "GET /ops/stream HTTP/1.1\r\nHOST\r\n\r\n", 1):
        await until(lambda: open_connections(running) == 1)
        door = running.coordinator._doors._http
        assert door is not None
        [one] = door._server.server_state.connections
        socket_ = one.transport.get_extra_info("socket")
        assert socket_.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
