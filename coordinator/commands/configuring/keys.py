"""`numoe keys add`: makes a key for whoever asks a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from numoe.coordinator.access.key_file import add_key
from numoe.coordinator.access.roles import Role
from numoe.coordinator.commands.screen.terminal import err, out
from numoe.coordinator.settings import POSITIVE, check_bound


def add(
    name: str,
    /,
    *,
    role: tuple[Literal["infer", "observe", "operate"], ...],
    api_keys: Annotated[Path, Parameter(env_var="NUMOE_API_KEYS")],
    most_open: Annotated[int | None, POSITIVE] = None,
) -> None:
    """Make a key, write its hash into the file of keys, and show the key, which cannot be shown again.

    Parameters
    ----------
    name
        Who will ask with it, as log and page show it: letters, digits, dots, dashes, underscores.
    role
        What it is good for: infer (ask the model), observe (see how the service is) or operate (act on it, and see).
        May be given several times.
    api_keys
        The file of keys, as for `numoe serve`; it is made if it is not there. A service that runs already takes it up
        on SIGHUP. To take a key away, remove its line.
    most_open
        How many requests may be open at once with it. Default: as many as the service takes.
    """
    check_bound("most_open", most_open, POSITIVE)
    key = add_key(api_keys, name, map(Role, role), most_open)
    out().out(key)
    err().print(f"{api_keys} has its hash; the key itself is shown this once only", style="dim")
