"""What routes and calls do, which a key must be good for."""

from __future__ import annotations

from collections.abc import Set
from enum import StrEnum


class Role(StrEnum):
    """What a route or a call needs; a key has some of the last three."""

    OPEN = "open"  # no key: it tells whether the service lives and takes requests, and nothing else
    KNOWN = "known"  # any key: what there is to be asked
    INFER = "infer"
    OBSERVE = "observe"
    OPERATE = "operate"


OF_KEYS = (Role.INFER, Role.OBSERVE, Role.OPERATE)


def allows(held: Set[Role], needed: Role) -> bool:
    """Whether a key with the roles `held` is good for what needs `needed`: who operates must see what he does."""
    if needed in (Role.OPEN, Role.KNOWN):
        return True
    return needed in held or (needed is Role.OBSERVE and Role.OPERATE in held)
