"""Opens a packed folder as the model file that it was made of, which may be gone by then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import GgufFile, open_gguf
from numoe.model.gguf.part import read_part
from numoe.model.gguf.tensors import BLOCKS, TensorInfo, TensorType, row_bytes
from numoe.model.packed.manifest import (
    ANEW,
    MANIFEST_FILE,
    METADATA_FILE,
    DirectoryEntry,
    Manifest,
    entry_of,
    identities,
    read_manifest,
)
from numoe.model.packed.origin import origins_of
from numoe.model.packed.sections import file_bytes, sections_of
from numoe.protos.errors import ModelFileError
from numoe.protos.foreign_text import one_line

NAME_KEY = "general.name"
MOST_DIMENSIONS = 4


def open_packed(folder: Path) -> tuple[GgufFile, Manifest]:
    """The metadata and tensors of a packed model, as `open_gguf` has them of a file. Raises ModelFileError."""
    folder = folder.absolute()  # workers open it in folders of their own
    manifest = read_manifest(folder)
    part = read_part(folder / METADATA_FILE)
    metadata = dict(part.metadata)
    if not metadata.get(NAME_KEY):  # a file that has no name is called by its path, which was another one
        metadata[NAME_KEY] = manifest.model
    tensors = MappingProxyType({tensor.name: tensor for tensor in _tensors(folder, manifest.tensors)})
    return GgufFile(folder, (), (), part.version, MappingProxyType(metadata), tensors), manifest


def check_sections(folder: Path, manifest: Manifest, spec: ModelSpec) -> ModelSpec:
    """The model, with the folder's files as those that must be found when it is loaded.

    Raises:
        ModelFileError: a file is missing, or the folder holds something else than the model's panels.
    """
    folder = folder.absolute()
    sections = sections_of(spec)
    expected = tuple(map(entry_of, sections))
    if manifest.sections != expected:
        pairs = zip(manifest.sections, expected, strict=False)
        first = next((one for one, other in pairs if one != other), None)
        what = f"{len(manifest.sections)} sections, expected {len(expected)}"
        if first is not None:
            what = f"{one_line(' and '.join(first.tensors), 100)} where this numoe's panels would not be"
        raise ModelFileError("packed-sections", f"{folder / MANIFEST_FILE} has {what}; {ANEW}")
    return replace(spec, files=identities(folder, file_bytes(sections)))


def check_origin(folder: Path, manifest: Manifest, model: Path) -> None:
    """Raise ModelFileError unless `model` is the file that the folder was packed from."""
    found = origins_of(open_gguf(model))
    differences = [one.differs_from(other) for one, other in zip(manifest.packed_from, found, strict=False)]
    if len(found) != len(manifest.packed_from):
        differences.append(f"{model} is {len(found)} files, it was packed from {len(manifest.packed_from)}")
    for difference in filter(None, differences):
        raise ModelFileError("packed-origin", f"{folder} was packed from another model: {difference}; {ANEW}")


def _tensors(folder: Path, entries: tuple[DirectoryEntry, ...]) -> Iterator[TensorInfo]:
    for entry in entries:
        type_, shape = TensorType.__members__.get(entry.type), entry.shape
        sound = type_ is not None and 0 < len(shape) <= MOST_DIMENSIONS and min(shape) > 0
        if type_ is None or not sound or shape[-1] % BLOCKS[type_][0]:
            what = f"{one_line(entry.name, 80)}: {one_line(entry.type, 20)} of the shape {shape}"
            raise ModelFileError(
                "packed-manifest", f"{folder / MANIFEST_FILE} has a tensor that is none, {what}; {ANEW}"
            )
        yield TensorInfo(entry.name, type_, shape, folder, 0, math.prod(shape[:-1]) * row_bytes(type_, shape[-1]))
