"""What the HTTP door does around an answer: pings, clients that go or read nothing, failures, bounds, other sites."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from numoe.coordinator.api.http import clients, inference
from numoe.coordinator.process.life import Ready
from numoe.coordinator.settings import ListenSettings, ServeSettings
from tests.coordinator.api.grpc.grpc_serving import fake_workers, running_server, settings_of, small_workers, until
from tests.coordinator.api.http.http_client import PATIENCE_SECONDS, Reply, ask, order
from tests.coordinator.api.http.openai_serving import HELLO
from tests.coordinator.engine.serving import Gate
from tests.coordinator.process.test_life import loading_service

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
ENDLESS: dict[str, Any] = {"messages": HELLO, "max_tokens": 200, "ignore_eos": True}


async def post(http: str, path: str, content: Any, **headers: str) -> Reply:
    return await ask(http, path, "POST", json.dumps(content).encode(), **headers)


async def begin(http: str, path: str, content: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A call whose answer is not read yet."""
    host, _, port = http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.0\r\nhost: {http}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return reader, writer


@pytest.mark.parametrize(
    ("path", "ping"), [(CHAT, b": the prompt is being run\n"), (MESSAGES, b"event: ping\n"), ("/v1/completions", b": ")]
)
async def test_a_stream_is_told_that_its_prompt_is_still_run(
    monkeypatch: pytest.MonkeyPatch, path: str, ping: bytes
) -> None:
    monkeypatch.setattr(inference, "PING_SECONDS", 0.02)
    gate = Gate(number=0)
    asked = ENDLESS | {"stream": True, "prompt": "ab"}
    async with running_server(fake_workers(before_collect=gate)) as running:
        reader, writer = await begin(running.ready.http, path, asked)
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(2):
                while not (await reader.readline()).startswith(ping):
                    pass
            gate.open()
            rest = b"".join([part async for part in reader])
        writer.close()
    assert (b"[DONE]" in rest) == (path != MESSAGES)
    assert (b"message_stop" in rest) == (path == MESSAGES)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_has_its_requests_ended(stream: bool) -> None:
    gate = Gate(number=2)
    async with running_server(fake_workers(before_collect=gate)) as running:
        with capture_logs() as logs:
            _, writer = await begin(running.ready.http, CHAT, ENDLESS | {"stream": stream, "n": 2})
            await gate.reached.wait()
            engine = running.coordinator.served_model().engine
            assert len(engine.requests()) == 2
            writer.transport.abort()
            await until(lambda: not any(not one.generation.mailbox.closed for one in engine._batch.running))
            gate.open()
            await until(lambda: running.busy() == (0, 0, 0))
            await until(lambda: [one["outcome"] for one in logs if "outcome" in one] == ["cancelled"] * 2)
        assert len(running.workers.steps) <= 3


async def test_an_answer_that_cannot_be_told_ends_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("numoe.coordinator.api.openai.chat._tell", fail)
    async with running_server() as running:
        reply = await post(running.ready.http, CHAT, ENDLESS | {"max_tokens": 100_000})
        assert reply.status == 500
        await until(lambda: running.busy() == (0, 0, 0))
        assert sum(len(step.chunks) for step in running.workers.steps) < 50


async def test_a_client_that_reads_nothing_holds_nobody_up() -> None:
    async with running_server() as running:
        http = running.ready.http
        _, writer = await begin(http, CHAT, ENDLESS | {"stream": True, "n": 8})
        assert (await post(http, CHAT, ENDLESS)).status == 200
        await until(lambda: running.busy() == (0, 0, 0))  # its answers are complete, and wait for it
        writer.transport.abort()


async def test_what_fails_before_anything_is_sent_has_a_status_and_later_an_event() -> None:
    gate = Gate(number=0)
    async with running_server(fake_workers(before_collect=gate)) as running:
        http = running.ready.http
        early = asyncio.create_task(post(http, CHAT, ENDLESS | {"stream": True}, x_request_id="early"))
        await gate.reached.wait()
        assert (await order(http, "abort", {"request_id": "early"})).json == {"aborted": 1}
        refused = await early
        gate.open()
        assert (refused.status, refused.json["error"]["code"]) == (499, "aborted")
        assert refused.headers["x-request-id"] == "early"

    for path, told in ((CHAT, b'data: {"error":{'), (MESSAGES, b"event: error\n")):
        gate = Gate(number=3)
        async with running_server(fake_workers(before_collect=gate)) as running:
            http = running.ready.http
            late = asyncio.create_task(post(http, path, ENDLESS | {"stream": True}, x_request_id="late"))
            await gate.reached.wait()
            await order(http, "abort", {"request_id": "late"})
            gate.open()
            reply = await late
        assert (reply.status, told in reply.body) == (200, True)
        assert b"[DONE]" not in reply.body


async def test_while_the_model_is_loaded_clients_are_told_to_come_back() -> None:
    ready: list[Ready] = []
    async with loading_service(settings_of(), ready.append) as (coordinator, load):
        http = coordinator.loading().http
        health = await ask(http, "/health")
        assert (health.status, health.json["error"]["type"]) == (503, "unavailable_error")
        for path in (CHAT, "/tokenize"):
            refused = await post(http, path, {"messages": HELLO})
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
            assert (refused.json["error"]["type"], refused.json["error"]["code"]) == ("server_error", "unavailable")
        assert (await post(http, MESSAGES, {})).json["error"]["type"] == "overloaded_error"
        load.finish()
        await until(lambda: bool(ready))
        assert (await ask(http, "/health")).json == {"status": "ok"}


async def test_calls_are_bounded_and_one_more_is_told_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "CALLS", 1)
    gate = Gate(number=1)
    async with running_server(fake_workers(before_collect=gate)) as running:
        http = running.ready.http
        first = asyncio.create_task(post(http, CHAT, ENDLESS))
        await gate.reached.wait()
        refused = await post(http, CHAT, ENDLESS)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert (refused.json["error"]["type"], refused.json["error"]["code"]) == ("rate_limit_error", "queue_full")
        assert (await ask(http, "/livez")).status == 200
        gate.open()
        assert (await first).status == 200


async def test_who_does_not_send_what_it_asks_takes_nobodys_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "CALLS", 1)
    async with running_server() as running:
        host, _, port = running.ready.http.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: {running.ready.http}\r\ncontent-length: 9\r\n\r\n{{".encode())
        for _ in range(20):  # until the other has certainly been read
            assert (await post(running.ready.http, CHAT, {"messages": HELLO, "max_tokens": 1})).status == 200
        writer.close()


async def test_a_queue_that_has_no_room_for_all_choices_takes_none() -> None:
    gate = Gate(number=1)
    async with running_server(small_workers(before_collect=gate), settings_of(queue_length=2)) as running:
        http = running.ready.http
        first = asyncio.create_task(post(http, CHAT, ENDLESS))
        await gate.reached.wait()
        refused = await post(http, CHAT, ENDLESS | {"n": 3})
        assert refused.status == 429
        assert running.busy()[1] == 0
        gate.open()
        assert (await first).status == 200


async def test_more_answers_than_could_ever_be_queued_are_no_matter_of_time() -> None:
    async with running_server(small_workers(), settings_of(queue_length=2)) as running:
        for body, field in (({"n": 4}, "n"), ({"prompt": ["a"] * 4}, "prompt")):
            refused = await post(running.ready.http, "/v1/completions", {"prompt": "a", "max_tokens": 1} | body)
            assert (refused.status, refused.json["error"]["param"]) == (400, field)
        assert (await post(running.ready.http, CHAT, {"messages": HELLO, "max_tokens": 1, "n": 3})).status == 200


async def test_bodies_are_bounded_in_length_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "BODY_BYTES", 1000)
    monkeypatch.setattr(inference, "BODY_SECONDS", 0.1)
    async with running_server() as running:
        http = running.ready.http
        long = await post(http, CHAT, {"messages": HELLO, "user": "x" * 1000})
        assert (long.status, long.json["error"]["param"]) == (413, "content-length")
        assert (await post(http, MESSAGES, "x" * 1000)).json["error"]["type"] == "request_too_large"
        host, _, port = http.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {CHAT} HTTP/1.0\r\nhost: {http}\r\ncontent-length: 9\r\n\r\n{{".encode())
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert b"did not come within 0.1 s" in await reader.read()
        writer.close()


async def test_long_bodies_are_held_for_few_calls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "LONG_BODIES", 1)
    long = ENDLESS | {"user": "x" * (clients.LONG_BYTES + 1)}
    gate = Gate(number=1)
    async with running_server(fake_workers(before_collect=gate)) as running:
        http = running.ready.http
        first = asyncio.create_task(post(http, CHAT, long))
        await gate.reached.wait()
        refused = await post(http, CHAT, long)
        gate.open()
        assert (refused.status, (await post(http, CHAT, ENDLESS)).status, (await first).status) == (429, 200, 200)
        assert (await post(http, CHAT, long)).status == 200


async def test_the_log_knows_a_request_by_its_clients_id_and_trace() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"x_request_id": "mine", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    with capture_logs() as logs:
        async with running_server() as running:
            told = await post(running.ready.http, CHAT, ENDLESS, **headers)
            await post(running.ready.http, CHAT, {"messages": []}, **headers)
    assert (told.headers["x-request-id"], told.json["id"]) == ("mine", "chatcmpl-mine")
    ended, refused = (one for one in logs if one["event"] in ("request_ended", "request_refused"))
    for line in (ended, refused):
        assert (line["request"], line["trace"], line["method"]) == ("mine", trace, CHAT)
        assert line["client"].startswith("127.0.0.1:")
    assert (ended["outcome"], refused["outcome"], refused["field"]) == ("length", "invalid_request", "messages")


def listening(*origins: str) -> ServeSettings:
    return ServeSettings(ListenSettings(address="127.0.0.1:0", cors_origins=origins))


async def test_pages_of_other_sites_ask_nothing_unless_their_origin_is_allowed() -> None:
    here, there = "https://chat.example", "https://evil.example"
    preflight: Any = {
        "origin": here,
        "access_control_request_method": "POST",
        "access_control_request_headers": "x-api-key",
    }
    async with running_server() as running:
        refused = await post(running.ready.http, CHAT, ENDLESS, origin=here)
        assert (refused.status, (await ask(running.ready.http, CHAT, "OPTIONS", **preflight)).status) == (403, 405)
        assert "access-control-allow-origin" not in refused.headers
    async with running_server(settings=listening(here)) as running:
        http = running.ready.http
        allowed = await post(http, CHAT, ENDLESS, origin=here)
        assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, here)
        readable = allowed.headers["access-control-expose-headers"].split(", ")
        assert set(readable) == {"x-request-id", "request-id", "retry-after"}
        flown = await ask(http, CHAT, "OPTIONS", **preflight)
        assert (flown.status, flown.headers["access-control-allow-headers"]) == (200, "x-api-key")
        assert (await post(http, CHAT, ENDLESS, origin=there)).status == 403
        assert (
            await order(http, "drain-service", {}, origin=here)
        ).status == 403  # an origin asks, and operates nothing
    async with running_server(settings=listening("*")) as running:
        assert (await post(running.ready.http, CHAT, ENDLESS, origin=there)).status == 200


OPENAI_PATHS = (CHAT, "/v1/models", "/v1/nothing", "/v1", "/tokenize", "/props", "/health", "/slots/0", "/infill")
ANTHROPIC_PATHS = (MESSAGES, "/v1/messages/count_tokens", "/v1/messages/batches")


@pytest.mark.parametrize("path", [*OPENAI_PATHS, *ANTHROPIC_PATHS])
async def test_what_no_route_takes_is_refused_in_the_shape_of_the_api(path: str) -> None:
    async with running_server() as running:
        http = running.ready.http
        for method, host, statuses in (("PUT", http, (404, 405)), ("POST", "evil.example", (421,))):
            refused = await ask(http, path, method, b"{}", host=host)
            assert refused.status in statuses
            assert ("allow" in refused.headers) == (refused.status == 405)
            check_shape(path, refused, {404: "not_found_error" if path in ANTHROPIC_PATHS else ""})


@pytest.mark.parametrize("path", [CHAT, "/tokenize", "/slots/0", MESSAGES, "/v1/messages/count_tokens"])
async def test_other_sites_are_refused_in_the_shape_of_the_api(path: str) -> None:
    async with running_server() as running:
        refused = await post(running.ready.http, path, ENDLESS, origin="https://evil.example")
    assert refused.status == 403
    assert "www-authenticate" not in refused.headers  # a key would not help
    check_shape(path, refused, {403: "permission_error"})
    if path not in ANTHROPIC_PATHS:
        assert refused.json["error"]["code"] == "foreign_origin"


def check_shape(path: str, refused: Reply, kinds: dict[int, str]) -> None:
    """That a refusal is told as its API does; `kinds`: by status, where it is not of an invalid request."""
    kind = kinds.get(refused.status) or "invalid_request_error"
    told = refused.json
    assert (told["error"]["type"], bool(told["error"]["message"])) == (kind, True)
    assert refused.headers["x-request-id"]
    if path in ANTHROPIC_PATHS:
        assert (set(told), told["type"], set(told["error"])) == (
            {"type", "error", "request_id"},
            "error",
            {"type", "message"},
        )
        assert told["request_id"] == refused.headers["request-id"] == refused.headers["x-request-id"]
    else:
        assert (set(told), set(told["error"])) == ({"error"}, {"message", "type", "param", "code"})
        assert told["error"]["param"] is None


async def test_a_person_may_look_at_what_is_served_and_does_nothing_so() -> None:
    async with running_server() as running:
        http = running.ready.http
        for path in ("/v1/models", "/props"):
            assert (await ask(http, path, sec_fetch_site="none")).status == 200
        assert (await post(http, CHAT, ENDLESS, sec_fetch_site="none")).status == 403
