"""PlacementService: where the model lies, and moving its experts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

from numoe.coordinator.api.grpc.calls import Context
from numoe.coordinator.api.served_model import ModelSource
from numoe.coordinator.operations.operations import Operations
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import Range
from numoe.protos.errors import InvalidRequest
from numoe.protos.locality import Locality, NodeBytes
from numoe.v1 import placement_pb2, placement_pb2_grpc

_WORKER_STATES = {
    "starting": placement_pb2.WORKER_STATE_STARTING,
    "loading": placement_pb2.WORKER_STATE_LOADING,
    "ready": placement_pb2.WORKER_STATE_READY,
    "stuck": placement_pb2.WORKER_STATE_STUCK,
    "lost": placement_pb2.WORKER_STATE_LOST,
}


class PlacementService(placement_pb2_grpc.PlacementServiceServicer):
    """Where it lies."""

    def __init__(self, source: ModelSource, operations: Callable[[], Operations]) -> None:
        self._source, self._operations = source, operations

    async def GetPlacement(  # noqa: N802
        self, request: placement_pb2.GetPlacementRequest, context: Context
    ) -> placement_pb2.GetPlacementResponse:
        return placement_message(self._source().workers.placement())

    async def Rebalance(  # noqa: N802
        self, request: placement_pb2.RebalanceRequest, context: Context
    ) -> AsyncIterator[placement_pb2.RebalanceResponse]:
        end = self._operations().take_turn()
        context.add_done_callback(lambda _: end())  # type: ignore[arg-type]  # opaque in the stubs
        drained = request.drain_worker if request.HasField("drain_worker") else None
        if request.hosts and drained is not None:
            raise InvalidRequest("hosts", f"is {request.hosts}, expected none where drain_worker names a worker")
        operations = self._operations()
        made = operations.change_hosts(request.hosts) if request.hosts else operations.rebalance(drained)
        async with aclosing(made) as moving:
            async for progress in moving:
                yield placement_pb2.RebalanceResponse(made=progress.done, moves=progress.total)


def placement_message(placement: Placement) -> placement_pb2.GetPlacementResponse:
    """Every worker and its shard."""
    workers = (_worker(worker, placement.experts) for worker in placement.workers)
    return placement_pb2.GetPlacementResponse(split=placement.split, workers=workers)


def _worker(worker: WorkerPlacement, experts: Sequence[ExpertOwners | None]) -> placement_pb2.WorkerPlacement:
    shard = worker.shard
    return placement_pb2.WorkerPlacement(
        worker=shard.worker,
        pid=worker.pid,
        numa_node=shard.node if shard.spread is None else None,
        cpus=shard.allowed_cpus,
        threads=len(shard.cpus),
        state=_WORKER_STATES[worker.state],
        shard=placement_pb2.ShardRanges(
            heads=_range(shard.heads),
            kv_heads=_range(shard.kv_heads),
            width_rows=_range(shard.width_rows),
            expert_rows=_range(shard.expert_rows),
            vocabulary=_range(shard.vocabulary),
        ),
        weight_bytes=worker.weight_bytes,
        kv_bytes=worker.kv_bytes,
        locality=None if worker.locality is None else _locality(worker.locality),
        experts=_held(worker, experts),
        host=worker.host,
        first_layer=worker.layers.start if worker.layers else 0,
    )


def _held(worker: WorkerPlacement, experts: Sequence[ExpertOwners | None]) -> list[placement_pb2.HeldExperts]:
    layers: dict[tuple[int, ...], list[int]] = {}
    own = worker.layers or Range(0, len(experts))
    for layer, owners in enumerate(experts[own.start : own.stop], own.start):
        if owners is not None:
            layers.setdefault(owners.held_by(worker.shard.worker), []).append(layer)
    return [placement_pb2.HeldExperts(layers=some, experts=held) for held, some in layers.items()]


def _locality(found: Locality) -> placement_pb2.Locality:
    return placement_pb2.Locality(
        binding=found.level,
        problem=found.problem,
        threads=found.threads,
        threads_inside=found.threads_inside,
        moved_bytes=found.moved_bytes,
        layers=map(_on_nodes, found.layers),
        vocabulary=_on_nodes(found.vocabulary),
        kv=_on_nodes(found.kv),
        arena=_on_nodes(found.arena),
    )


def _on_nodes(part: NodeBytes) -> placement_pb2.MemoryOnNodes:
    nodes = (placement_pb2.NodeBytes(numa_node=node, bytes=count) for node, count in part.items())
    return placement_pb2.MemoryOnNodes(nodes=nodes)


def _range(owned: Range) -> placement_pb2.HalfOpenRange:
    return placement_pb2.HalfOpenRange(start=owned.start, end=owned.stop)
