"""Keys at both doors: every route and every call needs one with its role, and what a key has open ends with it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.rpc import error_details_pb2
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection
from structlog.testing import capture_logs

from numoe.coordinator.access.key_file import add_key
from numoe.coordinator.access.roles import OF_KEYS, Role, allows
from numoe.coordinator.api.grpc.roles import ROLES
from numoe.coordinator.api.grpc.server import SERVICE_NAMES
from numoe.coordinator.process.life import Coordinator
from numoe.protos.errors import SetupError
from tests.coordinator.access.made_keys import Keys, asking, make_keys, shown
from tests.coordinator.api.grpc.grpc_serving import (
    PATIENCE_SECONDS,
    Running,
    ask,
    detail_of,
    fake_workers,
    health_of,
    info_of,
    read_all,
    running_server,
    settings_of,
    until,
)
from tests.coordinator.api.http import http_client
from tests.coordinator.api.http.test_http import routes
from tests.coordinator.engine.serving import Gate
from tests.coordinator.process.test_life import SlowLoad, fail_if_announced, ignore, loading_service
from tests.log_lines import captured

REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
BAD = "numoe-no-key-of-this-service"


def methods() -> list[str]:
    """Every method of every service that is listed by reflection, as calls name it."""
    names = (*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    services = map(descriptor_pool.Default().FindServiceByName, names)  # type: ignore[no-untyped-call,unused-ignore]
    return [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def keys(path: Path) -> Keys:
    return make_keys(path)


@asynccontextmanager
async def loading(path: Path) -> AsyncIterator[tuple[grpc.aio.Channel, str]]:
    """A service that asks for keys and loads without end, so that what is let in does nothing; its two doors."""
    async with (
        loading_service(asking(settings_of(), path), fail_if_announced) as (coordinator, _),
        grpc.aio.insecure_channel(coordinator.loading().grpc) as channel,
    ):
        yield channel, coordinator.loading().http


async def code_of(channel: grpc.aio.Channel, method: str, key: str, message: bytes = b"") -> grpc.StatusCode:
    """How a call ends, or OK once it is answered."""
    stream: Any = channel.unary_stream(method)
    call: grpc.aio.UnaryStreamCall[bytes, bytes] = stream(message, metadata=shown(key), timeout=PATIENCE_SECONDS)
    try:
        answer = await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    if answer is grpc.aio.EOF:
        return await call.code()
    call.cancel()
    return grpc.StatusCode.OK


async def read_rest(call: Any) -> None:
    """Read a stream, of which some was read, to its end."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_every_call_needs_a_key_of_its_role(keys: Keys, path: Path) -> None:
    named = health_pb2.HealthCheckRequest(service=SERVICE_NAMES[0]).SerializeToString()
    async with loading(path) as (channel, _):
        for method in methods():
            needed = ROLES[method]
            message = named if method.startswith("/grpc.health") else b""
            for key in ("", BAD):
                assert await code_of(channel, method, key, message) is grpc.StatusCode.UNAUTHENTICATED, method
            for role in OF_KEYS:
                code = await code_of(channel, method, keys[role], message)
                assert (code in REFUSED) is not allows({role}, needed), (method, role, code)
                assert code is not grpc.StatusCode.UNAUTHENTICATED, method


async def test_roles_are_set_down_for_calls_that_there_are() -> None:
    assert set(ROLES) == set(methods())
    assert Role.OPEN not in ROLES.values()


async def test_a_call_without_a_role_is_refused_to_all(keys: Keys, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = "/numoe.v1.ModelService/GetModel"
    monkeypatch.delitem(ROLES, method)
    async with loading(path) as (channel, _):
        for key in ("", *keys.values()):
            assert await code_of(channel, method, key) is grpc.StatusCode.PERMISSION_DENIED


async def test_whether_the_service_lives_is_told_to_everybody(keys: Keys, path: Path) -> None:
    async with loading(path) as (channel, http):
        assert await health_of(channel) == "NOT_SERVING"
        assert await code_of(channel, "/grpc.health.v1.Health/Watch", "") is grpc.StatusCode.OK
        assert (await http_client.ask(http, "/livez")).status == 200
        assert (await http_client.ask(http, "/readyz")).status == 503
        assert (await http_client.ask(http, "/ops/")).status == 200


async def test_every_route_needs_a_key_of_its_role(keys: Keys, path: Path) -> None:
    async with loading(path) as (_, http):
        for needed, method, route in routes():

            async def answered(key: str, method: str = method, route: str = route) -> tuple[int, str]:
                sent = {"content_type": "application/json"} | dict(shown(key))
                status, headers = await http_client.head(http, route, method, b"{}", **sent)
                return status, headers.get("www-authenticate", "")

            for key in ("", BAD):
                status, challenge = await answered(key)
                assert (status == 401) is (needed is not Role.OPEN), route
                assert challenge == ('Bearer realm="numoe"' if status == 401 else ""), route
            for role in OF_KEYS:
                status, challenge = await answered(keys[role])
                assert (status == 403) is not allows({role}, needed), (route, role, status)
                assert ("insufficient_scope" in challenge) is (status == 403), route
                assert status != 401, route


async def test_a_key_is_refused_in_the_shape_of_the_api(keys: Keys, path: Path) -> None:
    async with loading(path) as (_, http):
        for route, method in (("/slots", "GET"), ("/slots/0", "POST")):
            refused = await http_client.ask(http, route, method, authorization=f"Bearer {keys['infer']}")
            told = refused.json["error"]
            assert (refused.status, told["type"], told["code"]) == (403, "permission_error", "permission_denied")
        unknown = await http_client.ask(http, "/v1/messages", "POST", x_request_id="mine")
        status = await http_client.ask(http, "/ops/status")
    assert (unknown.status, unknown.json["error"]["type"]) == (401, "authentication_error")
    assert unknown.json["request_id"] == unknown.headers["request-id"] == "mine"
    assert (status.status, status.json["error"]["reason"]) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("authorization", "Bearer KEY", 503),
        ("authorization", "bearer  KEY ", 503),
        ("x_api_key", "KEY", 503),
        ("authorization", "KEY", 401),
        ("authorization", "Basic KEY", 401),
        ("authorization", "Bearer KEYx", 401),
        ("authorization", "Bearer ", 401),
        ("authorization", "Bearer \xff\xfe", 401),
        ("x_api_key", "", 401),
        ("x_api_key", "Bearer KEY", 401),
        ("cookie", "key=KEY", 401),
    ],
)
async def test_a_key_is_shown_in_either_of_two_headers(
    name: str, value: str, status: int, keys: Keys, path: Path
) -> None:
    async with loading(path) as (_, http):
        sent: Any = {name: value.replace("KEY", keys["observe"])}
        reply = await http_client.ask(http, "/ops/status", **sent)
    assert reply.status == status


async def test_the_name_of_the_key_is_logged_and_the_key_never(keys: Keys, path: Path) -> None:
    with capture_logs() as logs:
        async with running_server(settings=asking(settings_of(), path)) as running:
            await read_all(running.generation.Generate(ask(), metadata=shown(keys["infer"])))
            for key in ("", BAD, keys["observe"]):
                with pytest.raises(grpc.aio.AioRpcError):
                    await read_all(running.generation.Generate(ask(), metadata=shown(key)))
            await http_client.ask(running.ready.http, "/ops/status", authorization=f"Bearer {keys['infer']}")
            await http_client.order(running.ready.http, "abort", {"request_id": "r"}, authorization=f"Bearer {BAD}")
            sent = {"authorization": f"Bearer {keys['operate']}"}
            await http_client.order(running.ready.http, "abort", {"request_id": "r"}, **sent)
    lines = captured(logs)
    [ended] = [line for line in lines if line["event"] == "request_ended"]
    assert ended["key"] == "infer"
    assert [(line["code"], line.get("key")) for line in lines if line["event"] == "call"] == [
        ("UNAUTHENTICATED", None),
        ("UNAUTHENTICATED", None),
        ("PERMISSION_DENIED", None),
    ]
    assert [(line["status"], line["key"]) for line in lines if line["event"] == "action"] == [(200, "operate")]
    assert [line["status"] for line in lines if line["event"] == "route_refused"] == [403, 401]
    for secret in (*keys.values(), BAD):
        assert secret not in repr(logs)


async def test_a_key_has_no_more_open_than_it_may(path: Path) -> None:
    keys = make_keys(path, most_open=1)
    other = add_key(path, "other", [Role.INFER], None)
    gate = Gate(number=1)
    async with running_server(fake_workers(before_collect=gate), asking(settings_of(), path)) as running:
        first = running.generation.Generate(ask(), metadata=shown(keys["infer"]))
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read_all(running.generation.Generate(ask(), metadata=shown(keys["infer"])))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert info_of(refused.value) == ("QUEUE_FULL", "numoe")
        assert detail_of(refused.value, error_details_pb2.RetryInfo).retry_delay.seconds == 1
        second = running.generation.Generate(ask(), metadata=shown(other))
        await second.read()
        gate.open()
        await read_rest(first)
        await read_rest(second)
        await until(lambda: not running.coordinator._keys._open)
        await read_all(running.generation.Generate(ask(), metadata=shown(keys["infer"])))


def without(path: Path, name: str) -> None:
    """Take a key's line out."""
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith(name)))


async def test_what_a_key_has_open_ends_with_it(keys: Keys, path: Path) -> None:
    gate = Gate(number=1)
    async with running_server(fake_workers(before_collect=gate), asking(settings_of(), path)) as running:
        taken = running.generation.Generate(ask(max_tokens=50), metadata=shown(keys["infer"]))
        await taken.read()
        viewer = http_client.messages(running.ready.http, authorization=f"Bearer {keys['observe']}")
        async for told in viewer:
            if told["requests"]:
                break
        assert [one["client"] for one in told["requests"]] == ["infer"]
        without(path, "infer")
        running.coordinator.on_hangup()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await read_rest(taken)
        assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
        gate.open()
        await until(lambda: running.busy() == (0, 0, 0))
        assert await anext(viewer)  # as its key is good still
        without(path, "observe")
        running.coordinator.on_hangup()
        with suppress(ConnectionError):
            async for _ in viewer:  # which ends
                pass
        assert await kinds(running) == ["loading", "serving", "keys_reloaded", "keys_reloaded"]


async def kinds(running: Running) -> list[str]:
    return [event.kind for event in running.coordinator.served_model().engine.events.after()]


async def test_a_broken_file_keeps_the_keys_and_a_new_key_is_taken_up(keys: Keys, path: Path) -> None:
    async with running_server(settings=asking(settings_of(), path)) as running:

        async def is_let_in(key: str) -> bool:
            reply = await http_client.ask(running.ready.http, "/ops/status", authorization=f"Bearer {key}")
            return reply.status == 200

        good = path.read_text()
        path.write_text("no key\n")
        running.coordinator.on_hangup()
        assert await is_let_in(keys["observe"])
        path.write_text(good)
        added = add_key(path, "new", [Role.OBSERVE], None)
        assert not await is_let_in(added)
        running.coordinator.on_hangup()
        assert await is_let_in(added)
        assert await kinds(running) == ["loading", "serving", "keys_refused", "keys_reloaded"]


def test_a_file_that_is_broken_at_the_start_refuses_the_start(path: Path) -> None:
    path.write_text("no key\n")
    path.chmod(0o600)
    settings = asking(settings_of(), path)
    with pytest.raises(SetupError, match=re.escape(str(path))):
        Coordinator(settings, SlowLoad(settings), ignore, fail_if_announced)


async def test_with_keys_the_service_answers_under_any_name(keys: Keys, path: Path) -> None:
    async with loading(path) as (_, http):
        assert (await http_client.ask(http, "/livez", host="llm.example")).status == 200
