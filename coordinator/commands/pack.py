"""`numoe pack`: writes a model's panels into a folder, from which serve starts without packing them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from numoe.coordinator.commands.screen.progress import LoadingView
from numoe.coordinator.commands.screen.terminal import err, out


def pack(model: Path, /, *, output: Annotated[Path, Parameter(name=("--output", "-o"))]) -> None:
    """Write a model in the form in which it is computed, for `numoe serve --packed FOLDER` to start from.

    It is packed for no number of workers or nodes, and holds all of the model: the file is not needed any more. Every
    part has a hash (BLAKE3), and is compared with it whenever it is loaded.

    Parameters
    ----------
    model
        A GGUF file, the first one if it is split.
    output
        A new or empty folder; it takes as much disk as the file, of some types up to 4 % more.
    """
    # They bring numpy and structlog: 0.5 s, which `--help` does without.
    from numoe.coordinator.logs import configure_logging
    from numoe.coordinator.machine.packing import pack_model

    configure_logging()
    with LoadingView() as view:
        pack_model(model, output, view)
    out().print(str(output))
    remarks = err()
    if remarks.is_terminal:
        remarks.print(f"serve it: numoe serve --packed {output}", style="dim")
