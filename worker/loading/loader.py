"""Takes the memory of a shard and fills it: from the model's files, or from a packed folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from numoe.model.architectures.spec import LayerTensors, ModelSpec
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.planning.plan import Range, Shard
from numoe.worker.loading.arrangement import Arrangement, head_rows
from numoe.worker.loading.files import Files
from numoe.worker.loading.gguf_source import GgufSource
from numoe.worker.loading.weight_memory import WeightMemory


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """A shard in memory, ready for steps; `memory` and `vectors` keep alive what the records point at."""

    arranged: Arrangement
    output_norm: NDArray[np.float32]  # [D]
    memory: NDArray[np.uint8]
    vectors: list[NDArray[np.float32]]
    written_before: bool = False  # the memory had been, and was not read from a file

    @property
    def embedding(self) -> NDArray[np.uint8]:  # [v * row bytes]
        """The embedding rows, as in the file."""
        return self.memory[self.arranged.embedding.start : self.arranged.embedding.stop]

    def layer_memory(self, layer: int) -> NDArray[np.uint8]:  # [bytes of the layer]
        """The part of the memory that one layer takes."""
        own = self.arranged.layer_bytes[layer]
        return self.memory[own.start : own.stop]

    @property
    def vocabulary_memory(self) -> NDArray[np.uint8]:
        """The rest of the memory: output and embedding rows."""
        return self.memory[self.arranged.layer_bytes[-1].stop :]


class Source(Protocol):
    """Where weights come from."""

    def vector(self, tensor: TensorInfo) -> NDArray[np.float32]:  # [n]
        """A norm or bias."""

    def fill(
        self, memory: NDArray[np.uint8], arranged: Arrangement, threads: int, report: Callable[[int], None]
    ) -> None:
        """Put all matrices of a shard where they are to lie, on so many threads."""


def load_weights(
    spec: ModelSpec,
    shard: Shard,
    arranged: Arrangement,
    threads: int,
    report: Callable[[int], None],
    place: WeightMemory,
    source_of: Callable[[Files], Source] = GgufSource,
) -> LoadedWeights:
    """Read a shard as it was arranged; `report` receives the bytes of each piece when it is done.

    Where the memory has been written before, norms and biases alone are read, some megabytes.

    Args:
        spec: the model.
        shard: the part of it.
        arranged: how it is to lie.
        threads: that compute on this worker's CPUs.
        report: may be called from any thread, one at a time.
        place: gives the memory.
        source_of: where they come from; by default the model's files, which are packed.

    Raises:
        ModelFileError: it is not the file that the model was planned by, or was written to meanwhile, or a weight is
            infinite or no number, or a packed folder is damaged.
        OSError: it cannot be read.
    """
    memory, written = place.load(arranged.bytes)
    arranged.place_at(memory.ctypes.data)
    files = Files(spec.files)
    vectors = []
    try:
        source = source_of(files)
        output_norm = source.vector(spec.output_norm)
        for record, tensors in zip(arranged.layers, spec.layer_tensors, strict=True):
            for field, values in _layer_vectors(source, tensors, spec, shard):
                record[field] = values.ctypes.data if values.size else 0
                vectors.append(values)
        if written:
            report(arranged.bytes)
        else:
            source.fill(memory, arranged, threads, report)
        files.check()
    finally:
        files.close()
    if not written:
        place.loaded()
    return LoadedWeights(arranged, output_norm, memory, vectors, written)


def _layer_vectors(
    source: Source, tensors: LayerTensors, spec: ModelSpec, shard: Shard
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the vectors of a layer by record field; of biases the rows of own heads."""
    heads, kv = head_rows(spec, shard)
    yield "attention_norm", source.vector(tensors.attn_norm)
    yield "feed_forward_norm", source.vector(tensors.ffn_norm)
    yield "q_norm", _part(source, tensors.attn_q_norm)
    yield "k_norm", _part(source, tensors.attn_k_norm)
    yield "q_bias", _part(source, tensors.attn_q_bias, heads)
    yield "k_bias", _part(source, tensors.attn_k_bias, kv)
    yield "v_bias", _part(source, tensors.attn_v_bias, kv)


def _part(source: Source, tensor: TensorInfo | None, rows: Range | None = None) -> NDArray[np.float32]:
    """A vector or a slice of it; empty where the model has none."""
    if tensor is None:
        return np.zeros(0, np.float32)
    whole = source.vector(tensor)
    return whole if rows is None else whole[rows.start : rows.stop].copy()
