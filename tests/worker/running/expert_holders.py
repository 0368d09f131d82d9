"""Workers in this process that hold whole experts and give them to each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorType
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import ShardPlan
from numoe.protos.locality import PAGE, Locality
from numoe.worker.loading.arrange import arrange
from numoe.worker.loading.expert_block import expert_block
from numoe.worker.loading.loader import LoadedWeights, load_weights
from numoe.worker.loading.weight_memory import PrivateMemory, WeightMemory
from numoe.worker.placing.locality import ShardMemory, look
from numoe.worker.placing.locality_now import LocalityNow
from numoe.worker.placing.memory import allocate
from numoe.worker.placing.pages import range_of
from numoe.worker.running.held_experts import HeldExperts
from tests.tiny_model import TinyShape, write_tiny_model
from tests.worker.running.shard_process import even_plan, read_spec

SHAPE = TinyShape(layers=2, width=96, experts=6, active_experts=3, expert_width=160, type=TensorType.Q8_0)
EXPERT, LAYER = 4, 1  # of worker 1
TRANSFER_BYTES = 10_000  # so that an expert takes several copies


class Worker:
    """What of a worker holds experts, in this process, which is not bound."""

    def __init__(
        self, spec: ModelSpec, plan: ShardPlan, number: int, transfer: NDArray[np.uint8], place: WeightMemory
    ) -> None:
        self.shard, self.spec, self.place, self.read = plan.shards[number], spec, place, 0
        arranged = arrange(spec, plan, self.shard, place.held)
        self.weights: LoadedWeights = load_weights(spec, self.shard, arranged, 1, self.count, place)
        self.other = allocate(PAGE)  # as if this were the KV cache
        self.found = look(self.memory(), self.shard)
        self.transfer = transfer
        self.believe(self.found)

    def count(self, size: int) -> None:
        """Bytes that were loaded."""
        self.read += size

    def believe(self, found: Locality, *, node: int | None = None, allow_remote: bool = False) -> None:
        """Begin from other facts than the true ones."""
        shard = self.shard if node is None else replace(self.shard, node=node)
        self.kept = LocalityNow(found, shard, allow_remote)
        self.experts = HeldExperts(self.spec, self.weights, self.place, self.transfer, self.kept)

    def memory(self, experts: HeldExperts | None = None) -> ShardMemory:
        """What the worker has, with experts that arrived."""
        layers = []
        for layer in range(self.spec.layers):
            arrived = experts.arrived_in(layer) if experts is not None else []
            layers.append([range_of(block) for block in (self.weights.layer_memory(layer), *arrived)])
        return ShardMemory(
            layers, [range_of(self.weights.vocabulary_memory)], range_of(self.other), range_of(self.other)
        )

    def recounted(self) -> Locality:
        """As a look at every page finds it."""
        return look(self.memory(self.experts), self.shard)

    def bytes_of(self, layer: int) -> int:
        """As kept, on all nodes."""
        return sum(self.kept.now().layers[layer].values())


def two_workers(folder: Path, owners: ExpertOwners) -> list[Worker]:
    """Of a model whose layers' experts all have the same owners."""
    path = folder / "tiny.gguf"
    write_tiny_model(path, SHAPE)
    spec = read_spec(path)
    plan = replace(even_plan(spec, [(0,), (0,)]), experts=(owners,) * SHAPE.layers)
    transfer = np.zeros(TRANSFER_BYTES, np.uint8)
    return [Worker(spec, plan, number, transfer, PrivateMemory(plan, number)) for number in range(2)]


def copy(source: Worker, target: Worker, layer: int = LAYER, expert: int = EXPERT) -> None:
    """Copy an expert, a part at a time."""
    first = count = source.experts.copy_out(layer, expert, 0)
    held = target.experts.copy_in(layer, expert, 0, count)
    while not held:
        count = source.experts.copy_out(layer, expert, first)
        held = target.experts.copy_in(layer, expert, first, count)
        first += count


def size_of(worker: Worker) -> int:
    """Bytes of an expert."""
    return expert_block(worker.spec.layer_tensors[LAYER], worker.spec).bytes
