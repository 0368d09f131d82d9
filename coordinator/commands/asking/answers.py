"""Shows answers as they come, and reads a text from standard input."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import closing

from rich.console import Console

from numoe.coordinator.commands.screen.progress import PromptBar
from numoe.coordinator.commands.screen.terminal import err, out
from numoe.protos.errors import NumoeError, SetupError
from numoe.protos.foreign_text import harmless
from numoe.v1.generation_pb2 import ChatResponse, Finished, GenerateResponse, Resumed


class AnswerView:
    """Shows one answer as it comes, then how fast it came."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thinking = False
        self.finished: Finished | None = None
        self._pauses: list[Resumed] = []

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(self._text)

    def show(self, answers: Generator[GenerateResponse | ChatResponse]) -> None:
        """Show all of it; where it fails, or Ctrl-C ends it, what has come stays and its line is ended."""
        console, remarks = out(), err()
        try:
            with closing(answers), PromptBar(remarks) as bar:
                for answer in answers:
                    match answer.WhichOneof("event"):
                        case "prompt_progress":
                            bar.show(answer.prompt_progress.done_tokens, answer.prompt_progress.total_tokens)
                        case "delta":
                            bar.close()
                            self._show_thought(answer.delta.reasoning, console)
                            self._show_text(answer.delta.text, console)
                            console.file.flush()
                        case "resumed":
                            bar.close()
                            self._pauses.append(answer.resumed)
                        case "finished":
                            self.finished = answer.finished
        except (KeyboardInterrupt, NumoeError):
            if self.text or self._thinking:
                console.out("")
            raise
        console.out("")
        if remarks.is_terminal and self.finished:
            remarks.print(_summary(self.finished), style="dim")
        for pause in self._pauses:
            remarks.print(
                f"{harmless(pause.reason)}; went on after {pause.seconds:.1f} s, nothing is lost", style="dim"
            )

    def _show_thought(self, thought: str, console: Console) -> None:
        """Only a person is shown it: a program asked for the answer."""
        if thought and console.is_terminal:
            self._thinking = True
            console.print(
                tame(thought, console), style="dim", end="", markup=False, highlight=False, emoji=False, soft_wrap=True
            )

    def _show_text(self, text: str, console: Console) -> None:
        if text and self._thinking:
            self._thinking = False
            console.out("\n")
        self._text.append(text)
        console.out(tame(text, console), end="")


def tame(text: str, console: Console) -> str:
    """What of an answer's `text` the console is given: all, but a terminal no controls except newline and tab."""
    return harmless(text, kept="\n\t") if console.is_terminal else text


def check_text(name: str, text: str) -> str:
    """The text; raises SetupError where it holds bytes that are no UTF-8, which Python passes on as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SetupError(f"{name} holds bytes that are not UTF-8, from character {error.start + 1} on") from error
    return text


def read_text() -> str:
    """All of standard input. Raises SetupError where it is closed, or holds what is no text."""
    if sys.stdin is None:
        raise SetupError("standard input is closed: give TEXT")
    try:
        return check_text("standard input", sys.stdin.read())
    except UnicodeDecodeError as error:
        raise SetupError(f"standard input holds bytes that are not {error.encoding}") from error
    except OSError as error:
        raise SetupError(f"standard input cannot be read: {error.strerror}") from error


def _summary(finished: Finished) -> str:
    usage, timings = finished.usage, finished.timings
    reason = " (the limit)" if not finished.HasField("stop") else ""
    experts = f"; {usage.mean_experts:.2f} experts per layer" if usage.saved_bytes else ""
    drafted = f", {usage.accepted_tokens} of {usage.drafted_tokens} guesses right" if usage.drafted_tokens else ""
    cached = f", {usage.cached_tokens} of them cached" if usage.cached_tokens else ""
    return (
        f"prompt {usage.prompt_tokens} tokens{cached}, {timings.prefill_tokens_per_second:.1f}/s; "
        f"answer {usage.completion_tokens} tokens{reason}{drafted}, {timings.decode_tokens_per_second:.1f}/s{experts}"
    )
