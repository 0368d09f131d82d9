"""A profile as a running service tells it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.protos.errors import ServiceError
from numoe.protos.profile import EVENT_WORDS, PHASES, Profile, Traffic, WorkerProfile
from numoe.v1 import operations_pb2


def read_profile(told: operations_pb2.StepsProfile) -> Profile:
    """Take a message apart. Raises ServiceError: the service has other phases, or arrays of another shape."""
    if tuple(told.phases) != PHASES:
        expected = "numoe of the same version here and there"
        raise ServiceError(f"the service's steps have the phases {', '.join(told.phases)}; expected {expected}")
    return Profile(
        layers=told.layers,
        steps=told.steps,
        tokens=told.tokens,
        seconds=told.seconds,
        peak_source=told.peak_source,
        workers=tuple(_read_worker(worker, told.layers) for worker in told.workers),
        traffic=tuple(Traffic(one.domain, one.local, one.remote) for one in told.traffic),
        remarks=tuple(told.remarks),
    )


def _read_worker(told: operations_pb2.WorkerProfile, layers: int) -> WorkerProfile:
    threads = told.threads
    return WorkerProfile(
        worker=told.worker,
        node=told.node,
        cells=_read_array(told.cells, threads, layers + 1, len(PHASES), 3),
        inside=_read_array(told.inside, threads),
        step_ns=told.step_ns,
        weight_bytes=_read_array(told.weight_bytes, len(PHASES)),
        kv_bytes=told.kv_bytes,
        peak=told.peak,
        events=_read_array(told.events, -1, EVENT_WORDS + 1),
        instructions=told.instructions if told.HasField("instructions") else None,
        cycles=told.cycles if told.HasField("cycles") else None,
        local_loads=told.local_loads if told.HasField("local_loads") else None,
        remote_loads=told.remote_loads if told.HasField("remote_loads") else None,
        host=told.host,
    )


def _read_array(data: bytes, *shape: int) -> NDArray[np.int64]:
    try:
        return np.frombuffer(data, "<i8").astype(np.int64).reshape(shape)
    except ValueError as error:
        found = f"{len(data)} bytes where an array of {' x '.join(map(str, shape))} was expected"
        raise ServiceError(
            f"the service's profile has {found}; use numoe of the same version here and there"
        ) from error
