"""A real gRPC server over the real engine and fake workers, for the length of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from numpy.typing import NDArray

from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.constraints.guides import Guides
from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.machine.machine_look import MachineFacts
from numoe.coordinator.machine.model_file import read_model
from numoe.coordinator.process.life import Coordinator, Ready
from numoe.coordinator.process.loading import routed_experts
from numoe.coordinator.profiling.taking import RunningProfile
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import EngineSettings, ListenSettings, ServeSettings
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.model.architectures.spec import ModelSpec
from numoe.model.chat.formats import find_formats
from numoe.model.machine.topology import Node, Topology
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.moves import ExpertMove
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.arena import COUNTERS
from numoe.protos.locality import Locality
from numoe.protos.profile import Profile
from numoe.v1 import generation_pb2_grpc, model_pb2_grpc, operations_pb2_grpc, placement_pb2_grpc
from numoe.v1.generation_pb2 import (
    ChatRequest,
    ChatResponse,
    Finished,
    GenerateRequest,
    GenerateResponse,
    Sampling,
    Stopping,
    TokenIds,
)
from tests.coordinator.engine.fake_executor import LIMITS, FakeExecutor
from tests.coordinator.tiny_tokenizer import LETTERS
from tests.tiny_model import TinyShape, write_tiny_model

PATIENCE_SECONDS = 30.0
SHAPE = TinyShape()
NODE = Node(0, cores=((0,), (1,)), memory_bytes=1 << 34, free_bytes=1 << 33, available_bytes=1 << 33, distances=(10,))
LOCALITY = Locality(
    binding="cpus+memory",
    verified=True,
    layers=({0: 300}, {0: 200, 1: 100}),
    vocabulary={0: 400},
    kv={0: 2000},
    arena={0: 500},
    moved_bytes=64,
    threads=9,
    threads_inside=8,
)
Read = tuple[ModelSpec, Any, Any]


class FakeWorkers(FakeExecutor):
    """Fake workers that also say where they lie."""

    shards: ShardPlan
    counted: NDArray[np.void] | None = None  # [workers] COUNTERS

    def placement(self) -> Placement:
        first, *others = self.shards.shards
        lost = (WorkerPlacement(shard, "lost") for shard in others)
        ready = WorkerPlacement(first, "ready", 4242, 1000, 2000, LOCALITY)
        return Placement(self.shards.split, (ready, *lost), self.shards.experts)

    def machines(self, own: MachineFacts) -> tuple[MachineFacts, ...]:
        return (own,)

    def experts(self) -> tuple[ExpertOwners | None, ...]:
        return self.shards.experts

    def counters(self) -> list[np.void]:
        if self.counted is None:
            self.counted = np.zeros(len(self.shards.shards), COUNTERS)
        return list(self.counted)

    def expert_hits(self) -> NDArray[np.int64]:
        return np.ones((SHAPE.layers, SHAPE.experts), np.int64)

    def change_hosts(self, wanted: str) -> tuple[str, ...]:
        raise AssertionError("nobody has them change hosts")

    def move_expert(self, move: ExpertMove) -> None:
        raise AssertionError("a model split by row has no experts to move")

    def begin_profile(self, level: int) -> RunningProfile:
        raise AssertionError("nobody profiles workers that compute nothing")

    def end_profile(self, profiling: RunningProfile, peak: Callable[[int], float], peak_source: str) -> Profile:
        raise AssertionError("nobody profiles workers that compute nothing")


@cache
def tiny_read() -> Read:
    """The tiny model's description, tokenizer and template, read from a real file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        write_tiny_model(path, SHAPE)
        return read_model(path)


def served_model(workers: FakeWorkers, settings: ServeSettings, **changes: Any) -> ServedModel:
    spec, tokenizer, template = tiny_read()
    workers.shards = make_plan(spec, Topology((NODE,)), PlanOptions(workers=2))
    engine = Engine(workers, tokenizer, settings.engine, experts=routed_experts(spec))
    model = ServedModel(spec, tokenizer, template, workers, engine, Guides(tokenizer), find_formats(template))
    return replace(model, **changes)


@dataclass(slots=True)
class Running:
    """A server that announced itself, and a channel to it."""

    coordinator: Coordinator
    ready: Ready
    workers: FakeWorkers
    channel: grpc.aio.Channel
    task: asyncio.Task[None]

    @property
    def generation(self) -> generation_pb2_grpc.GenerationServiceAsyncStub:
        return generation_pb2_grpc.GenerationServiceStub(self.channel)

    @property
    def model(self) -> model_pb2_grpc.ModelServiceAsyncStub:
        return model_pb2_grpc.ModelServiceStub(self.channel)

    @property
    def operations(self) -> operations_pb2_grpc.OperationsServiceAsyncStub:
        return operations_pb2_grpc.OperationsServiceStub(self.channel)

    @property
    def placement(self) -> placement_pb2_grpc.PlacementServiceAsyncStub:
        return placement_pb2_grpc.PlacementServiceStub(self.channel)

    def busy(self) -> tuple[int, int, int]:
        """Requests in work, waiting ones, blocks in use."""
        status = self.coordinator.served_model().engine.snapshot()
        return status.running, status.queued, status.kv_blocks_used


def settings_of(**engine: Any) -> ServeSettings:
    return ServeSettings(ListenSettings(address="127.0.0.1:0"), engine=EngineSettings(**engine))


@asynccontextmanager
async def running_server(
    workers: FakeWorkers | None = None,
    settings: ServeSettings | None = None,
    load: Callable[[LoadProgress], ServedModel] | None = None,
    **changes: Any,
) -> AsyncIterator[Running]:
    """A server that is ready; at the end a signal stops it, and nothing may be left in work."""
    workers = workers or fake_workers()
    settings = settings or settings_of()
    loader = load or (lambda report: served_model(workers, settings, **changes))
    announced: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
    coordinator = Coordinator(settings, loader, lambda phase, done, total: None, announced.set_result)
    task = asyncio.create_task(coordinator.run())
    await until(lambda: announced.done() or task.done())
    if task.done():
        await task
    async with grpc.aio.insecure_channel(announced.result().address) as channel:
        running = Running(coordinator, announced.result(), workers, channel, task)
        try:
            yield running
        finally:
            if not task.done():
                coordinator.on_signal()
                await asyncio.wait([task], timeout=PATIENCE_SECONDS)
    assert task.done()
    assert running.busy() == (0, 0, 0)


def fake_workers(alphabet: Sequence[int] = LETTERS, **options: Any) -> FakeWorkers:
    return FakeWorkers(alphabet, **options)


def small_workers(**options: Any) -> FakeWorkers:
    """Workers for one request at a time."""
    return fake_workers(limits=replace(LIMITS, sequences=1), **options)


def ask(ids: Sequence[int] = (1, 2, 3), max_tokens: int | None = 8, **fields: Any) -> GenerateRequest:
    """A request that ends at max_tokens, whatever is drawn."""
    stopping = Stopping(max_tokens=max_tokens, ignore_eos=True)
    return GenerateRequest(**({"token_ids": TokenIds(ids=ids), "stopping": stopping} | fields))


def sampled(seed: int | None) -> Sampling:
    return Sampling(temperature=1.0, seed=seed)


@dataclass(slots=True)
class Told:
    """All messages of one stream."""

    messages: list[GenerateResponse] | list[ChatResponse]

    @property
    def kinds(self) -> list[str | None]:
        return [message.WhichOneof("event") for message in self.messages]

    @property
    def text(self) -> str:
        return "".join(message.delta.text for message in self.messages)

    @property
    def ids(self) -> list[int]:
        return [token.id for message in self.messages for token in message.delta.tokens]

    @property
    def finished(self) -> Finished:
        terminal = [kind for kind in self.kinds if kind in ("finished", "failed")]
        assert terminal == ["finished"]
        assert self.kinds[0] == "accepted"
        assert self.kinds[-1] == "finished"
        return self.messages[-1].finished


async def read_all(stream: Any) -> Told:
    return Told([message async for message in stream])


async def generated(running: Running, request: GenerateRequest) -> Told:
    return await read_all(running.generation.Generate(request, timeout=PATIENCE_SECONDS))


async def chatted(running: Running, request: ChatRequest) -> Told:
    return await read_all(running.generation.Chat(request, timeout=PATIENCE_SECONDS))


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what another thread brings about; fails the test if it does not."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


def detail_of(error: grpc.aio.AioRpcError, kind: type[Message]) -> Any:
    """The one google.rpc detail of a kind in a call's error, or None."""
    status = rpc_status.from_call(error)  # type: ignore[no-untyped-call,unused-ignore]
    found = kind()
    for detail in status.details if status else ():
        if detail.Unpack(found):
            return found
    return None


def info_of(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    info = detail_of(error, error_details_pb2.ErrorInfo)
    return info.reason, info.domain


async def health_of(channel: grpc.aio.Channel, service: str = "") -> str:
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
