"""Makes the text of a prompt from a conversation, by the template that came with the model.

A template is a program from the internet. It runs in a process of its own (template_process.py) that has nothing but
the conversation and cannot exceed its limits, so that a hostile template can do no more than fail.

*Rejected*: rendering in the coordinator with the template engine's own step limit. `{{ x|replace("a", x) }}` on a long
text aborts the process that runs it, `{{ 1+1+1... }}` overflows its stack, `range(99999)|sum` in a loop runs for
minutes: all within a few steps. A process takes 40 ms to start, once, and the pipe 0.02 ms a rendering.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from numoe.model.text.template_process import (
    CPU_SECONDS,
    MEMORY_BYTES,
    OUTPUT_BYTES,
    REASON_CHARACTERS,
    Outcome,
    read_message,
    write_message,
)
from numoe.protos.errors import InvalidRequest, Unavailable, UnsupportedModel
from numoe.protos.foreign_text import one_line

INPUT_BYTES = 4 << 20  # of messages as JSON
OWN_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "self"})
TRIALS = (
    ({"role": "user", "content": "Hello"},),
    ({"role": "system", "content": "Help"}, {"role": "user", "content": "Hello"}),  # some ask for that
)
TURNS = (*TRIALS[0], {"role": "assistant", "content": "Hello"}, *TRIALS[0])
WALL_SECONDS = 20.0  # for a process that is stopped, or gets no processor: others wait for it
REPLY_BYTES = 6 * OUTPUT_BYTES + 4096  # JSON takes at most 6 bytes for one
BEYOND_LIMITS = (
    f"takes more than {CPU_SECONDS:.0f} s, or {WALL_SECONDS:.0f} in all, or {MEMORY_BYTES >> 20} MiB, or crashes"
)


class ChatTemplate:
    """A model's chat template. It was tried on a greeting: what fails later is the messages' fault. Thread-safe."""

    __slots__ = ("__weakref__", "_lock", "_process", "_tokens", "source", "written")

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        """Start the process and render a greeting. Raises UnsupportedModel if the template cannot, or refuses it."""
        self.source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._lock = threading.Lock()
        self._process: _RenderingProcess | None = None
        self.written = self._greet()  # what it writes around turns that do not matter
        with contextlib.suppress(InvalidRequest):  # a template may know no answers
            self.written += self.render(TURNS)

    def _greet(self) -> str:
        reason = ""
        for messages in TRIALS:
            outcome, text = self._run(_encode({**self._tokens, "messages": messages, "add_generation_prompt": True}))
            match outcome:
                case Outcome.RENDERED:
                    return text
                case Outcome.TOO_LONG:
                    said = f"makes {text} of a greeting, at most {OUTPUT_BYTES} fit"
                    raise UnsupportedModel(f"the model's chat template {said}")
                case Outcome.FAILED:
                    raise UnsupportedModel(f"the model's chat template cannot render a greeting: {text}")
                case Outcome.RAISED:
                    reason = text
        raise UnsupportedModel(f"the model's chat template refuses a greeting: {reason}")

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **kwargs: Any
    ) -> str:
        """Render the prompt of a conversation. Blocks for about 0.1 ms, in the worst case for WALL_SECONDS.

        Args:
            messages: each with a role and a content; more keys as the template takes them.
            add_generation_prompt: whether the text ends with what begins an answer.
            kwargs: further variables of the template; those that are None are left out, since templates ask whether
                `tools` is defined.

        Raises:
            InvalidRequest: the template does not take these messages.
        """
        given = {name: value for name, value in kwargs.items() if value is not None}
        context = {**self._tokens, **given, "messages": messages, "add_generation_prompt": add_generation_prompt}
        body = _encode(context)
        if len(body) > INPUT_BYTES:
            raise InvalidRequest("messages", f"they take {len(body)} bytes, at most {INPUT_BYTES} are allowed")
        outcome, text = self._run(body)
        match outcome:
            case Outcome.RENDERED:
                return text
            case Outcome.RAISED:
                raise InvalidRequest("messages", f"the model's chat template refuses them: {text}")
            case Outcome.TOO_LONG:
                raise InvalidRequest("messages", f"the prompt takes {text}, at most {OUTPUT_BYTES} are allowed")
            case Outcome.FAILED:
                raise InvalidRequest("messages", f"the model's chat template cannot render them: {text}")

    def close(self) -> None:
        """End the process; a later rendering starts another."""
        with self._lock:
            self._stop()

    def _run(self, body: bytes) -> tuple[Outcome, str]:
        with self._lock:
            if self._process is not None and self._process.ended:  # not by what we asked of it: say, for want of memory
                self._stop()
            if self._process is None:
                self._process = _RenderingProcess()
                outcome, text = self._ask(_encode({"source": self.source}))
                if outcome is not Outcome.RENDERED:
                    self._stop()
                    return outcome, text
            return self._ask(body)

    def _ask(self, body: bytes) -> tuple[Outcome, str]:
        assert self._process is not None
        reply = self._process.ask(body)
        if reply is None:
            self._stop()
            return Outcome.FAILED, f"it {BEYOND_LIMITS}"
        content = json.loads(reply)
        outcome, text = Outcome(content["outcome"]), content["text"]
        return outcome, text if outcome is Outcome.RENDERED else one_line(text, REASON_CHARACTERS)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None


class _RenderingProcess:
    """A child process that renders; it ends when its pipe is closed, so it cannot outlive us."""

    __slots__ = ("__weakref__", "_child", "stop")

    def __init__(self) -> None:
        # -P: the folder that we were started in has no say in what the child imports.
        command = [sys.executable, "-P", "-m", "numoe.model.text.template_process"]
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise Unavailable(f"the process that renders chat templates cannot be started: {error}") from error
        self.stop = weakref.finalize(self, _end, self._child)

    @property
    def ended(self) -> bool:
        return self._child.poll() is not None

    def ask(self, body: bytes) -> bytes | None:
        """The child's reply, None if the child ended, says more than it may, or nothing within WALL_SECONDS."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        killing = threading.Timer(WALL_SECONDS, self._child.kill)
        killing.daemon = True
        killing.start()
        try:
            write_message(self._child.stdin, body)
            return read_message(self._child.stdout, REPLY_BYTES)
        except BrokenPipeError:
            return None
        finally:
            killing.cancel()


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # what was left to write
            pipe.close()


def _encode(content: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(content, default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest("messages", f"they are not plain data: {error}") from error


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
