"""Reads one GGUF file, which may be hostile: its header, metadata and tensor directory.

    +--------+---------+-----------+--------+--------------+--------------+----------+----------------------+
    | "GGUF" | version | n_tensors | n_keys | keys, values | tensor infos | padding  | tensor data, each    |
    | 4      | u32     | u64       | u64    | n_keys times | n_tensors t. | to align | tensor aligned       |
    +--------+---------+-----------+--------+--------------+--------------+----------+----------------------+
    0        4         8           16       24                                       data_start

    tensor info:  string name, u32 n_dims, n_dims x u64 (innermost first), u32 type, u64 offset from data_start

Little endian, versions 2 and 3, which differ in nothing else. Faults raise ModelFileError; reader.py says what is
guaranteed.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from numoe.model.gguf.file_identity import FileIdentity, identity_of
from numoe.model.gguf.reader import DAMAGED, MOST_KEYS, Reader
from numoe.model.gguf.tensors import BLOCKS, TensorInfo, TensorType, row_bytes
from numoe.model.gguf.values import UINT32, Value, read_value
from numoe.protos.errors import ModelFileError

MOST_TENSORS = 8192  # Qwen3-235B: 1131
KEY_BYTES = 65535  # the format's own limit
NAME_BYTES = 64  # the format's own limit
ALIGNMENT_BYTES = 2 << 20  # a huge page; files in use have 32

MAGIC = b"GGUF"
HEADER = struct.Struct("<4sIQQ")  # magic, version, n_tensors, n_keys
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
ENTRIES = {dimensions: struct.Struct(f"<{dimensions}QIQ") for dimensions in (1, 2, 3, 4)}  # shape, type, offset
TYPES = {int(tensor_type): tensor_type for tensor_type in TensorType}


@dataclass(frozen=True, slots=True)
class Part:
    """What one GGUF file holds; a model may be split over several."""

    path: Path
    identity: FileIdentity
    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    keys_end: int  # bytes up to the last value of the metadata


def read_part(path: Path) -> Part:
    """Read the file at `path`. Raises ModelFileError."""
    try:
        # Opening a named pipe would wait for a writer, so the kind of file is asked first.
        if not path.is_file():
            reason = "not-a-file" if path.exists() else "not-found"
            raise ModelFileError(reason, f"{path}: expected a GGUF file, found {_what_is_at(path)}")
        if path.stat().st_size == 0:
            raise ModelFileError("empty", f"{path}: the file is empty; {DAMAGED}")
        with path.open("rb") as file:
            identity = identity_of(path, file.fileno())
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelFileError("unreadable", f"{path}: {error}") from error
    with data:
        return _read(Reader(path, data), identity)


def metadata_alone(path: Path) -> bytes:
    """A GGUF file of the keys and values at `path`, bit by bit, and without tensors. Raises ModelFileError."""
    part = read_part(path)
    with path.open("rb") as file:
        part.identity.check(file.fileno())
        keys = os.pread(file.fileno(), part.keys_end - HEADER.size, HEADER.size)
    return HEADER.pack(MAGIC, part.version, 0, len(part.metadata)) + keys


def _what_is_at(path: Path) -> str:
    return "a directory" if path.is_dir() else "something else" if path.exists() else "nothing"


def _read(reader: Reader, identity: FileIdentity) -> Part:
    version, tensor_count, key_count = _read_header(reader)
    metadata: dict[str, Value] = {}
    for index in range(key_count):
        key = reader.text(f"key {index}", "key", KEY_BYTES)
        if not key:
            reader.fail("key-empty", f"key {index} is empty; {DAMAGED}")
        if key in metadata:
            reader.fail("key-duplicate", f"the key {key} stands twice; {DAMAGED}")
        number = reader.u32(f"the type of {key}")
        if key == ALIGNMENT_KEY and number != UINT32:
            reader.fail("alignment-type", f"{ALIGNMENT_KEY} has value type {number}, it must be {UINT32} (uint32)")
        metadata[key] = read_value(reader, key, number)
    keys_end = reader.position
    alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    assert isinstance(alignment, int)
    if not 0 < alignment <= ALIGNMENT_BYTES or alignment & (alignment - 1):
        reader.fail("alignment", f"{ALIGNMENT_KEY} is {alignment}, it must be a power of two up to {ALIGNMENT_BYTES}")
    return Part(reader.path, identity, version, metadata, _read_directory(reader, tensor_count, alignment), keys_end)


def _read_header(reader: Reader) -> tuple[int, int, int]:
    magic = reader.data[:4]
    if magic != MAGIC:
        found = "a Git LFS pointer" if magic == b"vers" else repr(magic)
        reader.fail("bad-magic", f"this is no GGUF file: it begins with {found} instead of {MAGIC!r}")
    reader.skip(4, "the magic")
    version = reader.u32("the version")
    if version and version & 0xFFFF == 0:
        reader.fail("big-endian", "the file is big endian; convert the model again for little endian")
    if version == 1:
        reader.fail("version-1", "the file has GGUF version 1, not written since 2023; convert the model again")
    if version not in (2, 3):
        reader.fail("version-unknown", f"the file has GGUF version {version}; versions 2 and 3 are known")
    tensors, keys = reader.u64("the number of tensors"), reader.u64("the number of keys")
    if tensors > MOST_TENSORS:
        found = f"{tensors} tensors are announced, at most {MOST_TENSORS} are allowed"
        reader.fail("too-many-tensors", f"{found}; {DAMAGED}")
    if keys > MOST_KEYS:
        reader.fail("too-many-keys", f"{keys} keys are announced, at most {MOST_KEYS} are allowed; {DAMAGED}")
    return version, tensors, keys


def _read_directory(reader: Reader, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    found: dict[str, TensorInfo] = {}
    for index in range(count):
        name = reader.text(f"the name of tensor {index}", "tensor-name", NAME_BYTES)
        if not name:
            reader.fail("tensor-name-empty", f"tensor {index} has no name; {DAMAGED}")
        if name in found:
            reader.fail("tensor-duplicate", f"the tensor {name} stands twice; {DAMAGED}")
        found[name] = _read_tensor(reader, name)
    return _place(reader, found.values(), alignment)


def _read_tensor(reader: Reader, name: str) -> TensorInfo:
    """The tensor as the directory has it: `offset` still counts from the start of the data."""
    dimensions = reader.u32(name)
    if not 1 <= dimensions <= 4:
        reader.fail("tensor-dimensions", f"{name} has {dimensions} dimensions, 1 to 4 are allowed; {DAMAGED}")
    entry = ENTRIES[dimensions]
    *sizes, number, offset = entry.unpack_from(reader.data, reader.skip(entry.size, name))
    shape = tuple(reversed(sizes))
    if min(shape) == 0:
        reader.fail("tensor-dimension-zero", f"{name} has the shape {shape}, with no values; {DAMAGED}")
    if max(shape) >= 1 << 63:
        reader.fail("tensor-dimension-negative", f"{name} has a dimension of {max(shape) - (1 << 64)}; {DAMAGED}")
    tensor_type = TYPES.get(number)
    if tensor_type is None:
        hint = "ik_llama.cpp has types of its own from 97 on: quantise with llama.cpp's" if number > 96 else DAMAGED
        reader.fail("tensor-type-unknown", f"{name} has the tensor type {number}, unknown to llama.cpp; {hint}")
    if shape[-1] % BLOCKS[tensor_type][0]:
        blocks = f"blocks of {BLOCKS[tensor_type][0]} ({tensor_type.name})"
        reader.fail("tensor-row", f"{name} has rows of {shape[-1]} values, no whole number of {blocks}; {DAMAGED}")
    size = row_bytes(tensor_type, shape[-1]) * math.prod(shape[:-1])
    if size >= 1 << 63:
        reader.fail("tensor-too-large", f"{name} has the shape {shape}, {size} bytes; {DAMAGED}")
    return TensorInfo(name, tensor_type, shape, reader.path, offset, size)


def _place(reader: Reader, tensors: Collection[TensorInfo], alignment: int) -> tuple[TensorInfo, ...]:
    """Make offsets count from the start of the file; tensors lie there side by side, but for alignment.

    A gap, or data after the last one, belongs to a tensor that the directory lacks, or has with a smaller type.
    """
    data_start = -(-reader.position // alignment) * alignment
    end, before = data_start, "the directory"
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        start = data_start + tensor.offset
        if tensor.offset % alignment:
            lies = f"{tensor.name} lies at {tensor.offset}"
            reader.fail("tensor-misaligned", f"{lies}, which is no multiple of {alignment}; {DAMAGED}")
        if start + tensor.bytes > reader.size:
            span = f"bytes {start} to {start + tensor.bytes}"
            reader.fail("tensor-outside-file", f"{tensor.name} takes {span}, the file has {reader.size}; {DAMAGED}")
        if start < end:
            reader.fail("tensor-overlap", f"{tensor.name} begins at {start}, inside {before}; {DAMAGED}")
        if start - end >= alignment:
            gap = f"bytes {end} to {start} between {before} and {tensor.name}"
            reader.fail("tensor-gap", f"{gap} belong to no tensor; {DAMAGED}")
        end, before = start + tensor.bytes, tensor.name
    if reader.size - end >= alignment:
        rest = f"bytes {end} to {reader.size} after {before}"
        reader.fail("tensor-gap", f"{rest} belong to no tensor; {DAMAGED}")
    return tuple(replace(tensor, offset=data_start + tensor.offset) for tensor in tensors)
