"""What the command line shows: loading, answers as they come, one line for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing
from types import TracebackType
from typing import TYPE_CHECKING
from unicodedata import category

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_bytes

if TYPE_CHECKING:  # importing these takes longer than printing most answers
    from numoe.coordinator.commands.client import Answer
    from numoe.coordinator.process.life import Ready
    from numoe.v1.generation_pb2 import Finished
    from numoe.v1.placement_pb2 import RebalanceResponse

_KEPT_CONTROLS = "\n\t"


def out() -> Console:
    """Standard output: answers and results."""
    return Console(highlight=False, markup=False, soft_wrap=True)


def err() -> Console:
    """Standard error: progress, remarks, errors."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def show_error(message: str) -> None:
    err().print(Text.assemble(("error: ", "bold red"), " ".join(message.split())))


def show_ready(ready: Ready) -> None:
    """One line that both people and scripts wait for."""
    name = ready.model if ready.model and not set(ready.model) & set(' "\\') else json.dumps(ready.model)
    facts = f"grpc={ready.address} model={name} workers={ready.workers} threads={ready.threads}"
    facts += f' binding="{ready.binding}"'
    console = out()
    console.print(Text.assemble(("READY", "bold green"), f" {facts} seconds={ready.seconds:.1f}"))
    console.file.flush()  # behind a pipe nobody would see it before the process ends


class LoadingView(AbstractContextManager["LoadingView"]):
    """Progress of loading: on a terminal a bar for the phase at hand, else one line each. Any thread may report."""

    def __init__(self) -> None:
        self._console = err()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._shown = self._console.is_terminal

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase not in self._tasks:
            for task in self._tasks.values():
                self._progress.update(task, visible=False)
            self._tasks[phase] = self._progress.add_task(phase, amount="", total=None)
            if not self._shown:
                self._console.print(f"{phase} ...")
        amount = f"{human_bytes(done)} of {human_bytes(total)}" if total else ""
        self._progress.update(self._tasks[phase], completed=done, total=total or None, amount=amount)

    def __enter__(self) -> LoadingView:
        if self._shown:
            self._progress.start()
        return self

    def close(self) -> None:
        """Leaves the terminal to others; later reports are not shown."""
        if self._shown:
            self._progress.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def stream_answer(answers: Generator[Answer], *, keep_interrupted: bool = False) -> str:
    """Shows an answer as it comes, then where the time went; the whole text, or what there is of it at Ctrl-C."""
    console, remarks = out(), err()
    text: list[str] = []
    try:
        with closing(answers), _PromptBar(remarks) as bar:
            for answer in answers:
                match answer.WhichOneof("event"):
                    case "prompt_progress":
                        bar.show(answer.prompt_progress.done_tokens, answer.prompt_progress.total_tokens)
                    case "delta":
                        bar.close()
                        text.append(answer.delta.text)
                        console.out(harmless(answer.delta.text, console), end="")
                        console.file.flush()
                    case "finished":
                        _end_answer(console, remarks, answer.finished)
    except KeyboardInterrupt:
        if not keep_interrupted:
            raise
        console.out("")
    return "".join(text)


def show_moves(answers: Generator[RebalanceResponse]) -> int:
    """Shows how far the moving of experts is; how many were moved."""
    moves = 0
    columns = (TextColumn("moving experts"), BarColumn(), MofNCompleteColumn())
    with closing(answers), Progress(*columns, console=err(), transient=True) as progress:
        task = progress.add_task("", total=None)
        for answer in answers:
            moves = answer.moves
            progress.update(task, completed=answer.made, total=moves)
    return moves


def read_turns() -> Iterator[str]:
    """What a person says, turn by turn, until Ctrl-D, Ctrl-C or /exit."""
    console = out()
    try:
        while (said := console.input("> ").strip()) != "/exit":
            if said:
                yield said
    except (EOFError, KeyboardInterrupt):
        console.out("")


def _end_answer(console: Console, remarks: Console, finished: Finished) -> None:
    console.out("")
    if remarks.is_terminal:
        remarks.print(_summary(finished), style="dim")


def harmless(text: str, console: Console) -> str:
    """For a terminal: without the control characters that could move its cursor or change its title."""
    if not console.is_terminal:
        return text
    return "".join(character for character in text if category(character) != "Cc" or character in _KEPT_CONTROLS)


def _summary(finished: Finished) -> str:
    usage, timings = finished.usage, finished.timings
    reason = " (the limit)" if not finished.HasField("stop") else ""
    return (
        f"prompt {usage.prompt_tokens} tokens, {timings.prefill_tokens_per_second:.1f}/s; "
        f"answer {usage.completion_tokens} tokens{reason}, {timings.decode_tokens_per_second:.1f}/s"
    )


class _PromptBar(AbstractContextManager["_PromptBar"]):
    """A bar while a long prompt is processed, on terminals; gone when the answer begins."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("reading the prompt"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} tokens"),
            console=console,
            transient=True,
        )
        self._shown = console.is_terminal and sys.stdin is not None
        self._task: TaskID | None = None

    def show(self, done: int, total: int) -> None:
        if not self._shown:
            return
        if self._task is None:
            self._task = self._progress.add_task("", total=total)
            self._progress.start()
        self._progress.update(self._task, completed=done)

    def close(self) -> None:
        if self._task is not None:
            self._progress.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
