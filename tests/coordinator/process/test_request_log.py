"""Every request leaves one line in the log, whatever becomes of it, under the one id that all know it by."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from structlog.testing import capture_logs
from structlog.typing import EventDict

from numoe.coordinator.process.request_log import RequestLog
from numoe.coordinator.requests.request_end import Asker, RequestEnd
from numoe.protos.errors import WorkerLost
from numoe.protos.messages import Step
from numoe.v1.generation_pb2 import ChatMessage, ChatRequest, GenerateRequest, Stopping
from numoe.v1.operations_pb2 import AbortRequestRequest, GetStatusRequest, ListEventsRequest
from tests.coordinator.api.grpc.grpc_serving import (
    PATIENCE_SECONDS,
    Running,
    ask,
    chatted,
    detail_of,
    fake_workers,
    generated,
    running_server,
    settings_of,
    small_workers,
    until,
)
from tests.coordinator.api.grpc.test_status import NothingDrawn
from tests.coordinator.api.http import http_client
from tests.coordinator.engine.fake_executor import LIMITS, lose_workers_from
from tests.coordinator.engine.serving import Gate
from tests.coordinator.tiny_tokenizer import LETTERS
from tests.log_lines import Line, captured

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
FULL = settings_of(queue_length=0)


class Lines:
    """What is logged of requests in a block."""

    def __init__(self, logged: list[EventDict]) -> None:
        self._logged = logged

    def requests(self) -> list[Line]:
        return captured(line for line in list(self._logged) if line["event"].startswith("request_e"))

    def refused(self) -> list[Line]:
        return captured(line for line in list(self._logged) if line["event"] == "request_refused")

    async def one(self) -> Line:
        """The line of the only request."""
        await until(lambda: bool(self.requests() or self.refused()))
        [line] = self.requests() + self.refused()
        return line


@contextmanager
def logged_lines() -> Iterator[Lines]:
    with capture_logs() as logged:
        yield Lines(logged)


async def failed(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await read_to_end(call)
    return raised.value


async def read_to_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_the_line_of_an_answered_request_says_what_its_client_was_told() -> None:
    before = datetime.now(UTC)
    with logged_lines() as lines:
        async with running_server() as running:
            told = await generated(running, ask((5, 6, 7), 8, request_id="mine"))
            line = await lines.one()
    timings = told.finished.timings
    assert (line["request"], line["method"], line["model"]) == ("mine", "GenerationService/Generate", "tiny qwen3moe")
    assert (line["event"], line["outcome"], line["error"], line["trace"]) == ("request_ended", "length", None, None)
    assert line["client"].startswith("ipv4:127.0.0.1:")
    assert (line["prompt_tokens"], line["generated_tokens"]) == (3, 8)
    for part in ("queue", "prefill", "decode"):
        assert line[f"{part}_seconds"] == pytest.approx(getattr(timings, f"{part}_milliseconds") / 1e3, abs=1e-6)
    assert line["first_token_seconds"] == pytest.approx(line["queue_seconds"] + line["prefill_seconds"], abs=2e-6)
    assert line["prefill_tokens_per_second"] == pytest.approx(timings.prefill_tokens_per_second, abs=0.1)
    assert line["decode_tokens_per_second"] == pytest.approx(timings.decode_tokens_per_second, abs=0.1)
    parts = line["queue_seconds"] + line["prefill_seconds"] + line["decode_seconds"]
    assert parts <= line["seconds"] + 2e-6
    assert before <= datetime.fromisoformat(line["timestamp"]) <= datetime.now(UTC)


@pytest.mark.parametrize("by", ["cancelled", "deadline_exceeded", "aborted"])
async def test_the_line_of_a_request_that_was_ended_says_by_whom_and_how_far_it_came(by: str) -> None:
    gate = Gate(4)  # the fifth step is in flight: four tokens are drawn
    with logged_lines() as lines:
        async with running_server(fake_workers(before_collect=gate)) as running:
            timeout = 0.3 if by == "deadline_exceeded" else None
            call = running.generation.Generate(ask(max_tokens=200, request_id="mine"), timeout=timeout)
            await gate.reached.wait()
            if by == "cancelled":
                call.cancel()
            if by == "aborted":
                await running.operations.AbortRequest(AbortRequestRequest(request_id="mine"))
            else:
                await lines.one()
            gate.open()
            line = await lines.one()
    assert line["outcome"] == by
    assert (line["level"], line["error"]) == ("info", None)
    assert (line["prompt_tokens"], line["generated_tokens"]) == (3, 4)
    assert line["first_token_seconds"] > 0
    assert line["decode_tokens_per_second"] > 0


async def test_a_request_that_still_waits_has_no_first_token() -> None:
    gate = Gate(0)
    with logged_lines() as lines:
        async with running_server(small_workers(before_collect=gate)) as running:
            first = running.generation.Generate(ask(max_tokens=2))
            await gate.reached.wait()
            second = running.generation.Generate(ask(max_tokens=2, request_id="mine"))
            await until(lambda: running.busy()[1] == 1)
            second.cancel()
            line = await lines.one()
            gate.open()
            await read_to_end(first)
    assert (line["outcome"], line["generated_tokens"], line["first_token_seconds"]) == ("cancelled", 0, None)
    assert (line["prefill_seconds"], line["decode_seconds"]) == (0.0, 0.0)
    assert line["queue_seconds"] == pytest.approx(line["seconds"], abs=1e-5)


async def test_what_we_failed_at_is_an_error_that_says_why() -> None:
    lost = fake_workers(before_collect=lose_workers_from(2))
    for workers, outcome, why in (
        (lost, "worker_lost", "worker 1 (pid 4242) died"),
        (NothingDrawn(LETTERS), "logits_not_finite", "position 3"),
    ):
        with logged_lines() as lines:
            async with running_server(workers) as running:
                error = await failed(running.generation.Generate(ask(request_id="mine")))
                line = await lines.one()
        assert (line["level"], line["outcome"], line["request"]) == ("error", outcome, "mine")
        assert why in line["error"]
        assert detail_of(error, error_details_pb2.RequestInfo).request_id == "mine"


async def refuse_full(running: Running, gate: Gate) -> grpc.aio.AioRpcError:
    first = running.generation.Generate(ask(max_tokens=2))
    await gate.reached.wait()
    error = await failed(running.generation.Generate(ask(request_id="mine")))
    gate.open()
    await read_to_end(first)
    return error


@pytest.mark.parametrize(
    ("request_", "outcome", "field"),
    [
        (ask(max_tokens=100_000, request_id="mine"), "invalid_request", "stopping.max_tokens"),
        (ask(request_id="mine", model="another"), "invalid_request", "model"),
        (ask(request_id="mine", token_ids=None), "invalid_request", "input"),
        (None, "queue_full", None),
    ],
)
async def test_a_refused_request_leaves_a_line_and_its_client_learns_its_id(
    request_: GenerateRequest | None, outcome: str, field: str | None
) -> None:
    gate = Gate(0)
    workers = small_workers(before_collect=gate) if request_ is None else fake_workers()
    with logged_lines() as lines:
        async with running_server(workers, FULL) as running:
            if request_ is None:
                error = await refuse_full(running, gate)
            else:
                error = await failed(running.generation.Generate(request_))
            await until(lambda: bool(lines.refused()))
    [line] = lines.refused()
    assert (line["request"], line["outcome"], line["field"]) == ("mine", outcome, field)
    assert (line["method"], line["model"]) == ("GenerationService/Generate", "tiny qwen3moe")
    assert line["error"] is None
    assert detail_of(error, error_details_pb2.RequestInfo).request_id == "mine"
    assert dict(error.trailing_metadata())["x-request-id"] == "mine"


async def test_a_request_that_comes_while_the_service_drains_is_refused_for_our_sake() -> None:
    gate = Gate(1)
    with logged_lines() as lines:
        async with running_server(fake_workers(before_collect=gate)) as running:
            first = running.generation.Generate(ask(max_tokens=4))
            await gate.reached.wait()
            running.coordinator.on_signal()
            await until(lambda: running.coordinator.served_model().engine.snapshot().state == "draining")
            await failed(running.generation.Generate(ask(request_id="mine")))
            gate.open()
            await read_to_end(first)
            await running.task
    [line] = lines.refused()
    assert (line["request"], line["outcome"], line["level"]) == ("mine", "unavailable", "info")
    assert "shutting down" in line["error"]


async def test_an_id_that_is_none_is_refused_under_a_new_one() -> None:
    with logged_lines() as lines:
        async with running_server() as running:
            error = await failed(running.generation.Generate(ask(request_id="x" * 129)))
            by_header = (("x-request-id", "x" * 129),)
            other = await failed(running.generation.Generate(ask(), metadata=by_header))
            await until(lambda: len(lines.refused()) == 2)
    named = [detail_of(one, error_details_pb2.RequestInfo).request_id for one in (error, other)]
    assert [line["request"] for line in lines.refused()] == named
    assert all(len(name) == 16 for name in named)
    assert [line["field"] for line in lines.refused()] == ["request_id"] * 2


@pytest.mark.parametrize(
    ("given", "header", "expected"),
    [("mine", None, "mine"), ("", "theirs", "theirs"), ("mine", "theirs", "mine"), ("", None, None)],
)
async def test_one_id_is_in_all_that_tells_of_a_request(given: str, header: str | None, expected: str | None) -> None:
    gate = Gate(1)
    metadata = (("x-request-id", header),) if header else ()
    with logged_lines() as lines:
        async with running_server(fake_workers(before_collect=gate)) as running:
            call = running.generation.Generate(ask(request_id=given, max_tokens=50), metadata=metadata)
            first: Any = await call.read()
            await gate.reached.wait()
            named = expected or first.request_id
            [shown] = (await running.operations.GetStatus(GetStatusRequest())).status.requests
            page = await http_client.ask(running.ready.http, "/ops/status")
            assert (await running.operations.AbortRequest(AbortRequestRequest(request_id=named))).aborted == 1
            gate.open()
            error = await failed(call)
            events = await running.operations.ListEvents(ListEventsRequest())
            line = await lines.one()
    told = {
        "first message": first.request_id,
        "initial metadata": dict(await call.initial_metadata())["x-request-id"],
        "trailing metadata": dict(error.trailing_metadata())["x-request-id"],
        "error": detail_of(error, error_details_pb2.RequestInfo).request_id,
        "status": shown.id,
        "page": page.json["requests"][0]["id"],
        "log": line["request"],
    }
    assert set(told.values()) == {named}, told
    assert named in events.events[-1].text
    assert len(named) == 16 or expected


async def test_the_clients_trace_is_in_the_line_and_a_malformed_one_is_nothing() -> None:
    with logged_lines() as lines:
        async with running_server() as running:
            for metadata in ((("traceparent", TRACEPARENT),), (("traceparent", "nonsense"),), ()):
                async for _ in running.generation.Generate(ask(max_tokens=1), metadata=metadata):
                    pass
            await failed(running.generation.Generate(ask(max_tokens=999), metadata=(("traceparent", TRACEPARENT),)))
            await until(lambda: len(lines.requests()) == 3 and len(lines.refused()) == 1)
    assert [line["trace"] for line in lines.requests()] == [TRACE, None, None]
    assert lines.refused()[0]["trace"] == TRACE


async def test_a_flood_of_refusals_and_of_calls_is_no_flood_of_lines_and_hides_no_others() -> None:
    flood = 300
    with capture_logs() as logged:
        lines = Lines(logged)
        async with running_server(settings=settings_of()) as running:
            await asyncio.gather(*[failed(running.generation.Generate(ask(max_tokens=999))) for _ in range(flood)])
            await asyncio.gather(*[running.operations.GetStatus(GetStatusRequest()) for _ in range(flood)])
            await failed(running.generation.Generate(ask(model="another")))
            assert (await generated(running, ask())).finished
            await until(lambda: bool(lines.requests()))
        ended = running.coordinator.served_model().engine.counts.refused
    refused, calls = lines.refused(), [line for line in captured(logged) if line["event"] == "call"]
    for told in (refused, calls):
        assert 20 <= len(told) < 60  # and one more for each second that this takes
    assert ended == {"invalid_request": flood + 1}


def test_a_line_tells_how_many_were_left_out() -> None:
    now = [0.0]
    log = RequestLog(lambda: "m")
    log._refusals._clock = lambda: now[0]
    end = RequestEnd(Asker("r"), "queue_full", 0.0, 0.0, refused_field="")
    with capture_logs() as logged:
        for _ in range(50):
            log.report(end)
        log._telling.finish(PATIENCE_SECONDS)
        now[0] = 1.0
        log.report(end)
        log.close()
    told = captured(logged)
    assert len(told) == 21
    assert [line.get("left_out") for line in told] == [None] * 20 + [30]


SECRET = "xyzzy"


async def test_nothing_that_is_asked_or_answered_is_logged_whatever_becomes_of_it() -> None:
    short = Stopping(max_tokens=4, ignore_eos=True)
    turns = [ChatMessage(role="user", content=SECRET)]

    def lose(step: Step) -> None:
        if any(len(chunk.token_ids) == LIMITS.step_tokens for chunk in step.chunks):
            raise WorkerLost("worker 1 died")

    with capture_logs() as logged:
        async with running_server(fake_workers(before_collect=lose)) as running:
            told = [
                (await chatted(running, ChatRequest(messages=turns, stopping=short))).text,
                (await generated(running, GenerateRequest(text=SECRET, stopping=short))).text,
            ]
            for bad in (
                GenerateRequest(text=SECRET * 500, stopping=short),
                GenerateRequest(text=SECRET, stopping=Stopping(stop=[SECRET * 100])),
                GenerateRequest(text=SECRET, stopping=Stopping(max_tokens=999)),
                GenerateRequest(text=SECRET * 24, stopping=short),  # which loses the workers
            ):
                await failed(running.generation.Generate(bad))
            await failed(running.generation.Chat(ChatRequest(messages=[ChatMessage(role="", content=SECRET)])))
            await until(lambda: len([line for line in logged if line["event"].startswith("request_")]) == 7)
    lines = captured(logged)
    outcomes = {"length", "invalid_request", "context_length_exceeded", "worker_lost"}
    assert {line["outcome"] for line in lines if "outcome" in line} == outcomes
    assert all(told)
    assert not [line for line in lines if any(text in str(line) for text in (SECRET, *told))]
