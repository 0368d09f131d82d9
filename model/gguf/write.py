"""Writes a GGUF file piece by piece, so that a file far larger than memory can be made; needs the package gguf."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from numoe.model.gguf.tensors import BLOCKS, TensorType, row_bytes
from numoe.model.gguf.values import Strings, Value
from numoe.protos.errors import SetupError

if TYPE_CHECKING:
    from gguf import GGUFWriter

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to write; `pieces` is called when its turn comes."""

    name: str
    type: TensorType
    shape: tuple[int, ...]  # outermost first
    pieces: Callable[[], Iterable[NDArray[Any]]]  # contiguous arrays whose bytes follow each other

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return math.prod(self.shape[:-1]) * row_bytes(self.type, self.shape[-1])


def check_row(name: str, tensor_type: TensorType, shape: tuple[int, ...]) -> None:
    """Raise SetupError unless rows of this shape are a whole number of the type's blocks."""
    values = BLOCKS[tensor_type][0]
    if shape[-1] % values:
        raise SetupError(f"{name} has rows of {shape[-1]} values, {tensor_type.name} needs a multiple of {values}")


def write_gguf(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Value | Sequence[str]],
    tensors: Sequence[NewTensor],
    progress: Progress | None = None,
    *,
    header_only: bool = False,
) -> None:
    """Write the file beside `path` and rename it at the end, so that `path` is never half a file. Raises SetupError.

    Args:
        path: where it is to lie.
        architecture: its general.architecture.
        metadata: all other keys.
        tensors: in the order in which they are to lie.
        progress: is called after every piece.
        header_only: the tensors' bytes become a hole in the file, which reads as zeros and takes no disk.
    """
    gguf = import_gguf()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    writer = gguf.GGUFWriter(part, architecture)
    try:
        _announce(writer, metadata, tensors)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        if header_only:
            _leave_hole(writer.fout[0], tensors, writer.data_alignment)
        else:
            _write_data(writer.fout[0], tensors, writer.data_alignment, progress)
        writer.close()
        part.replace(path)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        writer.close()
        part.unlink(missing_ok=True)


def import_gguf() -> Any:
    """Import the package gguf, which serving does not need. Raises SetupError where it is not installed."""
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise SetupError("making a model needs the package gguf: pip install gguf") from error
    return gguf


def _announce(writer: GGUFWriter, metadata: Mapping[str, Value | Sequence[str]], tensors: Sequence[NewTensor]) -> None:
    gguf = import_gguf()
    for key, value in metadata.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case np.ndarray():
                writer.add_array(key, value.tolist())
            case _:
                writer.add_array(key, list(value) if isinstance(value, Strings) else value)
    for tensor in tensors:
        check_row(tensor.name, tensor.type, tensor.shape)
        # Any dtype but uint8 keeps the writer from reading the shape as one in bytes.
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, gguf.GGMLQuantizationType(tensor.type)
        )


def _write_data(file: IO[bytes], tensors: Sequence[NewTensor], alignment: int, progress: Progress | None) -> None:
    total, done = sum(tensor.bytes for tensor in tensors), 0
    for tensor in tensors:
        file.write(bytes(-file.tell() % alignment))
        end = done + tensor.bytes
        for piece in tensor.pieces():
            assert piece.flags.c_contiguous
            file.write(piece.reshape(-1).view(np.uint8).data)
            done += piece.nbytes
            if progress is not None:
                progress(done, total)
        assert done == end, f"{tensor.name}: {end - done} bytes are missing"
    file.write(bytes(-file.tell() % alignment))


def _leave_hole(file: IO[bytes], tensors: Sequence[NewTensor], alignment: int) -> None:
    """Make the file as long as its data would."""
    end = file.tell()
    for tensor in tensors:
        end += -end % alignment + tensor.bytes
    file.truncate(end + -end % alignment)
