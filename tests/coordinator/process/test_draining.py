"""A signal: readiness is gone at once, what runs ends well, what waits is told to come back, and the exit is clean."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.coordinator.api.grpc.grpc_serving import (
    PATIENCE_SECONDS,
    Told,
    ask,
    detail_of,
    fake_workers,
    generated,
    info_of,
    running_server,
    settings_of,
    until,
)
from tests.coordinator.api.http import http_client
from tests.coordinator.engine.fake_executor import LIMITS
from tests.coordinator.engine.serving import Gate, both
from tests.coordinator.process.test_life import ROOT

RUNNING, WAITING = 8, 8
SOON_SECONDS = 0.1
TRIES = 3  # of which the best counts: the machine may do other things


async def test_what_runs_ends_well_and_what_waits_is_told_to_come_back() -> None:
    first, gate = Gate(0), Gate(2)
    workers = fake_workers(limits=replace(LIMITS, sequences=RUNNING), before_collect=both(first, gate))
    async with running_server(workers, settings_of(prompt_slowdown=0.0)) as running:  # all prompts in one step
        answers = [asyncio.create_task(generated(running, ask(max_tokens=20))) for _ in range(RUNNING + WAITING)]
        await until(lambda: sum(running.busy()[:2]) == RUNNING + WAITING)
        first.open()
        await gate.reached.wait()
        assert running.busy()[:2] == (RUNNING, WAITING)
        running.coordinator.on_signal()
        await until(lambda: sum(answer.done() for answer in answers) == WAITING)  # while the others are at work
        gate.open()
        ends = await asyncio.gather(*answers, return_exceptions=True)
        await running.task
    refused = [end for end in ends if isinstance(end, BaseException)]
    assert len(refused) == WAITING
    for error in refused:
        assert isinstance(error, grpc.aio.AioRpcError)
        assert (error.code(), *info_of(error)) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "numoe")
        assert detail_of(error, error_details_pb2.RetryInfo).retry_delay.seconds > 0
    assert [len(end.ids) for end in ends if isinstance(end, Told)] == [20] * RUNNING


async def seconds_until_not_ready() -> float:
    """From a signal, with a request at work, until neither door says any more that it takes requests."""
    gate = Gate(5)
    async with running_server(fake_workers(before_collect=gate)) as running:
        answer = asyncio.create_task(generated(running, ask(max_tokens=20)))
        await gate.reached.wait()
        watch = health_pb2_grpc.HealthStub(running.channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        began = time.monotonic()
        running.coordinator.on_signal()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        while (await http_client.ask(running.ready.http, "/readyz")).status == 200:
            pass
        seconds = time.monotonic() - began
        assert not answer.done()
        gate.open()
        await answer
    return seconds


async def test_readiness_is_gone_at_once() -> None:
    assert min([await seconds_until_not_ready() for _ in range(TRIES)]) < SOON_SECONDS


SERVING = """
import asyncio, sys, threading
from numoe.coordinator.process import life
from tests.coordinator.api.grpc.grpc_serving import fake_workers, served_model, settings_of

def compute(step):
    over.wait(0.01 if step.number < 3 else 1e9)

over = threading.Event()
workers = fake_workers(before_collect=compute)
workers.close = over.set
settings = settings_of()

def announce(ready):
    sys.stdout.write(f"READY {ready.address}\\n")
    sys.stdout.flush()

asyncio.run(life.serve(settings, lambda _: served_model(workers, settings), lambda *_: None, announce))
"""


@pytest.mark.parametrize("step", ["idle", "hanging"])
def test_a_process_ends_in_order_after_one_signal_and_at_once_after_two(step: str) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVING], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = next(line.split()[1] for line in process.stdout if line.startswith("READY"))
            with grpc.insecure_channel(address) as channel:
                if step == "hanging":
                    message = ask(max_tokens=9).SerializeToString()
                    asking: Any = channel.unary_stream("/numoe.v1.GenerationService/Generate")
                    call = asking(message)
                    next(call)
                    next(call)
                    process.send_signal(signal.SIGTERM)
                    with pytest.raises(subprocess.TimeoutExpired):
                        process.wait(0.3)
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()
