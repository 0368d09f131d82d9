"""Writes a GGUF file piece by piece, so that a file far larger than memory can be made.

Its header is what part.py and values.py read; it needs no library, so that a bench can make its model anywhere.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from numoe.model.gguf.part import DEFAULT_ALIGNMENT, ENTRIES, HEADER, MAGIC
from numoe.model.gguf.tensors import BLOCKS, TensorType, row_bytes
from numoe.model.gguf.values import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32, Strings, Value
from numoe.protos.errors import SetupError

Progress = Callable[[int, int], None]  # bytes done, bytes in all
VERSION = 3
_ITEMS = {bool: BOOL, int: INT32, float: FLOAT32, str: STRING}  # their types in arrays
_CODES = {bool: "?", int: "i", float: "f"}


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
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(_header({"general.architecture": architecture, **metadata}, tensors))
            if header_only:
                _leave_hole(file, tensors)
            else:
                _write_data(file, tensors, progress)
        part.replace(path)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def import_gguf() -> Any:
    """Import the package gguf, which converts quants and which serving does not need. Raises SetupError without it."""
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise SetupError("converting quants needs the package gguf: pip install gguf") from error
    return gguf


def _header(metadata: Mapping[str, Value | Sequence[str]], tensors: Sequence[NewTensor]) -> bytes:
    """All that comes before the tensors' bytes, but for what aligns those."""
    pieces = [HEADER.pack(MAGIC, VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        number, encoded = _value(key, value)
        pieces += [_text(key), struct.pack("<I", number), encoded]
    offset = 0
    for tensor in tensors:
        check_row(tensor.name, tensor.type, tensor.shape)
        entry = ENTRIES[len(tensor.shape)].pack(*reversed(tensor.shape), tensor.type, offset)
        pieces += [_text(tensor.name), struct.pack("<I", len(tensor.shape)), entry]
        offset = _aligned(offset + tensor.bytes)
    return b"".join(pieces)


def _value(key: str, value: Value | Sequence[str]) -> tuple[int, bytes]:
    """A value's type, and its bytes; whole numbers are unsigned alone and signed in arrays, all of 32 bits."""
    if isinstance(value, Strings):
        return ARRAY, struct.pack("<IQ", STRING, len(value)) + value.raw
    items = value.tolist() if isinstance(value, np.ndarray) else value
    try:
        match items:
            case bool() | float() | str():
                return _ITEMS[type(items)], _items(items)
            case int():
                return UINT32, struct.pack("<I", items)
            case list() | tuple():
                [kind] = {type(item) for item in items}
                return ARRAY, struct.pack("<IQ", _ITEMS[kind], len(items)) + _items(*items)
    except (KeyError, ValueError, struct.error):  # none, of several kinds or of another one, or too large
        pass
    raise SetupError(
        f"{key} is {str(value)[:60]}, expected a number of 32 bits, a text, or an array of one kind of them"
    )


def _items(*items: Any) -> bytes:
    """Of one kind, one after the other."""
    if isinstance(items[0], str):
        return b"".join(map(_text, items))
    return struct.pack(f"<{len(items)}{_CODES[type(items[0])]}", *items)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _aligned(offset: int) -> int:
    return offset + -offset % DEFAULT_ALIGNMENT


def _write_data(file: IO[bytes], tensors: Sequence[NewTensor], progress: Progress | None) -> None:
    total, done = sum(tensor.bytes for tensor in tensors), 0
    for tensor in tensors:
        file.write(bytes(-file.tell() % DEFAULT_ALIGNMENT))
        end = done + tensor.bytes
        for piece in tensor.pieces():
            assert piece.flags.c_contiguous
            file.write(piece.reshape(-1).view(np.uint8).data)
            done += piece.nbytes
            if progress is not None:
                progress(done, total)
        assert done == end, f"{tensor.name}: {end - done} bytes are missing"
    file.write(bytes(-file.tell() % DEFAULT_ALIGNMENT))


def _leave_hole(file: IO[bytes], tensors: Sequence[NewTensor]) -> None:
    """Make the file as long as its data would."""
    end = file.tell()
    for tensor in tensors:
        end = _aligned(end) + tensor.bytes
    file.truncate(_aligned(end))
