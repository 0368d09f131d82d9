"""A shard's own byte ranges of the model's files, re-laid into panels on all of the worker's threads.

An expert's rows of one worker are one contiguous range of the file, so every read is sequential and no byte is read by
two workers but the norms, the router and shared KV heads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.weights.formats import BY_GGML_TYPE, ROWS
from numoe.kernels.weights.packing import pack
from numoe.model.gguf.tensors import TensorInfo
from numoe.worker.loading.arrangement import Arrangement, Piece
from numoe.worker.loading.files import Files
from numoe.worker.loading.soundness import check_rows, check_vector


class GgufSource:
    """Reads what the model's GGUF files hold, and looks whether all of it are numbers."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def vector(self, tensor: TensorInfo) -> NDArray[np.float32]:  # [n]
        """A norm or bias."""
        values = np.zeros(tensor.shape[-1], np.float32)
        self._files.read(tensor.path, tensor.offset, [values.view(np.uint8)])
        check_vector(tensor, values)
        return values

    def rows(self, tensor: TensorInfo, first: int, out: NDArray[np.uint8]) -> None:  # [rows, row bytes] written
        """Rows as they lie in the file; `first` is counted over all experts."""
        self._files.read(tensor.path, tensor.offset + first * tensor.row_bytes, [out.reshape(-1)])
        check_rows(tensor, out, first)

    def panels(
        self,
        tensor: TensorInfo,
        first_row: int,  # counted over all experts
        rows: int,
        out: NDArray[np.uint8],  # [panels, stride], written
        start: int,  # of the tensor's panels in each stride
    ) -> None:
        """Rows as panels."""
        read = np.empty((rows, tensor.row_bytes), np.uint8)
        self.rows(tensor, first_row, read)
        pack(BY_GGML_TYPE[tensor.type], out, read, start)

    def fill(
        self, memory: NDArray[np.uint8], arranged: Arrangement, threads: int, report: Callable[[int], None]
    ) -> None:
        """Read all pieces of a shard into its memory, on so many threads."""
        lock = Lock()

        def run(piece: Piece) -> None:
            count = -(-piece.rows // ROWS) if piece.packed else piece.rows
            target = memory[piece.offset : piece.offset + count * piece.stride].reshape(count, piece.stride)
            if piece.packed:
                self.panels(piece.tensor, piece.first_row, piece.rows, target, piece.start)
            else:
                self.rows(piece.tensor, piece.first_row, target)
            with lock:
                report(piece.bytes)

        with ThreadPoolExecutor(threads, thread_name_prefix="load") as pool:
            for _ in pool.map(run, arranged.pieces):
                pass
