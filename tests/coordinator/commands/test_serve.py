"""A serving process ends well."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.coordinator.commands.numoe_process import FAKE_SERVE, PATIENCE_SECONDS, READY, ROOT, lines, numoe, start
from tests.coordinator.commands.terminal_process import OnTerminal


def test_a_signal_drains_and_ends_serve_with_exit_code_0(model: Path) -> None:
    process, address = start(model)
    with process:
        process.terminate()
        out, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out) == (0, ""), log
    assert '"event": "draining"' in log
    assert "Traceback" not in log
    assert numoe("generate", "Hello", "--address", address).returncode == 1


def test_a_person_is_told_how_to_ask_and_ctrl_c_drains(model: Path) -> None:
    flags = (str(model), "--address", "127.0.0.1:0", "--workers", "2")
    with OnTerminal(*flags, program=FAKE_SERVE) as serve:
        ready = re.search(r"READY grpc=(\S+)", serve.until(r"READY .*\n"))
        assert ready is not None
        serve.until(f"ask it in another terminal: numoe chat --address {ready[1]}; Ctrl-C ends it\n")
        serve.interrupt()
        serve.until("draining")
        assert serve.wait() == 0


def test_a_hangup_without_keys_is_logged_and_ends_nothing(model: Path) -> None:
    process, address = start(model)
    with process, ended(process):
        process.send_signal(signal.SIGHUP)
        answer = numoe("generate", "Hello", "--address", address, "--max-tokens", "2")
        process.terminate()
        _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, answer.returncode) == (0, 0), log
    assert '"event": "hung_up"' in log


def test_a_person_whose_terminal_goes_away_is_taken_to_have_interrupted(model: Path) -> None:
    with OnTerminal(str(model), "--address", "127.0.0.1:0", "--workers", "2", program=FAKE_SERVE) as serve:
        serve.until(r"READY .*\n")
        serve.hang_up()
        serve.until("draining")
        assert serve.wait() == 0


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Where a test fails it does not wait for an end that nobody told."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.parametrize("log", ["2>/dev/full", "2>&-", "2> >(true)"])
def test_a_log_that_cannot_be_written_harms_nothing(log: str, model: Path) -> None:
    serve = [*FAKE_SERVE, str(model), "--address", "127.0.0.1:0", "--workers", "2", "--threads-per-worker", "1"]
    command = ["bash", "-c", f'exec "$@" {log}', "bash", *serve]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process, ended(process):
        ready = READY.fullmatch(lines(process.stdout).readline().rstrip("\n"))
        address = ready["address"] if ready else ""
        answers = [numoe("generate", "Hello", "--address", address, "--max-tokens", "2") for _ in range(2)]
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    assert [(answer.returncode, answer.stderr) for answer in answers] == [(0, ""), (0, "")]


def test_nobody_needs_to_read_that_it_is_ready(model: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    address = f"unix:{tmp_path}/socket"
    command = [*FAKE_SERVE, str(model), "--address", address]
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True) as process,
        ended(process),
    ):
        os.close(writer)
        with grpc.insecure_channel(address, [("grpc.max_reconnect_backoff_ms", 1000)]) as channel:
            request = health_pb2.HealthCheckRequest()
            watch = health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True, timeout=PATIENCE_SECONDS)
            served = any(reply.status == health_pb2.HealthCheckResponse.SERVING for reply in watch)
        answer = numoe("generate", "Hello", "--address", address, "--max-tokens", "2")
        process.terminate()
        _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, log
    assert (served, answer.returncode, answer.stderr) == (True, 0, "")
