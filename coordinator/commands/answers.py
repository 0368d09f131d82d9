"""Shows answers as they come, and reads what a person says between them."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import closing

from rich.console import Console

from numoe.coordinator.commands.options import check_text
from numoe.coordinator.commands.progress import PromptBar
from numoe.coordinator.commands.terminal import err, out, show_error
from numoe.protos.errors import SetupError
from numoe.protos.foreign_text import harmless
from numoe.v1.generation_pb2 import ChatResponse, Finished, GenerateResponse


def stream_answer(answers: Generator[GenerateResponse | ChatResponse], *, keep_interrupted: bool = False) -> str:
    """Show an answer as it comes, then how fast it came. Return the text.

    Ctrl-C ends the answer: with `keep_interrupted` what there is of it is returned, else KeyboardInterrupt is raised.
    """
    console, remarks = out(), err()
    text: list[str] = []
    try:
        with closing(answers), PromptBar(remarks) as bar:
            for answer in answers:
                match answer.WhichOneof("event"):
                    case "prompt_progress":
                        bar.show(answer.prompt_progress.done_tokens, answer.prompt_progress.total_tokens)
                    case "delta":
                        bar.close()
                        text.append(answer.delta.text)
                        console.out(tame(answer.delta.text, console), end="")
                        console.file.flush()
                    case "finished":
                        _end_answer(console, remarks, answer.finished)
    except KeyboardInterrupt:
        if not keep_interrupted:
            raise
        console.out("")
    return "".join(text)


def tame(text: str, console: Console) -> str:
    """What of an answer's `text` the console is given: all, but a terminal no controls except newline and tab."""
    return harmless(text, kept="\n\t") if console.is_terminal else text


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


def read_turns() -> Iterator[str]:
    """Read what a person says, turn by turn, until Ctrl-D, Ctrl-C or /exit."""
    console = out()
    if sys.stdin is None:
        raise SetupError("standard input is closed: give TEXT")
    try:
        while (said := _next_line(console)) != "/exit":
            if said:
                yield said
    except (EOFError, KeyboardInterrupt):
        console.out("")


def _next_line(console: Console) -> str:
    """What is said next; a line that is no text is told, and counts as nothing said."""
    try:
        return check_text("the line", console.input("> ").strip())
    except (UnicodeDecodeError, SetupError):
        show_error("the line holds bytes that are no text in this encoding; it was not sent")
        return ""


def _end_answer(console: Console, remarks: Console, finished: Finished) -> None:
    console.out("")
    if remarks.is_terminal:
        remarks.print(_summary(finished), style="dim")


def _summary(finished: Finished) -> str:
    usage, timings = finished.usage, finished.timings
    reason = " (the limit)" if not finished.HasField("stop") else ""
    return (
        f"prompt {usage.prompt_tokens} tokens, {timings.prefill_tokens_per_second:.1f}/s; "
        f"answer {usage.completion_tokens} tokens{reason}, {timings.decode_tokens_per_second:.1f}/s"
    )
