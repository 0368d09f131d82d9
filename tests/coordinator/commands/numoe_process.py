"""Runs the command `numoe` as a person or a script does: as a process, with its output and its exit code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import IO

from numoe.protos.messages import Sampling
from tests.coordinator.engine.fake_executor import expected_tokens
from tests.coordinator.tiny_tokenizer import LETTERS, text_of

NUMOE = str(Path(sys.executable).with_name("numoe"))
FAKE_SERVE = (sys.executable, "-m", "tests.coordinator.commands.fake_serve", "serve")
ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 120.0
READY = re.compile(
    r'READY grpc=(?P<address>127\.0\.0\.1:\d+) model="tiny qwen3moe" workers=2 threads=2 '
    r'binding="cpus\+memory, verified" seconds=\d+\.\d(?: ops=https?://(?P<http>127\.0\.0\.1:\d+)/ops/)?'
)


def numoe(*arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    command = [NUMOE, *arguments]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


def start(model: Path, *flags: str, address: str = "127.0.0.1:0") -> tuple[subprocess.Popen[str], str]:
    """A serving process, and the address in its READY line."""
    command = [
        *FAKE_SERVE,
        str(model),
        "--address",
        address,
        "--workers",
        "2",
        "--threads-per-worker",
        "1",
        "--split",
        "tensor",  # whatever a busy machine's bandwidths would have planned
        *flags,
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ready = READY.fullmatch(lines(process.stdout).readline().rstrip("\n"))
    assert ready, lines(process.stderr).read()
    return process, ready["address"]


def lines(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def answer_to(prompt: list[int], tokens: int, sampling: Sampling | None = None) -> str:
    return text_of([token_id for token_id, _ in expected_tokens(prompt, tokens, LETTERS, sampling)])
