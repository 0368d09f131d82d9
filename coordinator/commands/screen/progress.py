"""Bars on standard error while something takes long: loading, a prompt, experts that move."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from numoe.coordinator.commands.screen.terminal import err
from numoe.coordinator.commands.tables.figures import human_bytes

if TYPE_CHECKING:  # protobuf takes 0.1 s to import, which most commands do without
    from numoe.v1.placement_pb2 import RebalanceResponse


class LoadingView(AbstractContextManager["LoadingView"]):
    """Shows progress of loading: on a terminal a bar for the phase at hand, else each phase is told once.

    Call it to report; any thread may.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        """`tell` is told of phases where no bar is shown; None: each is a line on standard error."""
        self._console = err()
        self._tell = tell or (lambda phase: self._console.print(f"{phase} ..."))
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._shown = self._console.is_interactive  # which a terminal that cannot move its cursor is not

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase not in self._tasks:
            for task in self._tasks.values():
                self._progress.update(task, visible=False)
            self._tasks[phase] = self._progress.add_task(phase, amount="", total=None)
            if not self._shown:
                self._tell(phase)
        amount = f"{human_bytes(done)} of {human_bytes(total)}" if total else ""
        self._progress.update(self._tasks[phase], completed=done, total=total or None, amount=amount)

    def __enter__(self) -> LoadingView:
        if self._shown:
            self._progress.start()
        return self

    def close(self) -> None:
        """Leave the terminal to others; later reports are not shown."""
        if self._shown:
            self._progress.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PromptBar(AbstractContextManager["PromptBar"]):
    """Shows a bar while a long prompt is processed, on terminals; it is gone when the answer begins."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("reading the prompt"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} tokens"),
            console=console,
            transient=True,
        )
        self._shown = console.is_interactive and sys.stdin is not None
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


def show_moves(answers: Generator[RebalanceResponse]) -> int:
    """Show how far the moving of experts is, and return how many were moved."""
    moves = 0
    columns = (TextColumn("moving experts"), BarColumn(), MofNCompleteColumn())
    console = err()
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_interactive)
    with closing(answers), shown as progress:
        task = progress.add_task("", total=None)
        for answer in answers:
            moves = answer.moves
            progress.update(task, completed=answer.made, total=moves)
    return moves
