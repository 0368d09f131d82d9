"""Writes GGUF byte by byte, sound or not: what a writer would refuse to write is what the tests are about."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
HUGE = (1 << 64) - 1


def string(text: str | bytes, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def scalar(kind: int, value: float | str | bytes) -> bytes:
    return string(value) if isinstance(value, str | bytes) else struct.pack("<" + FORMATS[kind], value)


def key(name: str | bytes, kind: int, value: float | str | bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + scalar(kind, value)


def array(kind: int, items: Sequence[float | str | bytes], count: int | None = None) -> bytes:
    """The value of an array, without key and type; items of ARRAY are such values."""
    made = [item if kind == ARRAY and isinstance(item, bytes) else scalar(kind, item) for item in items]
    return struct.pack("<IQ", kind, len(items) if count is None else count) + b"".join(made)


def array_key(name: str, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", ARRAY) + value


def tensor(
    name: str | bytes, shape: Sequence[int], kind: int = 0, offset: int = 0, dimensions: int | None = None
) -> bytes:
    """A directory entry; `shape` is innermost first, as it lies in the file."""
    counts = struct.pack("<I", len(shape) if dimensions is None else dimensions)
    return string(name) + counts + struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)


def gguf(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
    alignment: int = 32,
) -> bytes:
    counts = len(tensors) if tensor_count is None else tensor_count, len(keys) if key_count is None else key_count
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % alignment if tensors else 0) + data


def sound_file() -> bytes:
    """Every value type, arrays in arrays, two tensors: about 1 KB."""
    numbers = [(U8, 200), (I8, -100), (U16, 60000), (I16, -30000), (U32, 4000000000), (I32, -2000000000)]
    numbers += [(U64, 1 << 63), (I64, -(1 << 62))]
    keys = [key("general.architecture", STRING, "llama"), key("general.alignment", U32, 32)]
    keys += [key(f"number.{kind}", kind, value) for kind, value in numbers]
    keys += [key("number.f32", F32, 0.5), key("number.f64", F64, 1e300), key("yes", BOOL, True), key("no", BOOL, False)]
    keys += [array_key(f"numbers.{kind}", array(kind, [value, 1, 0])) for kind, value in numbers]
    keys += [array_key("floats", array(F32, [0.25, -1.5])), array_key("bools", array(BOOL, [True, False]))]
    keys += [array_key("words", array(STRING, ["", "one", "zwölf", "\N{SNOWMAN}"])), array_key("none", array(F64, []))]
    nested = array(ARRAY, [array(U8, [1, 2]), array(STRING, ["a"]), array(ARRAY, [array(U8, [])])])
    keys += [array_key("nested", nested)]
    tensors = [tensor("first", (32, 2), 8), tensor("second", (3,), 0, 96)]
    return gguf(keys, tensors, bytes(range(68)) + bytes(28) + struct.pack("<3f", 1, 2, 3))


def write(folder: Path, content: bytes, name: str = "model.gguf") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path
