"""Records of full KV blocks, as they stand in files: of one block's keys and values this shard's heads.

    a record   [32] BLAKE3 of all that follows | [32] identity | [32] key | [L, g] the block's bytes of each KV head

`identity` is of all that the bits follow from: model, arithmetic, formats. The key is the block's
(engine/kv/block_keys.py). What is read is compared with its digest, its identity and its key before a byte of it gets
into the cache.
"""

from __future__ import annotations

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import sources_digest
from numoe.model.packed.same_model import same_model
from numoe.model.planning.assignment import WorkerAssignment
from numoe.protos.kv_files import BlockPart

DIGEST_BYTES = 32


class BlockRecords:
    """The records of one worker's KV cache; used between steps, but for blocks that no step writes."""

    def __init__(self, assignment: WorkerAssignment, kv: NDArray[np.uint8]) -> None:
        """`kv`: all of the cache. Raises OSError: the model's file."""
        self._identity = _identity_of(assignment)
        spec, heads, blocks = assignment.spec, assignment.shard.kv_heads, assignment.limits.kv_blocks
        self._blocks = kv.reshape(spec.layers, blocks, kv.size // (spec.layers * blocks))  # of all heads of a block
        size = 3 * DIGEST_BYTES + self._blocks.shape[0] * self._blocks.shape[2]
        layers = f"{spec.first_layer}-{spec.first_layer + spec.layers - 1}"
        name = f"layers {layers} heads {heads.start}-{heads.stop - 1}"
        self.part = BlockPart(self._identity.hex(), name, size)

    def record(self, block: int, key: bytes) -> bytes:
        """Of a block that has this key."""
        told = self._identity + key + self._blocks[:, block].tobytes()
        return blake3(told).digest() + told

    def take(self, block: int, key: bytes, record: bytes) -> str:
        """Fill a block from its record; returns what is wrong with that, "" if nothing is."""
        if len(record) != self.part.record_bytes:
            return f"has {len(record)} bytes, expected {self.part.record_bytes}"
        digest, told = record[:DIGEST_BYTES], memoryview(record)[DIGEST_BYTES:]
        if told[: 2 * DIGEST_BYTES] != self._identity + key:
            return "is of another model, format or block than its name says"
        if blake3(told).digest() != digest:
            return "was changed or cut off: its digest differs"
        values = np.frombuffer(told, np.uint8, offset=2 * DIGEST_BYTES)
        self._blocks[:, block] = values.reshape(self._blocks.shape[0], -1)
        return ""


def _identity_of(assignment: WorkerAssignment) -> bytes:
    """Of all that keys and values follow from, beside tokens and the experts that are run: the code among it."""
    spec, whole = assignment.spec, assignment.spec.model
    numbers = (whole.rms_epsilon, whole.active_experts, whole.context_length, spec.head_size, spec.kv_heads)
    formats = (assignment.kv_types.keys.name, assignment.kv_types.values.name, assignment.hadamard)
    digest = blake3(same_model(whole, assignment.packed))
    digest.update(repr((*numbers, *formats, assignment.limits.block_positions)).encode())
    digest.update(sources_digest())
    return digest.digest()
