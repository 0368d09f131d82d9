"""`numoe serve`: serves a model until a signal comes."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from numoe.coordinator.commands.demo_model import find_demo_model
from numoe.coordinator.commands.main import chosen_origins, flag_answers
from numoe.coordinator.commands.options import HUB_OPTIONS, SERVE_SETTINGS, HubOptions
from numoe.coordinator.commands.screen.progress import LoadingView
from numoe.coordinator.commands.screen.terminal import err, out
from numoe.coordinator.quiet_stream import quiet
from numoe.coordinator.settings import DEFAULT_ADDRESS, ServeSettings, check_settings

if TYPE_CHECKING:
    from numoe.coordinator.process.life import Ready


def serve(
    model: Path | None = None,
    /,
    *,
    hub: HubOptions = HUB_OPTIONS,
    settings: ServeSettings = SERVE_SETTINGS,
    config: Path | None = None,
) -> None:
    """Serve a model until Ctrl-C or SIGTERM.

    Parameters
    ----------
    model
        A GGUF file, the first one if it is split. Default: what --packed names, or the demo model, made on first use.
    hub
        Or its name.
    settings
        All other settings.
    config
        A TOML file with any of these settings, e.g. step_tokens = 512.
    """
    check_settings(settings)
    wanted = hub.wanted(model)
    # They bring gRPC, numpy and structlog: 0.9 s, which `--help` and a refused flag do not wait for.
    import structlog

    from numoe.coordinator.logs import configure_logging, finish_log, log_phase
    from numoe.coordinator.process.life import serve as serve_until_signal
    from numoe.coordinator.process.loading import load_model, load_named_model

    configure_logging()
    for answer in flag_answers():
        structlog.get_logger().info("flag_answered", answer=answer)
    try:
        with LoadingView(log_phase) as view:
            if wanted is not None:
                load = partial(load_named_model, wanted, settings)
            else:
                path = model or (find_demo_model(view) if settings.model.packed is None else None)
                load = partial(load_model, path, settings)

            def announce(ready: Ready) -> None:
                gc.collect()
                gc.freeze()  # what is there now stays: looking through its 80,000 objects again held requests up 30 ms
                view.close()
                _show_ready(ready, "http" if settings.listen.tls_certificate is None else "https")

            asyncio.run(serve_until_signal(settings, load, view, announce, chosen_origins()))
    finally:
        finish_log()  # before the line that says what ended it


def _show_ready(ready: Ready, scheme: str) -> None:
    """Write one line that both people and scripts wait for."""
    name = ready.model if ready.model and not set(ready.model) & set(' "\\') else json.dumps(ready.model)
    facts = f"grpc={ready.address} model={name} workers={ready.workers} threads={ready.threads}"
    facts += f' binding="{ready.binding}"'
    facts += f" seconds={ready.seconds:.1f}" + (f" ops={scheme}://{ready.http}/ops/" if ready.http else "")
    line = Text.assemble(("READY", "bold green"), f" {facts}")
    out(quiet(sys.stdout)).print(line)  # a service goes on whoever reads this, and at once, behind a pipe too
    remarks = err()
    if remarks.is_terminal:
        address = "" if ready.address == DEFAULT_ADDRESS else f" --address {ready.address}"
        remarks.print(f"ask it in another terminal: numoe chat{address}; Ctrl-C ends it", style="dim")
