"""`numoe config`: every setting of `numoe serve` as it would be in effect, and who chose it."""

from __future__ import annotations

import json as encoding
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.table import Table

from numoe.coordinator.commands.main import chosen_origins
from numoe.coordinator.commands.options import HUB_OPTIONS, SERVE_SETTINGS, HubOptions
from numoe.coordinator.commands.screen.terminal import out
from numoe.coordinator.operations.configuration import DEFAULT, Setting, effective_settings
from numoe.coordinator.settings import ServeSettings, check_settings
from numoe.protos.foreign_text import harmless

UNSET = "-"


def config(
    model: Path | None = None,
    /,
    *,
    hub: HubOptions = HUB_OPTIONS,
    settings: ServeSettings = SERVE_SETTINGS,
    config: Path | None = None,
    chosen: bool = False,
    json: bool = False,
) -> None:
    """Show the settings that `numoe serve` would have with the same words, environment and file, and who chose each.

    What serve would refuse of them is refused with the same line. A setting without a value is left to the service.

    Parameters
    ----------
    model
        As for serve; it is not looked at.
    hub
        As for serve.
    settings
        As for serve.
    config
        As for serve.
    chosen
        Show only what is no default.
    json
        Write them as JSON.
    """
    check_settings(settings)
    hub.wanted(model)
    found = [one for one in effective_settings(settings, chosen_origins()) if one.origin != DEFAULT or not chosen]
    if json:
        out().out(encoding.dumps([asdict(one) for one in found], indent=1, ensure_ascii=False))
    else:
        out().print(_table(found))


def _table(settings: list[Setting]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("setting", "value", "chosen by"):
        table.add_column(name, overflow="fold")
    last = ""
    for one in settings:
        if last not in ("", one.group):
            table.add_section()
        last = one.group
        style = "dim" if one.origin == DEFAULT else None
        flag = f"--{one.name.replace('_', '-')}"
        table.add_row(flag, harmless(one.value) or UNSET, harmless(one.origin), style=style)
    return table
