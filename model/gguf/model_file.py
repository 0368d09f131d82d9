"""Opens a model in GGUF, in one file or split over several as llama-gguf-split does (`-00001-of-0000N.gguf`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from numoe.model.gguf.file_identity import FileIdentity
from numoe.model.gguf.part import Part, read_part
from numoe.model.gguf.reader import DAMAGED
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.gguf.values import Value, describe_value, same_value
from numoe.protos.errors import ModelFileError
from numoe.protos.foreign_text import one_line

KEYS_OF_EACH_PART = ("split.no", "split.count", "general.alignment")
MOST_PARTS = 1024  # the largest models known are split into about 150
PART_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The metadata and the tensor directory of a model; nothing of it refers to an open file."""

    path: Path  # the first part, if split
    parts: tuple[Path, ...]
    identities: tuple[FileIdentity, ...]  # of the parts, as they were read
    version: int
    metadata: Mapping[str, Value]  # arrays of numbers are numpy arrays, arrays of strings are Strings
    tensors: Mapping[str, TensorInfo]  # in the order of the files


def open_gguf(path: str | Path) -> GgufFile:
    """Open the model whose first or only file is `path`. Raises ModelFileError."""
    path = Path(path).absolute()  # tensors are read by workers, in folders of their own
    name = PART_NAME.fullmatch(path.name)
    if name and int(name["number"]) != 1:
        first = path.with_name(_part_name(name["stem"], 1, name["count"]))
        _fail(path, "split-not-first", f"this is part {int(name['number'])} of a split model; open {first}")
    opened = read_part(path)
    parts = (opened, *(read_part(other) for other in _other_parts(opened, name)))
    for number, part in enumerate(parts):
        _check_part(part, number, len(parts))
        if number:
            _check_agreement(part, opened)
    tensors = _merge(parts)
    if len(parts) > 1 and _split_key(opened, "split.tensors.count") != len(tensors):
        announced = _split_key(opened, "split.tensors.count")
        _fail(path, "split-tensors", f"{announced} tensors are announced, {len(tensors)} lie in the parts; {DAMAGED}")
    paths = tuple(part.path for part in parts)
    identities = tuple(part.identity for part in parts)
    metadata = MappingProxyType(dict(opened.metadata))
    return GgufFile(path, paths, identities, opened.version, metadata, MappingProxyType(tensors))


def _part_name(stem: str, number: int, count: str) -> str:
    return f"{stem}-{number:05d}-of-{count}.gguf"


def _other_parts(first: Part, name: re.Match[str] | None) -> list[Path]:
    """Where the parts after the first lie; all of them exist."""
    count = _split_key(first, "split.count")
    if not 0 <= count <= MOST_PARTS:
        _fail(first.path, "split-count", f"split.count is {count}, at most {MOST_PARTS} parts are allowed; {DAMAGED}")
    if count > 1 and name is None:
        expected = _part_name(first.path.stem, 1, f"{count:05d}")
        _fail(first.path, "split-name", f"this is one of {count} parts; the first must be named like {expected}")
    if name is None:
        return []
    named = int(name["count"])
    if named != max(count, 1):
        _fail(first.path, "split-count", f"the name says {named} parts, split.count says {count}; {DAMAGED}")
    others = [first.path.with_name(_part_name(name["stem"], n, name["count"])) for n in range(2, named + 1)]
    missing = [other for other in others if not other.exists()]
    if missing:
        also = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        _fail(first.path, "split-part-missing", f"part {missing[0]}{also} of {named} parts is missing, fetch it")
    return others


def _check_part(part: Part, number: int, count: int) -> None:
    found = _split_key(part, "split.no"), max(_split_key(part, "split.count"), 1)
    if found[0] != number:
        _fail(part.path, "split-number", f"split.no is {found[0]}, expected {number}: the files are mixed up")
    if found[1] != count:
        _fail(part.path, "split-count", f"split.count is {found[1]}, expected {count}: the files are mixed up")


def _check_agreement(part: Part, first: Part) -> None:
    """Refuse a part of another model: what it says again must be what the first part says."""
    if part.version != first.version:
        found = f"GGUF version {part.version}, the first part has {first.version}"
        _fail(part.path, "split-mixed", f"the part has {found}: the files are mixed up")
    for key, value in part.metadata.items():
        stated = first.metadata.get(key, "" if key == "general.architecture" else value)
        if key not in KEYS_OF_EACH_PART and not same_value(value, stated):
            found = f"{describe_value(value)}, the first part says {describe_value(stated)}"
            _fail(part.path, "split-mixed", f"{one_line(key, 60)} is {found}: the files are mixed up")


def _split_key(part: Part, key: str) -> int:
    value = part.metadata.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int):
        _fail(part.path, "split-key-type", f"{key} must be a whole number; {DAMAGED}")
    return value


def _merge(parts: tuple[Part, ...]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for part in parts:
        for tensor in part.tensors:
            if tensor.name in tensors:
                _fail(part.path, "tensor-duplicate", f"{tensor.name} stands in {tensors[tensor.name].path} as well")
            tensors[tensor.name] = tensor
    return tensors


def _fail(path: Path, reason: str, message: str) -> NoReturn:
    raise ModelFileError(reason, f"{path}: {message}")
