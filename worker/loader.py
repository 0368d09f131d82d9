"""Reads a shard's own byte ranges of the model file and re-lays them into panels, on all of the worker's threads.

An expert's rows of one worker are one contiguous range of the file, so every read is sequential and no byte is read by
two workers but the norms, the router and shared KV heads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.formats import BY_GGML_TYPE, NUMBERS
from numoe.kernels.groups import BLOCK, ROWS
from numoe.kernels.packing import pack
from numoe.kernels.records import LAYER, MATRIX
from numoe.model.plan import Range, Shard
from numoe.model.spec import LayerTensors, ModelSpec, TensorInfo
from numoe.protos.errors import ModelFileError
from numoe.worker.memory import allocate

# Record fields whose matrices a step reads panel by panel in turn: one stream of memory, as far as the CPU sees.
TOGETHER = (("q",), ("k",), ("v",), ("output",), ("router",), ("gate", "up"), ("down",))
READ_BYTES = 4 << 20  # per read: large enough for full disk speed, small enough to stay in the L2/L3 while packed


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one expert, to be read and packed."""

    tensor: TensorInfo
    first_row: int  # counted over all experts
    rows: int
    target: NDArray[np.uint8]  # [panels, bytes], or [rows, bytes of a row] when not packed
    start: int  # of the panel in each row of target
    bytes: int  # of target that are filled
    packed: bool  # or copied as it is


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """The shard's weights and the records that point at them; `memory` keeps them alive."""

    layers: NDArray[np.void]  # [L] LAYER
    head: NDArray[np.void]  # [1] MATRIX
    output_norm: NDArray[np.float32]  # [D]
    embedding: NDArray[np.uint8]  # [v * row bytes]
    memory: NDArray[np.uint8]


def row_bytes(tensor: TensorInfo) -> int:
    """Bytes of one row of the file."""
    format_ = BY_GGML_TYPE[tensor.type]
    return tensor.shape[-1] // format_.unit_values * format_.unit_bytes


def panel_bytes(tensor: TensorInfo) -> int:
    """Bytes of a panel: 16 rows."""
    format_ = BY_GGML_TYPE[tensor.type]
    return tensor.shape[-1] // format_.unit_values * format_.panel_unit_bytes


def matrix_bytes(tensor: TensorInfo, rows: int) -> int:
    """Bytes of `rows` rows of every expert, in whole panels."""
    experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
    return experts * -(-rows // ROWS) * panel_bytes(tensor)


def layer_rows(tensors: LayerTensors, spec: ModelSpec, shard: Shard) -> Iterator[tuple[str, TensorInfo, Range]]:
    """The matrices of a layer by record field, with the rows of each that a shard owns."""
    size = spec.head_size
    heads = Range(shard.heads.start * size, shard.heads.stop * size)
    kv = Range(shard.kv_heads.start * size, shard.kv_heads.stop * size)
    yield "q", tensors.attn_q, heads
    yield "k", tensors.attn_k, kv
    yield "v", tensors.attn_v, kv
    yield "output", tensors.attn_output, shard.width_rows
    if tensors.router is not None:
        yield "router", tensors.router, Range(0, spec.experts)
    yield "gate", tensors.gate, shard.expert_rows
    yield "up", tensors.up, shard.expert_rows
    yield "down", tensors.down, shard.width_rows


def weight_bytes(spec: ModelSpec, shard: Shard) -> int:
    """Bytes of memory that the shard's matrices and embedding rows take."""
    total = shard.vocabulary.size * row_bytes(spec.token_embedding) + matrix_bytes(spec.output, shard.vocabulary.size)
    for tensors in spec.layer_tensors:
        total += sum(matrix_bytes(tensor, rows.size) for _, tensor, rows in layer_rows(tensors, spec, shard))
    return total


class _Arranger:
    """Hands out memory for matrices and notes what must be read into it."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self.memory, self.used = memory, 0
        self.pieces: list[Piece] = []

    def take(self, size: int) -> NDArray[np.uint8]:
        part = self.memory[self.used : self.used + size]
        self.used += size
        return part

    def matrices(self, records: Sequence[NDArray[np.void]], tensors: Sequence[TensorInfo], rows: Range) -> None:
        """Lay matrices of one shape out panel beside panel, fill their MATRIX records, list what must be read."""
        experts = tensors[0].shape[0] if len(tensors[0].shape) == 3 else 1
        panels = -(-rows.size // ROWS)
        stride = sum(panel_bytes(tensor) for tensor in tensors)
        target, start = self.take(experts * panels * stride).reshape(experts, panels, stride), 0
        for record, tensor in zip(records, tensors, strict=True):
            format_, size = BY_GGML_TYPE[tensor.type], panel_bytes(tensor)
            record["address"], record["rows"], record["panels"] = target.ctypes.data + start, rows.size, panels
            record["blocks"] = tensor.shape[-1] // BLOCK
            record["panel_bytes"], record["panel_stride"] = size, stride
            record["expert_bytes"], record["expert_stride"] = panels * size, panels * stride
            record["tile"], record["integer"] = NUMBERS[format_.name], format_.integer
            self._list(tensor, rows, target, start)
            start += size

    def _list(self, tensor: TensorInfo, rows: Range, target: NDArray[np.uint8], start: int) -> None:
        """The pieces of a matrix whose panels begin at byte `start` of those of target [experts, panels, bytes]."""
        step = max(1, READ_BYTES // (ROWS * row_bytes(tensor))) * ROWS
        for expert, panels in enumerate(target):
            for first in range(0, rows.size, step):
                count = min(step, rows.size - first)
                place = panels[first // ROWS : -(-(first + count) // ROWS)]
                row = expert * tensor.shape[-2] + rows.start + first
                self.pieces.append(Piece(tensor, row, count, place, start, len(place) * panel_bytes(tensor), True))

    def rows(self, tensor: TensorInfo, rows: Range) -> NDArray[np.uint8]:
        """Take a tensor's rows as they are in the file."""
        size = row_bytes(tensor)
        target = self.take(rows.size * size)
        step = max(1, READ_BYTES // size)
        for first in range(0, rows.size, step):
            count = min(step, rows.size - first)
            place = target[first * size : (first + count) * size].reshape(count, size)
            self.pieces.append(Piece(tensor, rows.start + first, count, place, 0, place.size, False))
        return target


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
    """One descriptor per part of the model."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}
        self._lock = Lock()

    def descriptor(self, path: Path) -> int:
        with self._lock:
            if path not in self._open:
                self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return self._open[path]

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def _vector(files: _Files, tensor: TensorInfo | None, rows: Range | None = None) -> NDArray[np.float32]:
    """A norm or bias, or a slice of it; empty where the model has none."""
    if tensor is None:
        return np.zeros(0, np.float32)
    whole = np.zeros(tensor.shape[-1], np.float32)
    _read(tensor.path, files.descriptor(tensor.path), tensor.offset, whole.view(np.uint8))
    return whole if rows is None else whole[rows.start : rows.stop].copy()


def _layer_vectors(
    files: _Files, tensors: LayerTensors, spec: ModelSpec, shard: Shard
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    size = spec.head_size
    heads = Range(shard.heads.start * size, shard.heads.stop * size)
    kv = Range(shard.kv_heads.start * size, shard.kv_heads.stop * size)
    yield "attention_norm", _vector(files, tensors.attn_norm)
    yield "feed_forward_norm", _vector(files, tensors.ffn_norm)
    yield "q_norm", _vector(files, tensors.attn_q_norm)
    yield "k_norm", _vector(files, tensors.attn_k_norm)
    yield "q_bias", _vector(files, tensors.attn_q_bias, heads)
    yield "k_bias", _vector(files, tensors.attn_k_bias, kv)
    yield "v_bias", _vector(files, tensors.attn_v_bias, kv)


def load_weights(
    spec: ModelSpec, shard: Shard, threads: int, report: Callable[[int], None]
) -> tuple[LoadedWeights, list[NDArray[np.float32]]]:
    """Read and pack a shard; `report` is told each piece's bytes when it is done. The vectors must be kept alive too.

    Raises:
        ModelFileError: the file is shorter than when it was opened.
        OSError: it cannot be read.
    """
    arranger = _Arranger(allocate(weight_bytes(spec, shard)))
    layers, head = np.zeros(spec.layers, LAYER), np.zeros(1, MATRIX)
    for record, tensors in zip(layers, spec.layer_tensors, strict=True):
        fields = {field: (tensor, rows) for field, tensor, rows in layer_rows(tensors, spec, shard)}
        for together in TOGETHER:
            present = [field for field in together if field in fields]
            if present:
                matrices, rows = [fields[field][0] for field in present], fields[present[0]][1]
                arranger.matrices([record[field] for field in present], matrices, rows)
    arranger.matrices([head[0]], [spec.output], shard.vocabulary)
    embedding = arranger.rows(spec.token_embedding, shard.vocabulary)
    files = _Files()
    vectors = []
    try:
        output_norm = _vector(files, spec.output_norm)
        for record, tensors in zip(layers, spec.layer_tensors, strict=True):
            for field, values in _layer_vectors(files, tensors, spec, shard):
                record[field] = values.ctypes.data if values.size else 0
                vectors.append(values)
        _run_pieces(files, arranger.pieces, threads, report)
    finally:
        files.close()
    return LoadedWeights(layers, head, output_norm, embedding, arranger.memory), vectors


def _run_pieces(files: _Files, pieces: list[Piece], threads: int, report: Callable[[int], None]) -> None:
    lock = Lock()

    def run(piece: Piece) -> None:
        size = row_bytes(piece.tensor)
        rows = np.empty((piece.rows, size), np.uint8) if piece.packed else piece.target
        descriptor = files.descriptor(piece.tensor.path)
        _read(piece.tensor.path, descriptor, piece.tensor.offset + piece.first_row * size, rows.reshape(-1))
        if piece.packed:
            pack(BY_GGML_TYPE[piece.tensor.type], piece.target, rows, piece.start)
        with lock:
            report(piece.bytes)

    with ThreadPoolExecutor(threads, thread_name_prefix="load") as pool:
        for _ in pool.map(run, pieces):
            pass
