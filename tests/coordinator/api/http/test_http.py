"""The HTTP door over a real socket: every route by its role, what it refuses, and that it ends with the service."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from numoe.coordinator.access.roles import Role
from numoe.coordinator.api.failures import FailureKind
from numoe.coordinator.api.http.actions import Actions
from numoe.coordinator.api.http.answers import STATUSES
from numoe.coordinator.api.http.asked import Asked
from numoe.coordinator.api.http.guard import HEADERS
from numoe.coordinator.api.http.inference import Inference
from numoe.coordinator.api.http.routes import PAGE, Views, route_table
from numoe.coordinator.operations.observer import Observer
from numoe.coordinator.operations.snapshot import Snapshot
from numoe.coordinator.process.life import Coordinator, Ready
from numoe.coordinator.settings import ListenSettings, ServeSettings
from numoe.protos.errors import AddressInUse
from numoe.v1.placement_pb2 import GetPlacementRequest
from tests.coordinator.api.grpc.grpc_serving import (
    SHAPE,
    fake_workers,
    generated,
    read_all,
    running_server,
    served_model,
    settings_of,
    until,
)
from tests.coordinator.api.grpc.grpc_serving import (
    ask as asked,
)
from tests.coordinator.api.http.http_client import Kept, ask, messages, order
from tests.coordinator.api.http.malformed_bodies import ACTIONS, VALID
from tests.coordinator.engine.serving import Gate
from tests.coordinator.process.test_life import ignore, loading_service


def routes() -> list[tuple[Role, str, str]]:
    actions = Actions(lambda: pytest.fail("asked"))
    views = Views(lambda: pytest.fail("asked"), lambda: pytest.fail("asked"), asyncio.Event())
    asked = Asked(Inference(lambda: pytest.fail("asked"), lambda end: pytest.fail("asked")))
    return [(route.role, route.method, route.path) for route in route_table(views, actions, asked)]


def test_malformed_bodies_are_sent_to_all_that_take_one() -> None:
    of_slots = "/slots/{slot}"  # test_slot_actions.py: it needs a folder
    assert {path for _, method, path in routes() if method == "POST"} == {*VALID, *ACTIONS, of_slots}


async def test_what_operates_is_posted_and_what_only_looks_is_not() -> None:
    told = routes()
    assert all(method == "POST" for role, method, _ in told if role is Role.OPERATE)
    assert all(method == "GET" for role, method, _ in told if role in (Role.OBSERVE, Role.OPEN))
    assert {path for role, _, path in told if role is Role.OPEN} == {"/", "/livez", "/readyz", "/health"}


async def test_every_action_is_refused_from_another_site_and_every_route_under_another_name() -> None:
    async with running_server() as running:
        http = running.ready.http
        for role, method, path in routes():
            foreign = await ask(http, path, method, b"{}", host="evil.example")
            assert (foreign.status, b"evil.example" in foreign.body) == (421, True), path
            if role is Role.INFER:
                for headers in ({"origin": "http://evil.example"}, {"sec_fetch_site": "cross-site"}):
                    refused = await ask(http, path, method, b"{}", **headers)
                    assert (refused.status, refused.json["error"]["type"]) == (403, "permission_error"), path
            if role is Role.OPERATE:
                for headers in ({"origin": "http://evil.example"}, {"sec_fetch_site": "cross-site"}, {}):
                    sent = {"content_type": "application/json" if headers else "text/plain"} | headers
                    refused = await ask(http, path, "POST", b"{}", **sent)
                    told = refused.json["error"]["reason" if path.startswith("/ops/") else "code"]
                    assert (refused.status, told.upper()) == (403, "FOREIGN_ORIGIN"), path
                assert (await ask(http, path)).status in (404, 405)  # no page's file either
        assert running.coordinator.served_model().engine.snapshot().state == "serving"


async def test_health_says_whether_requests_are_taken() -> None:
    ready: list[Ready] = []
    async with loading_service(settings_of(), ready.append) as (coordinator, load):
        http = coordinator.loading().http
        assert (await ask(http, "/livez")).status == 200
        not_ready = await ask(http, "/readyz")
        assert (not_ready.status, not_ready.json) == (503, {"state": "loading"})
        refused = await ask(http, "/ops/status")
        assert (refused.status, refused.json["error"]["reason"], refused.headers["retry-after"]) == (
            503,
            "UNAVAILABLE",
            "5",
        )
        stream = messages(http)
        told = await anext(stream)
        assert (set(told), told["service"]["state"]) == ({"now", "service"}, "loading")
        assert told["service"]["loading"] == {"phase": "loading", "done": 1, "total": 2}
        load.finish()
        await until(lambda: bool(ready))
        assert ready[0].http == http
        assert (await ask(http, "/readyz")).json == {"state": "serving"}
        async for told in stream:  # the same stream goes on with all parts
            if told["service"]["state"] == "serving":
                break
        assert {"workers", "experts", "flow"} <= set(told)
        await stream.aclose()


async def test_answers_carry_a_policy_and_the_page_is_served_with_its_types() -> None:
    async with running_server() as running:
        http = running.ready.http
        moved = await ask(http, "/")
        page = await ask(http, "/ops/")
        missing = await ask(http, "/ops/nothing")
        outside = await ask(http, "/ops/../routes.py")
        live = await ask(http, "/livez")
    assert (moved.status, moved.headers["location"]) == (307, "/ops/")
    assert (page.status, page.body) == (200, (PAGE / "index.html").read_bytes())
    assert page.headers["content-type"].startswith("text/html")
    assert (missing.status, outside.status, missing.body) == (404, 404, b"Not Found")
    for reply in (moved, page, missing, live):
        assert HEADERS.items() <= reply.headers.items()


async def test_status_is_what_grpc_and_the_engine_tell() -> None:
    gate = Gate(number=1)
    workers = fake_workers(before_collect=gate)
    async with running_server(workers) as running:
        reading = asyncio.create_task(generated(running, asked(request_id="<img src=x>", max_tokens=3)))
        await gate.reached.wait()
        reply = await ask(running.ready.http, "/ops/status")
        placement = await running.placement.GetPlacement(GetPlacementRequest())
        engine = running.coordinator.served_model().engine.snapshot()
        gate.open()
        await reading
    told = reply.json
    assert reply.status == 200
    assert [(w["worker"], w["pid"], w["weight_bytes"], w["kv_bytes"], w["cpus"]) for w in told["workers"]] == [
        (
            worker.worker,
            worker.pid if worker.HasField("pid") else None,
            worker.weight_bytes if worker.HasField("weight_bytes") else None,
            worker.kv_bytes if worker.HasField("kv_bytes") else None,
            ",".join(map(str, worker.cpus)),
        )
        for worker in placement.workers
    ]
    flow = told["flow"]
    assert (flow["running"], flow["queued"], flow["kv_blocks_used"]) == (1, 0, engine.kv_blocks_used)
    assert (
        (flow["prompt_tokens"], flow["generated_tokens"]) == (engine.prompt_tokens, engine.generated_tokens) == (3, 1)
    )
    [request] = told["requests"]
    assert (request["id"], request["phase"], request["prompt_done"], request["tokens"], request["most_tokens"]) == (
        "<img src=x>",
        "decode",
        3,
        1,
        3,
    )
    assert request["client"].startswith("ipv4:127.0.0.1:")
    assert (told["service"]["state"], told["service"]["layers"], told["service"]["http"]) == (
        "serving",
        SHAPE.layers,
        running.ready.http,
    )


async def test_a_request_is_aborted_and_the_service_drained_by_post() -> None:
    gate = Gate(number=1)
    async with running_server(fake_workers(before_collect=gate)) as running:
        http = running.ready.http
        call = running.generation.Generate(asked(request_id="mine", max_tokens=50))
        await call.read()
        await gate.reached.wait()
        none = await order(http, "abort", {"request_id": "other"})
        aborted = await order(http, "abort", {"request_id": "mine"})
        gate.open()
        assert (none.json, aborted.json, aborted.status) == ({"aborted": 0}, {"aborted": 1}, 200)
        await until(lambda: running.busy() == (0, 0, 0))
        stream = messages(http)
        await anext(stream)
        drained = await order(http, "drain-service", {})
        assert (drained.status, drained.json) == (202, {"open": 0})
        ends = [told async for told in stream]  # it ends, at once, and the process with it
        await running.task
        kinds = [event.kind for event in running.coordinator.served_model().engine.events.after()]
    assert len(ends) <= 2
    assert kinds == ["loading", "serving", "request_aborted", "draining", "stopped"]


@pytest.mark.parametrize(
    ("action", "body", "problem"),
    [
        ("abort", b"{}", "request_id"),
        ("abort", b'{"request_id": 7}', "Expected `str`"),
        ("abort", b"{", "truncated"),
        ("drain-service", b'{"worker": 1}', "unknown field"),
        ("drain-worker", b'{"worker": "one"}', "Expected `int`"),
        ("rebalance", b"\xff", "not what this action takes"),
        ("rebalance", b" " * 5000, "takes more than 4096 bytes"),
    ],
)
async def test_orders_that_make_no_sense_are_refused_with_what_is_wrong(action: str, body: bytes, problem: str) -> None:
    async with running_server() as running:
        reply = await ask(running.ready.http, f"/ops/actions/{action}", "POST", body, content_type="application/json")
    assert (reply.status, reply.json["error"]["reason"]) == (400, "INVALID_REQUEST")
    assert problem in reply.json["error"]["message"]


async def test_actions_go_through_the_checks_of_grpc() -> None:
    async with running_server() as running:
        moved = await order(running.ready.http, "rebalance", {})
        emptied = await order(running.ready.http, "drain-worker", {"worker": 1})
    for reply in (moved, emptied):
        assert reply.status == 409
        assert "experts are split by row" in reply.json["error"]["message"]


async def test_a_defect_of_ours_is_told_by_an_incident_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_server() as running:
        monkeypatch.setattr(running.coordinator.operations(), "abort", lambda request_id: {}[request_id])
        reply = await order(running.ready.http, "abort", {"request_id": "secret"})
    assert (reply.status, set(reply.json["error"])) == (500, {"reason", "message", "incident"})
    assert b"secret" not in reply.body


async def test_nobody_looks_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Snapshot] = []
    take = Observer.take

    def look(*given: Any) -> Snapshot:
        looks.append(take(*given))
        return looks[-1]

    monkeypatch.setattr(Observer, "take", look)
    async with running_server() as running:
        await generated(running, asked(max_tokens=50))
        assert looks == []
        await ask(running.ready.http, "/ops/status")
        assert len(looks) == 1


async def test_a_defect_in_the_stream_ends_it_and_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_server() as running:
        monkeypatch.setattr(running.coordinator.operations(), "snapshot", lambda: dict[str, str]()["defect"])
        with capture_logs() as logs:
            assert [told async for told in messages(running.ready.http)] == []
    incidents = [(one["event"], str(one["exc_info"])) for one in logs if "incident" in one]
    assert incidents == [("internal_error", "'defect'")]


async def test_the_http_server_leaves_signals_and_logging_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    handlers = list(logging.getLogger().handlers)
    async with running_server() as running:
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        assert logging.getLogger().handlers == handlers
        reader, writer = await asyncio.open_connection(*running.ready.http.split(":"))
        writer.write(b"nonsense\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        writer.close()


async def test_http_can_be_off_and_a_taken_port_is_named_with_its_flag() -> None:
    off = ServeSettings(ListenSettings(address="127.0.0.1:0", http_address="off"))
    async with running_server(settings=off) as running:
        assert running.ready.http == ""
        assert (await read_all(running.generation.Generate(asked()))).finished
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = ServeSettings(ListenSettings(address="127.0.0.1:0", http_address=address))
        coordinator = Coordinator(settings, lambda report: served_model(fake_workers(), settings), ignore, ignore_ready)
        with pytest.raises(AddressInUse, match=f"{address} is taken .* with --http-address"):
            await coordinator.run()


def ignore_ready(ready: Ready) -> None:
    """Nobody waits for it."""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_http_listens_where_it_is_told_to(host: str) -> None:
    settings = ServeSettings(ListenSettings(address="127.0.0.1:0", http_address=f"{host}:0"))
    async with running_server(settings=settings) as running:
        assert running.ready.http.rpartition(":")[0] == host
        assert (await ask(running.ready.http, "/livez")).status == 200


def test_every_kind_of_failure_has_a_status() -> None:
    assert set(STATUSES) == set(FailureKind)


async def test_answers_on_a_kept_connection_wait_for_nobodys_acknowledgement() -> None:
    """Linux delays one by 40 ms at least, but for the first dozen of a connection."""
    seconds = []
    async with running_server() as running:
        client = Kept(running.ready.http)
        for _ in range(40):
            began = time.monotonic()
            assert (await client.ask("/livez")).status == 200
            seconds.append(time.monotonic() - began)
        client.close()
    assert min(seconds[-10:]) < 0.04, seconds


async def test_experts_are_moved_for_one_call_at_a_time() -> None:
    async with running_server() as running:
        end = running.coordinator.operations().take_turn()
        refused = await order(running.ready.http, "rebalance", {})
        end()
        after = await order(running.ready.http, "rebalance", {})
        again = await order(running.ready.http, "rebalance", {})
    assert (refused.status, refused.json["error"]["reason"]) == (503, "UNAVAILABLE")
    assert "for another call" in refused.json["error"]["message"]
    assert (after.status, again.status) == (409, 409)  # there is nothing to move, and the turn was given back
