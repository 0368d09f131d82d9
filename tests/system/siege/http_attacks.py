"""What hostile clients do to the HTTP door: as attacks.py does to gRPC, registered beside them.

An answer is told by its status; what the service closes without a word is "closed".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from tests.system.siege.attacks import Attacker, Outcome, attack

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]
ANSWER_SECONDS = 60.0  # a service that is busy with everybody else answers later, not never
CROWD = 400  # connections: more than the door has room for
PATHS = (
    "/ops/../../../../../../etc/passwd", "/ops/%2e%2e/%2e%2e/guard.py", "/ops/..%2f..%2fguard.py", "/ops/..%5cguard.py",
    "/ops//etc/passwd", "/ops/%00", "/ops/main.js%00.html", "/ops/%ff%fe", "/ops/experts/", f"/ops/{'a' * 300}",
    f"/ops/{'a/' * 4000}", "//evil.example/", "http://evil.example/", "/ops/%0d%0aset-cookie:%20a=b", "*",
)  # fmt: skip
STREAM = "GET /ops/stream HTTP/1.1\r\n"


async def _say(attacker: Attacker, said: bytes) -> Pair:
    host, port = attacker.http.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(said)
    return reader, writer


@asynccontextmanager
async def _crowd(attacker: Attacker, said: Sequence[bytes]) -> AsyncIterator[list[Pair]]:
    """A connection for each; the door may close any of them at any time."""
    pairs: list[Pair] = []
    try:
        with suppress(OSError):
            for one in said:
                pairs.append(await _say(attacker, one))
        yield pairs
    finally:
        for _, writer in pairs:
            writer.transport.abort()


async def _answer(attacker: Attacker, said: bytes) -> Outcome:
    """What a connection is told first: a status, or "closed"."""
    async with _crowd(attacker, [said]) as pairs:
        return await _status(pairs[0][0]) if pairs else "closed"


async def _status(reader: asyncio.StreamReader) -> Outcome:
    try:
        line = await asyncio.wait_for(reader.readline(), ANSWER_SECONDS)
    except TimeoutError:
        return f"no answer in {ANSWER_SECONDS:.0f} s"
    except (OSError, ValueError):  # ValueError: a line without an end
        return "closed"
    return line.split()[1].decode() if line.startswith(b"HTTP/1.1 ") else "closed" if not line else repr(line[:50])


def _head(attacker: Attacker, first: str, **headers: str) -> bytes:
    told = {"host": attacker.http, "connection": "close"} | headers
    lines = [first, *(f"{name.replace('_', '-')}: {value}" for name, value in told.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


@attack("held")
async def slow_heads(attacker: Attacker) -> Outcome:
    """Hundreds of requests whose head comes byte by byte, and never to an end."""
    async with _crowd(attacker, [b""] * CROWD) as pairs:
        for byte in f"GET /livez HTTP/1.1\r\nhost: {attacker.http}\r\nx: ".encode():
            for _, writer in pairs:
                if not writer.transport.is_closing():
                    writer.write(bytes([byte]))
            await asyncio.sleep(0.2)
    return "held"


@attack("held")
async def unread_streams(attacker: Attacker) -> Outcome:
    """Hundreds of streams of which nothing is read, by GET and by HEAD."""
    said = [_head(attacker, STREAM.strip()), _head(attacker, STREAM.strip().replace("GET", "HEAD"))]
    async with _crowd(attacker, said * (CROWD // 2)) as pairs:
        for _, writer in pairs:
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a socket's transport
        await asyncio.sleep(10.0)
    return "held"


@attack("held")
async def unread_answers(attacker: Attacker) -> Outcome:
    """Requests by the hundred on each of many connections, none of whose answers is read."""
    said = _head(attacker, "GET /ops/ HTTP/1.1", connection="keep-alive") * 500
    async with _crowd(attacker, [said] * 20) as pairs:
        for _, writer in pairs:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(10.0)
    return "held"


@attack("held")
async def bodies_that_never_come(attacker: Attacker) -> Outcome:
    """Actions whose bodies were announced, by length and in chunks."""
    head = "POST /ops/actions/abort HTTP/1.1"
    lengths = [
        {"content_length": "10"},
        {"transfer_encoding": "chunked"},
        {"content_length": "99", "expect": "100-continue"},
    ]
    said = [_head(attacker, head, content_type="application/json", **length) for length in lengths]
    async with _crowd(attacker, said * (CROWD // 3)):
        await asyncio.sleep(8.0)
    return "held"


@attack("400", "404", "413", "closed")
async def huge_heads(attacker: Attacker) -> Outcome:
    """Addresses, headers and numbers of headers without end."""
    size = attacker.random.choice((10_000, 100_000, 3_000_000))
    heads = (
        _head(attacker, f"GET /{'a' * size} HTTP/1.1"),
        _head(attacker, "GET /nothing HTTP/1.1", x="a" * size),
        _head(attacker, "GET /nothing HTTP/1.1", **{f"x{number}": "y" for number in range(size // 10)}),
    )
    return await _answer(attacker, attacker.random.choice(heads))


@attack("400", "403", "405", "503", "closed")
async def huge_bodies(attacker: Attacker) -> Outcome:
    """Megabytes where nothing or little is expected."""
    size = attacker.random.choice((10_000, 20_000_000))
    first, kind = attacker.random.choice(
        (
            ("POST /ops/actions/abort", "application/json"),
            ("POST /ops/actions/abort", "text/plain"),
            ("PUT /livez", "x/y"),
        )
    )
    head = _head(attacker, f"{first} HTTP/1.1", content_length=str(size), content_type=kind)
    return await _answer(attacker, head + b" " * size)


@attack("400", "404", "405", "421", "closed")
async def http_garbage(attacker: Attacker) -> Outcome:
    """Other protocols, no protocol, and requests that say two things at once."""
    random = attacker.random
    said = (
        random.randbytes(300),
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        _head(attacker, "GET /livez HTTP/1.1")[:-2] + b"host: evil.example\r\n\r\n",
        _head(attacker, "POST /livez HTTP/1.1", content_length="5", transfer_encoding="chunked") + b"0\r\n\r\nGET /",
        _head(attacker, "POST /livez HTTP/1.1", transfer_encoding="chunked") + b"zz\r\n" + random.randbytes(50),
        b"\r\n" * 1000 + random.randbytes(10),
    )
    return await _answer(attacker, random.choice(said))


@attack("closed", "400")
async def nonsense_within(attacker: Attacker) -> Outcome:
    """A stream or a refusal that has begun, and then bytes that break the request's body."""
    first = attacker.random.choice((STREAM.strip(), "POST /ops/actions/abort HTTP/1.1", "POST /livez HTTP/1.1"))
    async with _crowd(attacker, [_head(attacker, first, transfer_encoding="chunked")]) as pairs:
        for reader, writer in pairs:
            with suppress(OSError):
                await _status(reader)
                writer.write(attacker.random.choice((b"zz\r\n\r\n", attacker.random.randbytes(40) + b"\r\n\r\n")))
                async with asyncio.timeout(ANSWER_SECONDS):
                    while await reader.read(1 << 16):
                        pass
    return "closed"


@attack("404", "400", "421", "closed")
async def paths_that_lead_out(attacker: Attacker) -> Outcome:
    """Paths that would lead out of the page's folder, if anything did."""
    return await _answer(attacker, _head(attacker, f"GET {attacker.random.choice(PATHS)} HTTP/1.1"))


@attack("421", "closed")
async def other_hosts(attacker: Attacker) -> Outcome:
    """Every route under a name that another site made point here."""
    first = attacker.random.choice(
        ("GET /ops/", "GET /ops/stream", "GET /metrics", "POST /ops/actions/drain-service", "GET /livez")
    )
    host = attacker.random.choice(
        ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "0x7f000001", "")
    )
    return await _answer(attacker, _head(attacker, f"{first} HTTP/1.1", host=host, content_length="0"))


@attack("403", "closed")
async def other_origins(attacker: Attacker) -> Outcome:
    """Actions that another site's page has a browser send."""
    action = attacker.random.choice(("abort", "rebalance", "drain-worker", "drain-service"))
    headers = attacker.random.choice(
        (
            {"origin": "http://evil.example", "content_type": "application/json"},
            {"origin": "null", "content_type": "application/json"},
            {"origin": f"http://{attacker.http}.evil.example", "content_type": "application/json"},
            {"sec_fetch_site": "cross-site", "content_type": "application/json"},
            {"sec_fetch_site": "same-site", "content_type": "application/json"},
            {"content_type": "text/plain"},
            {"content_type": "application/x-www-form-urlencoded"},
        )
    )
    head = _head(attacker, f"POST /ops/actions/{action} HTTP/1.1", content_length="2", **headers)
    return await _answer(attacker, head + b"{}")


@attack("200", "404", "405", "closed")
async def other_methods(attacker: Attacker) -> Outcome:
    """Methods that nobody needs, on every kind of route."""
    method = attacker.random.choice(("HEAD", "OPTIONS", "TRACE", "CONNECT", "PUT", "DELETE", "PATCH", "BREW"))
    path = attacker.random.choice(("/ops/", "/ops/stream", "/livez", "/metrics", "/ops/actions/abort"))
    return await _answer(attacker, _head(attacker, f"{method} {path} HTTP/1.1"))


@attack("answered", "closed")
async def pipelining(attacker: Attacker) -> Outcome:
    """Hundreds of requests at once on one connection; each is answered, in turn."""
    many = 200
    said = _head(attacker, "GET /livez HTTP/1.1", connection="keep-alive") * (many - 1) + _head(
        attacker, "GET /livez HTTP/1.1"
    )
    async with _crowd(attacker, [said]) as pairs:
        for reader, _ in pairs:
            with suppress(OSError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    told = await reader.read(-1)
                return "answered" if told.count(b"HTTP/1.1 200") == many else "closed" if not told else "cut"
    return "closed"


@attack("answered or refused")
async def many_actions(attacker: Attacker) -> Outcome:
    """Actions by the dozen at once: of requests that are not there, of workers that are not, of what cannot move."""
    orders: Sequence[tuple[str, object]] = (
        *(("abort", {"request_id": "x" * 128}), ("abort", {"request_id": 7}), ("drain-worker", {"worker": 99})),
        *(("drain-worker", {"worker": -1}), ("rebalance", {}), ("rebalance", [[[]]]), ("drain-service", {"now": True})),
    )
    said = []
    for _ in range(40):
        action, order = attacker.random.choice(orders)
        body = json.dumps(order).encode()
        headers = {"content_type": "application/json", "content_length": str(len(body))}
        said.append(_head(attacker, f"POST /ops/actions/{action} HTTP/1.1", **headers) + body)
    async with _crowd(attacker, said) as pairs:
        ends = set(await asyncio.gather(*(_status(reader) for reader, _ in pairs)))
    return "answered or refused" if ends <= {"200", "202", "400", "409", "503", "closed"} else f"{sorted(ends)}"


@attack("read")
async def many_viewers(attacker: Attacker) -> Outcome:
    """As many streams as there are places for, read as fast as they come, beside reads of all there is at once."""
    said = [_head(attacker, STREAM.strip())] * 40 + [_head(attacker, "GET /ops/status HTTP/1.1")] * 10
    said += [_head(attacker, "GET /metrics HTTP/1.1")] * 10
    async with _crowd(attacker, said) as pairs:
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(5.0):
                await asyncio.gather(*(_read_all(reader) for reader, _ in pairs))
    return "read"


async def _read_all(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass
