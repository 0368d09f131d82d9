"""Metadata of a GGUF file: bounds-checked reading of values, and the caps on what a file may ask for.

    string:       u64 bytes, UTF-8
    key, value:   string key, u32 type, value
    array value:  u32 item type, u64 count, items

*Guarantees*: every read is checked against the end of the file; what a file may make this process allocate or walk
is capped before it is allocated or walked; every fault is a ModelFileError that names its kind.

*Rejected*: one Python object per vocabulary entry. The 303,323 strings of a Qwen vocabulary are walked once to find
where they end (32 ms, 8 MB) and stay bytes until somebody asks (60 ms more): planning and loading never do.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from numoe.protos.errors import ModelFileError

# Caps on what one file may ask for, each well above the largest file known.
METADATA_BYTES = 32 << 20  # Gemma 4's vocabulary, the largest known, takes 16 MB
TEXT_BYTES = 4 << 20  # keys and single strings, which become Python strings of up to 4 bytes a character
KEYS = 8192  # keys and nested arrays; real files hold about 50
STRINGS = 1_000_000  # strings in arrays; Gemma 4: 0.78 million; walking a million takes 80 ms
ARRAY_DEPTH = 4

DAMAGED = "the file is damaged or incomplete, fetch it again"

U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9
SCALARS = {0: "u1", 1: "i1", 2: "u2", 3: "i2", UINT32: "u4", 5: "i4", 6: "f4", BOOL: "u1", 10: "u8", 11: "i8", 12: "f8"}
DTYPES = {number: np.dtype("<" + code) for number, code in SCALARS.items()}


def one_line(text: str, limit: int = 400) -> str:
    """Text of a file made fit for a terminal and a log: what cannot be printed replaced, the middle left out."""
    text = text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
    return "".join(c if c.isprintable() else "?" for c in text)


class Strings(Sequence[str]):
    """An array of strings, decoded when asked for; its bytes are its own, so the file may be closed."""

    __slots__ = ("_bytes", "_key", "_starts")

    def __init__(self, key: str, data: bytes, starts: array[int]) -> None:
        self._key = key
        self._bytes = data
        self._starts = starts  # one more than there are strings; 8 bytes of length lie before each start

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = index + len(self) if index < 0 else index
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._decode(self._bytes[self._starts[index] : self._starts[index + 1] - 8])

    def __iter__(self) -> Iterator[str]:
        starts, data = self._starts, self._bytes
        return map(self._decode, [data[a : b - 8] for a, b in pairwise(starts)])

    def _decode(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise ModelFileError("value-not-utf8", f"{self._key} holds {raw[:40]!r}, which is not UTF-8") from error


Value: TypeAlias = "bool | int | float | str | NDArray[np.generic] | Strings | list[Value]"


class Reader:
    """A position in one mapped file, and what is left of the caps."""

    __slots__ = ("data", "end", "keys_left", "path", "position", "size", "strings_left", "text_left")

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.end = min(self.size, METADATA_BYTES)
        self.position = 0
        self.keys_left = KEYS
        self.strings_left = STRINGS
        self.text_left = TEXT_BYTES

    def fail(self, reason: str, message: str) -> NoReturn:
        raise ModelFileError(reason, f"{self.path}: {one_line(message)}")

    def skip(self, size: int, what: str) -> int:
        """Moves past `size` bytes, all inside the file, and returns where they start."""
        start = self.position
        if size > self.end - start:
            self.fail_beyond_end(what)
        self.position = start + size
        return start

    def fail_beyond_end(self, what: str) -> NoReturn:
        if self.end < self.size:
            self.fail("metadata-too-large", f"the metadata takes more than {METADATA_BYTES} bytes, up to {what}")
        self.fail("truncated", f"the file ends at byte {self.size}, inside {what}; {DAMAGED}")

    def u32(self, what: str) -> int:
        return int(U32.unpack_from(self.data, self.skip(4, what))[0])

    def u64(self, what: str) -> int:
        return int(U64.unpack_from(self.data, self.skip(8, what))[0])

    def text(self, what: str, kind: str, limit: int) -> str:
        """A string of at most `limit` bytes; `kind` begins the reason if it is not well formed."""
        size = self.u64(f"the length of {what}")
        if size > limit:
            self.fail(f"{kind}-too-long", f"{what} has {size} bytes, at most {limit} are allowed; {DAMAGED}")
        self.text_left -= size
        if self.text_left < 0:
            self.fail("metadata-too-large", f"keys and strings take more than {TEXT_BYTES} bytes, up to {what}")
        start = self.skip(size, what)
        try:
            return str(self.data[start : start + size], "utf-8")
        except UnicodeDecodeError:
            self.fail(f"{kind}-not-utf8", f"{what} at byte {start} is not UTF-8; {DAMAGED}")


def read_value(reader: Reader, key: str, number: int) -> Value:
    """The value of `key`, of the GGUF value type `number`."""
    if number == STRING:
        return reader.text(key, "value", TEXT_BYTES)
    if number == ARRAY:
        return _read_array(reader, key, depth=1)
    value: bool | int | float = _read_numbers(reader, key, number, 1)[0].item()
    return value


def _read_array(reader: Reader, key: str, depth: int) -> Value:
    number = reader.u32(f"the item type of {key}")
    count = reader.u64(f"the number of items of {key}")
    if number == STRING:
        return _read_strings(reader, key, count)
    if number != ARRAY:
        return _read_numbers(reader, key, number, count)
    if depth == ARRAY_DEPTH:
        reader.fail("array-too-deep", f"{key} nests arrays deeper than {ARRAY_DEPTH}")
    reader.keys_left -= count
    if reader.keys_left < 0:
        reader.fail("array-too-long", f"{key} holds {count} arrays, at most {KEYS} in all are allowed; {DAMAGED}")
    return [_read_array(reader, key, depth + 1) for _ in range(count)]


def _read_numbers(reader: Reader, key: str, number: int, count: int) -> NDArray[np.generic]:  # [count]
    dtype = DTYPES.get(number)
    if dtype is None:
        reader.fail("value-type-unknown", f"{key} has value type {number}, which GGUF does not know; {DAMAGED}")
    size = count * dtype.itemsize
    if size > METADATA_BYTES:
        reader.fail("array-too-long", f"{key} holds {count} numbers, more than {METADATA_BYTES} bytes; {DAMAGED}")
    start = reader.skip(size, key)
    numbers = np.frombuffer(reader.data[start : start + size], dtype)
    if number != BOOL:
        return numbers
    if count and numbers.max() > 1:
        reader.fail("bool", f"{key} is neither true nor false but {numbers.max()}; {DAMAGED}")
    return numbers.view(np.bool_)


def _read_strings(reader: Reader, key: str, count: int) -> Strings:
    reader.strings_left -= count
    if reader.strings_left < 0:
        reader.fail("array-too-long", f"{key} holds {count} strings, at most {STRINGS} in all are allowed; {DAMAGED}")
    # The loop that decides how fast a vocabulary opens: no call but the two that it needs.
    data, end, first = reader.data, reader.end, reader.position
    last_length, position, unpack = end - 8, first, U64.unpack_from
    starts = array("Q")
    append = starts.append
    for _ in range(count):
        if position > last_length:
            break
        append(position + 8 - first)
        position += 8 + unpack(data, position)[0]
    if position > end or len(starts) < count:
        reader.fail_beyond_end(f"string {len(starts)} of {count} of {key}")
    append(position + 8 - first)
    reader.position = position
    return Strings(key, data[first:position], starts)
