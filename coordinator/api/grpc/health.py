"""Health, as clients and orchestrators ask gRPC services for it: of the whole, and of each service, one state.

Not by the servicer of grpcio-health-checking: it writes to a watcher inside the lock that all watchers, and whoever
changes the state, wait for, so that one client which reads nothing would keep the service from ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from numoe.coordinator.api.grpc.calls import Context
from numoe.coordinator.api.grpc.roles import EVERY_SERVICE

_States = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # its library has no types
    """NOT_SERVING until it is told otherwise."""

    def __init__(self, services: Iterable[str]) -> None:
        """`services`: the names to be known by, beside "" for all."""
        self._services = frozenset((EVERY_SERVICE, *services))
        self._state = _States.NOT_SERVING
        self._changed = asyncio.Event()  # of the state that is; the next one has another
        self._has_ended = False

    def set(self, *, serving: bool) -> None:
        """What is told from now on; nothing changes after the end."""
        state = _States.SERVING if serving else _States.NOT_SERVING
        if state != self._state and not self._has_ended:
            self._state = state
            self._changed.set()
            self._changed = asyncio.Event()

    def end(self) -> None:
        """NOT_SERVING, for good."""
        self.set(serving=False)
        self._has_ended = True

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:  # noqa: N802
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service is named {request.service!r}")
        return _States(status=self._state)

    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> health_pb2.HealthListResponse:  # noqa: N802
        statuses = {name: _States(status=self._state) for name in self._services}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        is_known, told = request.service in self._services, None
        while True:
            changed, state = self._changed, self._state if is_known else _States.SERVICE_UNKNOWN
            if state != told:
                await context.write(_States(status=state))
                told = state
            await changed.wait()
