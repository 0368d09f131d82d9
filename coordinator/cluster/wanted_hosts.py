"""Which hosts somebody wants: all that there are, a number of them, or those that he names."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from pathlib import Path
from typing import Literal

from numoe.protos.errors import SetupError

WantedHosts = Literal["auto"] | int | tuple[str, ...]


class NotJoined(SetupError):
    """A host that is wanted is not there, or not yet."""


def parse_wanted(wanted: str) -> WantedHosts:
    """Read "auto", a number, or IP addresses with commas between them. Raises SetupError."""
    if wanted == "auto":
        return "auto"
    if wanted.isdecimal():
        return int(wanted)
    try:
        return tuple(str(ipaddress.ip_address(one.strip())) for one in wanted.split(","))
    except ValueError:
        raise SetupError(f"--hosts is {wanted}, expected auto, a number, or IP addresses") from None


def read_wanted(wanted: str) -> WantedHosts:
    """As parse_wanted, or the name of a file of this machine with one address a line. Raises SetupError."""
    with suppress(SetupError):
        return parse_wanted(wanted)
    try:
        lines = Path(wanted).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"--hosts is {wanted}, expected auto, a number, addresses, or a file of addresses"
        raise SetupError(f"{problem}: {error}") from error
    return parse_wanted(",".join(line for line in lines if line.strip() and not line.lstrip().startswith("#")))


def choose_hosts(
    wanted: WantedHosts, here: str, others: tuple[str, ...], *, all_of_them: bool = True
) -> tuple[str, ...]:
    """The other hosts to serve on beside this one, of those that are there, in the order in which they were named.

    Raises:
        NotJoined: some are not there, and `all_of_them` are wanted.
        SetupError: that can be no hosts of this service.
    """
    there = (here, *others)
    if wanted == "auto":
        return others
    if isinstance(wanted, int):
        if wanted < 1:
            raise SetupError(f"--hosts is {wanted}, expected 1 or more")
        if all_of_them and wanted > len(there):
            raise NotJoined(f"--hosts is {wanted}, and {len(there)} are there: {', '.join(there)}")
        return others[: wanted - 1]
    if here not in wanted:
        raise SetupError(f"--hosts names {', '.join(wanted)}, expected this host, {here}, among them")
    if all_of_them and (missing := [host for host in wanted if host not in there]):
        raise NotJoined(f"--hosts: no node runs on {', '.join(missing)}; found {', '.join(there)}")
    return tuple(host for host in dict.fromkeys(wanted) if host in others)
