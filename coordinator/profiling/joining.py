"""Profiles of several hosts as one of the whole model: layers and workers are counted on from host to host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from numoe.protos.profile import PHASES, Profile, WorkerProfile


@dataclass(frozen=True, slots=True)
class HostProfile:
    """What one host's workers did."""

    host: str  # "": the first one
    first_layer: int
    profile: Profile


def join_profiles(hosts: Sequence[HostProfile]) -> Profile:
    """One profile of all layers, of hosts in the order of theirs; the first host's steps are the steps.

    Clocks of hosts are not compared: in the time line a host's last step begins where that of the host before ends.
    """
    first, workers = hosts[0].profile, list[WorkerProfile]()
    layers = sum(part.profile.layers for part in hosts)
    end = 0
    for part in hosts:
        begins = min((int(one.events[:, 2].min()) for one in part.profile.workers if len(one.events)), default=0)
        shift = 0 if part is hosts[0] else end - begins
        moved = [_moved(one, part, len(workers), layers, shift) for one in part.profile.workers]
        end = max((int(one.events[:, 2:].max()) for one in moved if len(one.events)), default=end)
        workers += moved
    traffic = tuple(replace(one, domain=_at(part, one.domain)) for part in hosts for one in part.profile.traffic)
    remarks = dict.fromkeys(_at(part, remark) for part in hosts for remark in part.profile.remarks)
    return replace(first, layers=layers, workers=tuple(workers), traffic=traffic, remarks=tuple(remarks))


def _at(part: HostProfile, text: str) -> str:
    return f"{part.host}: {text}" if part.host else text


def _moved(worker: WorkerProfile, part: HostProfile, before: int, layers: int, shift: int) -> WorkerProfile:
    """As of the whole model; what belongs to no layer stays behind the last one."""
    own, first = part.profile.layers, part.first_layer
    cells = np.zeros((len(worker.cells), layers + 1, *worker.cells.shape[2:]), np.int64)
    cells[:, first : first + own] = worker.cells[:, :own]
    cells[:, layers] = worker.cells[:, own]
    events: NDArray[np.int64] = worker.events.copy()
    layer, phase = np.divmod(events[:, 1], len(PHASES))
    events[:, 1] = np.where(layer < own, layer + first, layers) * len(PHASES) + phase
    events[:, 2:] += shift
    return replace(worker, host=part.host, worker=worker.worker + before, cells=cells, events=events)
