"""Reads the values of a GGUF file's metadata.

    string:       u64 bytes, UTF-8
    key, value:   string key, u32 type, value
    array value:  u32 item type, u64 count, items

*Rejected*: one Python object per vocabulary entry. The 303,323 strings of a Qwen vocabulary are walked once to find
where they end (32 ms, 8 MB) and stay bytes until somebody asks (60 ms more): planning and loading never do.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from numoe.model.gguf.reader import (
    ARRAY_DEPTH,
    DAMAGED,
    METADATA_BYTES,
    MOST_KEYS,
    MOST_STRINGS,
    TEXT_BYTES,
    U64,
    Reader,
)
from numoe.protos.errors import ModelFileError
from numoe.protos.foreign_text import one_line

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
SCALARS = {0: "u1", 1: "i1", 2: "u2", 3: "i2", 10: "u8", 11: "i8", 12: "f8"}
SCALARS |= {UINT32: "u4", INT32: "i4", FLOAT32: "f4", BOOL: "u1"}
DTYPES = {number: np.dtype("<" + code) for number, code in SCALARS.items()}


class Strings(Sequence[str]):
    """An array of strings, each decoded when it is asked for; it holds its bytes, so the file may be closed."""

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

    @property
    def raw(self) -> bytes:
        """The strings as they lie in the file, each after its length."""
        return self._bytes

    def _decode(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise ModelFileError("value-not-utf8", f"{self._key} holds {raw[:40]!r}, which is not UTF-8") from error


Value: TypeAlias = "bool | int | float | str | NDArray[np.generic] | Strings | list[Value]"


def describe_value(value: Value) -> str:
    """A value in few words, fit for a terminal and a log."""
    if isinstance(value, np.ndarray | Strings | list):
        return f"an array of {len(value)}"
    return repr(one_line(value, 60)) if isinstance(value, str) else str(value)


def same_value(value: Value, other: Value) -> bool:
    """Whether two values are equal."""
    if isinstance(value, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(value, other)
    if isinstance(value, Strings) and isinstance(other, Strings):
        return value.raw == other.raw
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(same_value(a, b) for a, b in zip(value, other, strict=True))
    return type(value) is type(other) and value == other


def read_value(reader: Reader, key: str, number: int) -> Value:
    """Read the value of `key`, which has the GGUF value type `number`. Raises ModelFileError."""
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
        reader.fail("array-too-long", f"{key} holds {count} arrays, at most {MOST_KEYS} in all are allowed; {DAMAGED}")
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
        found = f"{key} holds {count} strings, at most {MOST_STRINGS} in all are allowed"
        reader.fail("array-too-long", f"{found}; {DAMAGED}")
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
