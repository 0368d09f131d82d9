"""Reads a shard's own byte ranges of the model file and re-lays them into panels, on all of the worker's threads.

An expert's rows of one worker are one contiguous range of the file, so every read is sequential and no byte is read by
two workers but the norms, the router and shared KV heads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.weights.formats import BY_GGML_TYPE, ROWS
from numoe.kernels.weights.packing import pack
from numoe.model.architectures.spec import LayerTensors, ModelSpec
from numoe.model.gguf.file_identity import FileIdentity
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.planning.plan import Range, Shard
from numoe.protos.errors import ModelFileError
from numoe.worker.loading.arrangement import Arrangement, Piece, head_rows
from numoe.worker.loading.soundness import check_rows, not_finite
from numoe.worker.placing.memory import allocate


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """A shard in memory, ready for steps; `memory` and `vectors` keep alive what the records point at."""

    arranged: Arrangement
    output_norm: NDArray[np.float32]  # [D]
    memory: NDArray[np.uint8]
    vectors: list[NDArray[np.float32]]

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


def _read(path: Path, descriptor: int, offset: int, out: NDArray[np.uint8]) -> None:
    """Fill `out` from the file; raises ModelFileError where the file ends first."""
    done = 0
    while done < out.size:
        got = os.preadv(descriptor, [out.data[done:]], offset + done)
        if got == 0:
            size = os.fstat(descriptor).st_size
            problem = f"{path} has {size} bytes, expected at least {offset + out.size}"
            raise ModelFileError("truncated", f"{problem}: it shrank since it was opened; copy it again")
        done += got


class _Files:
    """One descriptor per part of the model, which is the file that the model was planned by."""

    def __init__(self, expected: Iterable[FileIdentity]) -> None:
        self._expected = {identity.path: identity for identity in expected}
        self._open: dict[Path, int] = {}
        self._lock = Lock()

    def descriptor(self, path: Path) -> int:
        """The descriptor of a part, which is opened if it was not. Raises ModelFileError: it is another file."""
        with self._lock:
            if path not in self._open:
                self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self._check(path)
            return self._open[path]

    def check(self) -> None:
        """Raise ModelFileError: a part was written to since it was opened."""
        for path in self._open:
            self._check(path)

    def _check(self, path: Path) -> None:
        if path in self._expected:
            self._expected[path].check(self._open[path])

    def close(self) -> None:
        """Close all descriptors."""
        for descriptor in self._open.values():
            os.close(descriptor)


def _vector(files: _Files, tensor: TensorInfo | None, rows: Range | None = None) -> NDArray[np.float32]:
    """A norm or bias, or a slice of it; empty where the model has none."""
    if tensor is None:
        return np.zeros(0, np.float32)
    whole = np.zeros(tensor.shape[-1], np.float32)
    _read(tensor.path, files.descriptor(tensor.path), tensor.offset, whole.view(np.uint8))
    if not np.isfinite(whole).all():
        raise not_finite(tensor, f"value {np.argmin(np.isfinite(whole))}")
    return whole if rows is None else whole[rows.start : rows.stop].copy()


def _layer_vectors(
    files: _Files, tensors: LayerTensors, spec: ModelSpec, shard: Shard
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the vectors of a layer by record field; of biases the rows of own heads."""
    heads, kv = head_rows(spec, shard)
    yield "attention_norm", _vector(files, tensors.attn_norm)
    yield "feed_forward_norm", _vector(files, tensors.ffn_norm)
    yield "q_norm", _vector(files, tensors.attn_q_norm)
    yield "k_norm", _vector(files, tensors.attn_k_norm)
    yield "q_bias", _vector(files, tensors.attn_q_bias, heads)
    yield "k_bias", _vector(files, tensors.attn_k_bias, kv)
    yield "v_bias", _vector(files, tensors.attn_v_bias, kv)


def load_weights(
    spec: ModelSpec, shard: Shard, arranged: Arrangement, threads: int, report: Callable[[int], None]
) -> LoadedWeights:
    """Read and pack a shard as it was arranged; `report` receives the bytes of each piece when it is done.

    Raises:
        ModelFileError: it is not the file that the model was planned by, or was written to meanwhile, or a weight is
            infinite or no number.
        OSError: it cannot be read.
    """
    memory = allocate(arranged.bytes)
    arranged.place_at(memory.ctypes.data)
    files = _Files(spec.files)
    vectors = []
    try:
        output_norm = _vector(files, spec.output_norm)
        for record, tensors in zip(arranged.layers, spec.layer_tensors, strict=True):
            for field, values in _layer_vectors(files, tensors, spec, shard):
                record[field] = values.ctypes.data if values.size else 0
                vectors.append(values)
        _run_pieces(files, memory, arranged.pieces, threads, report)
        files.check()
    finally:
        files.close()
    return LoadedWeights(arranged, output_norm, memory, vectors)


def _run_pieces(
    files: _Files, memory: NDArray[np.uint8], pieces: Sequence[Piece], threads: int, report: Callable[[int], None]
) -> None:
    """Read pieces into `memory`, on so many threads."""
    lock = Lock()

    def run(piece: Piece) -> None:
        size, count = piece.tensor.row_bytes, -(-piece.rows // ROWS) if piece.packed else piece.rows
        target = memory[piece.offset : piece.offset + count * piece.stride].reshape(count, piece.stride)
        rows = np.empty((piece.rows, size), np.uint8) if piece.packed else target
        descriptor = files.descriptor(piece.tensor.path)
        _read(piece.tensor.path, descriptor, piece.tensor.offset + piece.first_row * size, rows.reshape(-1))
        check_rows(piece.tensor, rows, piece.first_row)
        if piece.packed:
            pack(BY_GGML_TYPE[piece.tensor.type], target, rows, piece.start)
        with lock:
            report(piece.bytes)

    with ThreadPoolExecutor(threads, thread_name_prefix="load") as pool:
        for _ in pool.map(run, pieces):
            pass
