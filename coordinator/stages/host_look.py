"""What another host tells of itself at one moment."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.workers.group import HostGroup
from numoe.coordinator.workers.placement import Placement
from numoe.protos.errors import Unavailable


@dataclass(frozen=True, slots=True)
class HostLook:
    """One look; workers and layers are numbered from 0 there."""

    at_ns: int  # time.monotonic_ns() of that host
    placement: Placement
    counters: tuple[np.void, ...]  # of each worker; none while there are no workers
    hits: NDArray[np.int64] | None  # [L, E] since the workers started; None: there are none

    def heard(self, now_ns: int) -> HostLook:
        """By the clock of who was told it now: signs of life are as long ago here as they were there."""
        counted = tuple(one.copy() for one in self.counters)
        for one in counted:
            if one["seen_ns"]:
                one["seen_ns"] += now_ns - self.at_ns
        return replace(self, at_ns=now_ns, counters=counted)


def look_at(group: HostGroup) -> HostLook:
    """The workers of this host now."""
    try:
        hits = group.expert_hits()
    except Unavailable:
        hits = None
    return HostLook(time.monotonic_ns(), group.placement(), tuple(group.counters()), hits)
