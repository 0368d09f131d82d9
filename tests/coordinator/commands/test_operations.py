"""The commands that show how a running service is, as a person or a script calls them."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from tests.coordinator.commands.numoe_process import NUMOE, PATIENCE_SECONDS, lines, numoe


def test_status_is_shown_for_people_and_as_json(address: str) -> None:
    assert numoe("generate", "Hello", "--address", address, "--max-tokens", "3").returncode == 0
    shown = numoe("status", "--address", address)
    assert shown.returncode == 0, shown.stderr
    for part in ("serving  tiny qwen3moe", "2 workers", "lost", "memory", "0 running, 0 queued"):
        assert part in shown.stdout
    told = json.loads(numoe("status", "--json", "--address", address).stdout)
    assert (told["service"]["state"], told["service"]["grpc"]) == ("serving", address)
    assert told["flow"]["generated_tokens"] >= 3
    assert told["flow"]["ended"]["length"] >= 1
    first, second = told["workers"]
    assert (first["pid"], first["state"], first["off_node_bytes"], second["state"]) == (4242, "ready", 100, "lost")
    assert "pid" not in second
    origins = {one["name"]: (one["value"], one["origin"]) for one in told["configuration"]}
    assert origins["workers"] == ("2", "flag")
    assert origins["step_tokens"] == ("512", "default")


def test_events_are_listed_once_or_followed_until_interrupted(address: str) -> None:
    once = numoe("events", "--once", "--address", address)
    assert once.returncode == 0, once.stderr
    loading, serving = once.stdout.splitlines()
    assert "loading" in loading
    assert "serving" in serving
    assert serving.endswith("tiny qwen3moe is served by 2 workers")
    first, rest, code = interrupted("events", "--address", address)
    assert (first, rest, code) == (loading, "", 0)


def test_top_shows_the_service_until_interrupted(address: str) -> None:
    first, _, code = interrupted("top", "--address", address)
    assert first.startswith("serving  tiny qwen3moe")
    assert code == 0


@pytest.mark.parametrize("command", ["status", "top", "events"])
def test_a_service_that_is_not_there_is_said_in_one_line(command: str) -> None:
    done = numoe(command, "--address", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: nothing answers at 127.0.0.1:1")


def interrupted(*arguments: str) -> tuple[str, str, int]:
    """The first line of a command that goes on for ever, what it wrote to standard error, and its code after Ctrl-C."""
    pipe = subprocess.PIPE
    with subprocess.Popen([NUMOE, *arguments], text=True, stdout=pipe, stderr=pipe) as process:
        first = lines(process.stdout).readline().rstrip("\n")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    return first, errors, process.returncode
