"""The process that renders a model's chat template, apart from our own, as templates are programs from the internet.

    parent -> child   u32 bytes, JSON {"source": ...}                       once
                      u32 bytes, JSON {"messages": ..., ...}                per rendering
    child -> parent   u32 bytes, JSON {"outcome": Outcome, "text": ...}        per rendering

*Guarantees*: no rendering takes more than CPU_SECONDS of processor time or MEMORY_BYTES of memory. The template engine
counts steps and bounds recursion, but single steps can take any time or memory, and where memory ends it aborts; deep
nesting overflows its stack. So limits are the kernel's, and breaking one ends this process and nothing else.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import struct
import sys
from datetime import datetime
from enum import StrEnum
from typing import IO, Any

CPU_SECONDS = 1.0  # a conversation of 1000 messages takes 0.004
MEMORY_BYTES = 1 << 30
STEPS = 10_000_000  # of the template engine, 0.25 s
OUTPUT_BYTES = 1 << 20
REASON_CHARACTERS = 400  # of why a rendering ended otherwise
LENGTH = struct.Struct("<I")


class Outcome(StrEnum):
    """How a rendering ended."""

    RENDERED = "rendered"
    RAISED = "raised"  # the template refused these messages with its raise_exception(text)
    FAILED = "failed"
    TOO_LONG = "too-long"


class _Refusal(Exception):
    """The template called raise_exception: it refuses the messages, and is not at fault itself."""


def read_message(stream: IO[bytes], most: int | None = None) -> bytes | None:
    """Read the next message; None at the end of the stream, and if the message has more than `most` bytes."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    if most is not None and size > most:
        return None
    body = stream.read(size)
    return body if len(body) == size else None


def write_message(stream: IO[bytes], body: bytes) -> None:
    """Write a message that read_message reads."""
    stream.write(LENGTH.pack(len(body)) + body)
    stream.flush()


def prepare(source: str) -> str:
    """Make plain blocks of Hugging Face's {% generation %} blocks, which mark text for training."""
    return re.sub(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})", _plain_block, source)


def _plain_block(match: re.Match[str]) -> str:
    return match[1] + ("endif" if match[2] else "if true") + match[3]


def _raise_exception(message: str) -> None:
    raise _Refusal(str(message)[:REASON_CHARACTERS])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:REASON_CHARACTERS]


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})  # unlike the engine's own: no HTML escapes


class _Renderer:
    def __init__(self, source: str) -> None:
        from minijinja import Environment  # here: the parent imports this module too

        self._environment = Environment(
            templates={"chat": prepare(source)}, debug=False, fuel=STEPS, trim_blocks=True, lstrip_blocks=True
        )
        self._environment.add_filter("tojson", _to_json)
        self._environment.add_global("raise_exception", _raise_exception)
        self._environment.add_global("strftime_now", lambda form: datetime.now().strftime(form))

    def render(self, context: dict[str, Any]) -> tuple[Outcome, str]:
        try:
            text = self._environment.render_template("chat", **context)
        except _Refusal as refusal:
            return Outcome.RAISED, str(refusal)
        except Exception as error:  # whatever a hostile template provokes
            return Outcome.FAILED, _first_line(error)
        size = len(text.encode())
        if size > OUTPUT_BYTES:
            return Outcome.TOO_LONG, f"{size} bytes"
        return Outcome.RENDERED, text


def main() -> None:
    """Render until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group, and the parent still has work for us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    renderer: _Renderer | None = None
    while (body := read_message(requests)) is not None:
        # The default action ends the process wherever it is, which no handler of ours could do inside the engine.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        content = json.loads(body)
        try:
            if renderer is None:
                renderer = _Renderer(content["source"])
                outcome, text = Outcome.RENDERED, ""
            else:
                outcome, text = renderer.render(content)
        except Exception as error:  # a template that does not parse
            outcome, text = Outcome.FAILED, _first_line(error)
        reply = json.dumps({"outcome": outcome, "text": text}).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_message(replies, reply)


if __name__ == "__main__":
    main()
