"""Keys and values of full KV blocks in files, which outlive the worker: one for each block, of this shard's heads.

    FOLDER / identity / part / name      identity  of all that the bits follow from: model, arithmetic, formats
                                         part      which layers and KV heads
                                         name      the block's key (engine/kv/block_keys.py), in hexadecimal

    a file   [32] BLAKE3 of all that follows | [32] identity | [32] key | [L, g] the block's bytes of each KV head

Workers that share a head write one file of the same bytes. A file is written beside its place, and whoever ordered it
moves it there once every worker has written its own. What is read is compared with its digest, its identity and its key
before a byte of it gets into the cache.

*Guarantees*: the files of other models, formats or shares of heads are never read as these.
*Rejected*: one file for many blocks, of which parts would have to be freed; writing from the step's threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import sources_digest
from numoe.model.packed.same_model import same_model
from numoe.model.planning.assignment import WorkerAssignment
from numoe.protos.errors import SetupError
from numoe.protos.kv_files import file_name, written_name

DIGEST_BYTES = 32


class BlockFiles:
    """The files of one worker's KV cache; used between steps, but for blocks that no step writes."""

    def __init__(self, assignment: WorkerAssignment, kv: NDArray[np.uint8]) -> None:
        """`kv`: all of the cache. Raises SetupError: the folder cannot be used; OSError: the model's file."""
        assert assignment.kv_store is not None
        self._identity = _identity_of(assignment)
        spec, heads = assignment.spec, assignment.shard.kv_heads
        layers = f"{spec.first_layer}-{spec.first_layer + spec.layers - 1}"
        self.folder = (
            assignment.kv_store / self._identity.hex() / f"layers {layers} heads {heads.start}-{heads.stop - 1}"
        )
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"--kv-store {assignment.kv_store} cannot be used: {error.strerror}") from error
        blocks = assignment.limits.kv_blocks
        self._blocks = kv.reshape(spec.layers, blocks, kv.size // (spec.layers * blocks))  # of all heads of a block

    @property
    def file_bytes(self) -> int:
        """Of each file."""
        return 3 * DIGEST_BYTES + self._blocks.shape[0] * self._blocks.shape[2]

    def save(self, blocks: Sequence[tuple[int, bytes]]) -> str:
        """Write blocks beside the places of their keys; returns why that failed, "" if it did not."""
        try:
            for block, key in blocks:
                told = self._identity + key + self._blocks[:, block].tobytes()
                path = self.folder / written_name(key)
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                    file.write(blake3(told).digest())
                    file.write(told)
        except OSError as error:
            return f"{self.folder} cannot be written: {error.strerror}"
        return ""

    def restore(self, blocks: Sequence[tuple[int, bytes]]) -> list[str]:
        """Read blocks into the cache; returns of each why that failed, "" if it did not."""
        return [self._restore(block, key) for block, key in blocks]

    def _restore(self, block: int, key: bytes) -> str:
        path = self.folder / file_name(key)
        try:
            with path.open("rb") as file:
                size, data = os.fstat(file.fileno()).st_size, file.read(self.file_bytes)
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
        if (size, len(data)) != (self.file_bytes,) * 2:
            return f"{path} has {size} bytes, expected {self.file_bytes}"
        digest, told = data[:DIGEST_BYTES], memoryview(data)[DIGEST_BYTES:]
        if told[: 2 * DIGEST_BYTES] != self._identity + key:
            return f"{path} is of another model, format or block than its name says"
        if blake3(told).digest() != digest:
            return f"{path} was changed or cut off: its digest differs"
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
