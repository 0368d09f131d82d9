"""`numoe load` as a person calls it: over gRPC and HTTP, its table, its JSON, its picture, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.coordinator.commands.numoe_process import numoe
from tests.coordinator.measuring.load.scripted_server import USAGE, refused, scripted, stream, text

FEW = ("--requests", "6", "--concurrency", "2", "--prompt-words", "1-4", "--answer-tokens", "2-4")


def test_a_table_and_a_picture_tell_of_a_service_over_grpc(address: str, tmp_path: Path) -> None:
    picture = tmp_path / "load.svg"
    done = numoe("load", "--address", address, *FEW, "--plot", str(picture))
    assert (done.returncode, done.stderr) == (0, "")
    title, told, *rows = map(str.strip, done.stdout.splitlines())
    assert title == f"{address}: 6 requests, 2 at once, prompts of 1-4 words, answers of 2-4 tokens"
    assert told.startswith("6 answered in ")
    assert [row.split("  ")[0] for row in rows if row.startswith(("to ", "between "))] == [
        "to the first token",
        "between tokens",
        "to the end",
    ]
    assert "</svg>" in picture.read_text()


async def test_json_tells_of_every_question_over_http() -> None:
    async with scripted(*stream(text("a"), text("b"), USAGE)) as script:
        flags = ("--url", script.url, *FEW, "--rate", "50", "--output-format", "json")
        done = await asyncio.to_thread(numoe, "load", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["requests"], told["errors"], told["answer_tokens"], told["prompt_tokens"]) == (6, {}, 24, 54)
    assert (len(told["questions"]), told["mix"]["rate"]) == (6, 50.0)
    assert all(one["began"] < one["first_token"] <= one["ended"] for one in told["questions"])
    assert {body["model"] for body in script.bodies} == {"scripted"}


async def test_where_nothing_is_answered_the_command_fails_and_says_why() -> None:
    async with scripted(*refused("503 Busy", b'{"error":{"message":"loading"}}')) as script:
        done = await asyncio.to_thread(numoe, "load", "--url", script.url, *FEW)
    assert done.returncode == 1
    assert "6 failed: 503: loading" in done.stdout
    assert done.stderr == "error: no question was answered: 503: loading\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--requests", "0"), "--requests is 0"),
        (("--rate", "0"), "--rate is 0"),
        (("--prompt-words", "0-4"), "--prompt-words is '0-4'"),
        (("--answer-tokens", "9-4"), "--answer-tokens is '9-4'"),
        (("--url", "localhost"), "--url is 'localhost'"),
        (("--plot", "load.gif"), "--plot is load.gif"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(flags: tuple[str, ...], said: str) -> None:
    done = numoe("load", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
