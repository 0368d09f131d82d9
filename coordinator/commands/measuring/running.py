"""What the measuring commands share: loading with a view of it, a bar while rows come, and the rows themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from numoe.coordinator.commands.demo_model import find_demo_model
from numoe.coordinator.commands.options import HubOptions
from numoe.coordinator.commands.screen.progress import LoadingView
from numoe.coordinator.commands.screen.terminal import err
from numoe.coordinator.logs import configure_logging
from numoe.coordinator.measuring.workers import MeasuredWorkers, measured_workers
from numoe.coordinator.settings import ServeSettings
from numoe.protos.errors import SetupError


def find_model(model: Path | None, hub: HubOptions, settings: ServeSettings) -> Path | None:
    """The file that was named, or fetched by its name, else the demo model, made on first use.

    None: the settings name a packed folder.
    """
    hub.wanted(model)  # what cannot be is refused before anything is shown
    configure_logging()  # what is said of the model is no row of the table
    with LoadingView() as view:
        path = hub.find(model, view)
        return path or (find_demo_model(view) if settings.model.packed is None else None)


@contextmanager
def loaded(path: Path | None, settings: ServeSettings) -> Iterator[MeasuredWorkers]:
    """Workers with the model, ended with the context; loading shows how far it is."""
    with LoadingView() as view, measured_workers(path, settings, view) as measured:
        view.close()
        yield measured


class Rows(AbstractContextManager["Rows"]):
    """Writes rows to standard output as they come, and on a terminal a bar below them, to standard error."""

    def __init__(self, total: int | None = None, what: str = "") -> None:
        """Of `total` rows, or other things to be done; None: no bar is shown."""
        console = err()
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, redirect_stdout=False)
        self._shown = total is not None and console.is_interactive
        self._task = self._progress.add_task("", total=total)

    def write(self, text: str) -> None:
        """Write lines at once: whoever interrupts keeps them."""
        if self._shown:
            self._progress.stop()  # the bar's line is cleared, for standard output may be the same terminal
        if sys.stdout is not None:  # which it is where it was closed before the start
            sys.stdout.write(text)
            sys.stdout.flush()
        if self._shown:
            self._progress.start()

    def advance(self) -> None:
        """One more is done."""
        self._progress.update(self._task, advance=1)

    def __enter__(self) -> Rows:
        if self._shown:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._progress.stop()


def remark(text: str) -> None:
    """Write a line to standard error."""
    err().print(text)


def check_folder(flag: str, path: Path) -> None:
    """Raise SetupError where nothing can be written: said before an hour of measuring, not after."""
    if not path.parent.is_dir():
        raise SetupError(f"{flag} {path}: the folder {path.parent} does not exist; make it, or name another")
    if path.is_dir():
        raise SetupError(f"{flag} {path} is a folder, expected the name of a file")
