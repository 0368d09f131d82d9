"""OperationsService: how the service is, what happened to it, and what operators do to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from numoe.coordinator.api.grpc.calls import Context
from numoe.coordinator.engine.event_log import ServiceEvent
from numoe.coordinator.operations.operations import Operations
from numoe.coordinator.operations.snapshot import Choices, ExpertMap, Snapshot
from numoe.protos.plain_data import fill_message
from numoe.protos.profile import PHASES, Profile
from numoe.v1 import operations_pb2, operations_pb2_grpc

OperationsSource = Callable[[], Operations]  # raises Unavailable while the model is being loaded


class OperationsService(operations_pb2_grpc.OperationsServiceServicer):
    """For operators."""

    def __init__(self, source: OperationsSource) -> None:
        self._source = source

    async def GetStatus(  # noqa: N802
        self, request: operations_pb2.GetStatusRequest, context: Context
    ) -> operations_pb2.GetStatusResponse:
        return operations_pb2.GetStatusResponse(status=status_message(await self._source().snapshot()))

    async def WatchStatus(  # noqa: N802
        self, request: operations_pb2.WatchStatusRequest, context: Context
    ) -> AsyncIterator[operations_pb2.WatchStatusResponse]:
        async for snapshot in self._source().watch():
            yield operations_pb2.WatchStatusResponse(status=status_message(snapshot))

    async def WatchPlacement(  # noqa: N802
        self, request: operations_pb2.WatchPlacementRequest, context: Context
    ) -> AsyncIterator[operations_pb2.WatchPlacementResponse]:
        before: Snapshot | None = None
        async for snapshot in self._source().watch():
            yield _placement_message(snapshot, before)
            before = snapshot

    async def ListEvents(  # noqa: N802
        self, request: operations_pb2.ListEventsRequest, context: Context
    ) -> operations_pb2.ListEventsResponse:
        events = self._source().events.after(request.after_id)
        return operations_pb2.ListEventsResponse(events=map(_event_message, events))

    async def WatchEvents(  # noqa: N802
        self, request: operations_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[operations_pb2.WatchEventsResponse]:
        async for event in self._source().watch_events(request.after_id):
            yield operations_pb2.WatchEventsResponse(event=_event_message(event))

    async def AbortRequest(  # noqa: N802
        self, request: operations_pb2.AbortRequestRequest, context: Context
    ) -> operations_pb2.AbortRequestResponse:
        return operations_pb2.AbortRequestResponse(aborted=self._source().abort(request.request_id))

    async def Drain(  # noqa: N802
        self, request: operations_pb2.DrainRequest, context: Context
    ) -> AsyncIterator[operations_pb2.DrainResponse]:
        operations = self._source()
        if not request.HasField("worker"):
            yield operations_pb2.DrainResponse(open_requests=operations.drain())
            return
        end = operations.take_turn()
        context.add_done_callback(lambda _: end())  # type: ignore[arg-type]  # opaque in the stubs
        async with aclosing(operations.empty(request.worker)) as moving:
            async for progress in moving:
                yield operations_pb2.DrainResponse(made=progress.done, moves=progress.total)

    async def Profile(  # noqa: N802
        self, request: operations_pb2.ProfileRequest, context: Context
    ) -> operations_pb2.ProfileResponse:
        profile = await self._source().profile(request.seconds, request.steps)
        return operations_pb2.ProfileResponse(profile=profile_message(profile))


def profile_message(profile: Profile) -> operations_pb2.StepsProfile:
    """All that Profile tells."""
    message = operations_pb2.StepsProfile(phases=PHASES)
    fill_message(message, profile, leave_out=("workers", "phases"))
    for worker in profile.workers:
        told = message.workers.add(threads=len(worker.inside))
        arrays = ("cells", "inside", "weight_bytes", "events")
        fill_message(told, worker, leave_out=(*arrays, "threads"))
        for name in arrays:
            setattr(told, name, getattr(worker, name).astype("<i8").tobytes())
    return message


def status_message(snapshot: Snapshot) -> operations_pb2.Status:
    """All that GetStatus tells of a snapshot."""
    message = operations_pb2.Status()
    fill_message(message, snapshot)
    return message


def _event_message(event: ServiceEvent) -> operations_pb2.ServiceEvent:
    message = operations_pb2.ServiceEvent()
    fill_message(message, event)
    return message


def _placement_message(now: Snapshot, before: Snapshot | None) -> operations_pb2.WatchPlacementResponse:
    """What has changed since; what is the same object has not."""
    message = operations_pb2.WatchPlacementResponse(now=now.now, layers=now.service.layers, experts=now.service.experts)
    if before is None or now.experts is not before.experts:
        message.holders.CopyFrom(_holders_message(now.experts))
    for name in ("recent", "lately", "ever"):
        if before is None or getattr(now, name) is not getattr(before, name):
            getattr(message, name).CopyFrom(_choices_message(getattr(now, name)))
    return message


def _holders_message(experts: ExpertMap) -> operations_pb2.ExpertHolders:
    holders = experts.holders
    message = operations_pb2.ExpertHolders(holders=holders.data, holder_bytes=holders.number_bytes)
    fill_message(message, experts, leave_out=("holders", "holder_bytes"))
    return message


def _choices_message(choices: Choices) -> operations_pb2.ExpertChoices:
    counts = choices.counts
    message = operations_pb2.ExpertChoices(counts=counts.data, count_bytes=counts.number_bytes)
    fill_message(message, choices, leave_out=("counts", "count_bytes"))
    return message
