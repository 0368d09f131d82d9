"""`numoe doctor`: looks the machine over, says what to mend, and fails where there is a problem."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from numoe.coordinator.commands.options import ROOT, SERVE_SETTINGS, read_machine
from numoe.coordinator.commands.screen.progress import LoadingView
from numoe.coordinator.commands.screen.terminal import FAILED_EXIT_CODE, out
from numoe.coordinator.settings import ServeSettings, check_settings


def doctor(
    model: Path | None = None,
    /,
    *,
    settings: ServeSettings = SERVE_SETTINGS,
    measure: Annotated[bool, Parameter(negative="--no-measure")] = True,
    root: Path = ROOT,
    config: Path | None = None,
) -> None:
    """Look the machine over for what slows models down: settings, limits, memory, measured bandwidth.

    Every finding says what was found, what it costs and what mends it. The exit status is 0 without a problem, 1 with
    one; notes and warnings do not count.

    Parameters
    ----------
    model
        A GGUF file, to look whether its plan fits too, and how fast memory lets it be; --packed names one as well.
    settings
        As for serve.
    measure
        Read every node's memory with all cores for some seconds, and have them wait for each other. Without it, the
        last measurement counts.
    root
        A folder with a copy of another machine's /sys and /proc, to judge that machine instead; nothing is measured.
    config
        As for serve.
    """
    check_settings(settings)
    topology = read_machine(root)
    # They bring numpy and structlog: 0.6 s, which `--help` and a refused folder do not wait for.
    from numoe.coordinator.commands.tables.doctor import describe_checkup
    from numoe.coordinator.logs import configure_logging
    from numoe.coordinator.machine.checkup import examine

    configure_logging()  # what is said of the model is no finding
    with LoadingView() as view:
        checkup = examine(topology, root, model, settings, measure, lambda phase: view(phase, 0, 0))
    out().print(describe_checkup(checkup))
    if checkup.failed:
        sys.exit(FAILED_EXIT_CODE)
