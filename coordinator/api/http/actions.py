"""What an operator may do over HTTP, by the same ways as over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from numoe.coordinator.api.http.answers import json_answer, read_order
from numoe.coordinator.operations.operations import Moving, Operations
from numoe.protos.errors import NumoeError


class AbortOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Which request to end."""

    request_id: str


class DrainWorkerOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Which worker to empty of whole experts."""

    worker: int


class NoOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing to choose."""


class Actions:
    """The actions; moves of experts go on after their answer, and the stream tells how far they are."""

    def __init__(self, source: Callable[[], Operations]) -> None:
        self._source = source
        self._moving: set[asyncio.Task[None]] = set()

    async def abort(self, request: Request) -> Response:
        """End the requests of an id: {"request_id": "..."} -> {"aborted": 1}, 0 if there was none."""
        order = await read_order(request, AbortOrder)
        return json_answer({"aborted": self._source().abort(order.request_id)})

    async def rebalance(self, request: Request) -> Response:
        """Move experts so that all workers compute equally much: {} -> {"moves": 12}."""
        await read_order(request, NoOrder)
        return await self._move(self._source().rebalance)

    async def drain_worker(self, request: Request) -> Response:
        """Empty a worker of whole experts: {"worker": 1} -> {"moves": 64}."""
        order = await read_order(request, DrainWorkerOrder)
        return await self._move(partial(self._source().empty, order.worker))

    async def drain_service(self, request: Request) -> Response:
        """Take no more requests, and end once the open ones are done: {} -> {"open": 3}."""
        await read_order(request, NoOrder)
        return json_answer({"open": self._source().drain()}, 202)

    async def _move(self, start: Callable[[], Moving]) -> Response:
        end = self._source().take_turn()
        moving = start()
        try:
            first = await anext(moving)  # raises what refuses the whole
        except BaseException:
            end()
            raise
        task = asyncio.create_task(_finish(moving))
        task.add_done_callback(lambda _: end())
        self._moving.add(task)
        task.add_done_callback(self._moving.discard)
        return json_answer({"moves": first.total}, 202)

    async def close(self) -> None:
        """Give up moves that are not made yet."""
        for task in self._moving:
            task.cancel()
        await asyncio.gather(*self._moving, return_exceptions=True)


async def _finish(moving: Moving) -> None:
    try:
        async with aclosing(moving):
            async for _ in moving:
                pass
    except NumoeError:
        return  # the log of events has it
