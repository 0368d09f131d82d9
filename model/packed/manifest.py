"""What a packed folder says of itself, and the file of hashes that makes it whole.

    SHA256SUMS       of the three below, as `sha256sum -c` reads it; written last: without it a folder is not complete
    manifest.json    version, layout, what it was packed from, tensors, sections
    metadata.gguf    a GGUF file of the model's keys and values, and no tensors
    hashes           a BLAKE3 of every slice of every section, 32 bytes each
    *.panels         see sections.py
    unfinished       from the first byte on until all is written; whoever packs holds a lock on it

*Guarantees*: a byte that is other than what was written, in any of these files, is found before it is used: in the
first three when a folder is opened, in the hashes and panels by the worker that reads them. A manifest that was made up
chooses no place in memory or of a file: those follow from the model's sizes, and must be what it says.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

import msgspec

from numoe.model.gguf.file_identity import FileIdentity, identity_of
from numoe.model.packed.origin import Origin
from numoe.model.packed.sections import Section
from numoe.model.planning.panels import PANEL_LAYOUT
from numoe.protos.errors import ModelFileError
from numoe.protos.foreign_text import one_line

VERSION = 2  # of what is written here and in sections.py
KIND = "numoe packed model"
SUMS_FILE, MANIFEST_FILE, METADATA_FILE, HASHES_FILE = "SHA256SUMS", "manifest.json", "metadata.gguf", "hashes"
UNFINISHED_FILE = "unfinished"
SUMMED = (MANIFEST_FILE, METADATA_FILE, HASHES_FILE)
ANEW = "pack the model anew with `numoe pack`"


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """A tensor as the GGUF file's directory had it."""

    name: str
    type: str
    shape: tuple[int, ...]  # outermost first


@dataclass(frozen=True, slots=True)
class SectionEntry:
    """Where a section lies, for people, and to be compared with where it is looked for."""

    tensors: tuple[str, ...]
    panels: bool
    file: str
    offset: int
    bytes: int
    stride: int
    slice: int
    first_hash: int
    hashes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What manifest.json says."""

    kind: str
    version: int
    layout: int  # of panels
    numoe: str  # the version that wrote it
    model: str  # its name
    weights: str  # what was found of them while they were packed
    packed_from: tuple[Origin, ...]
    tensors: tuple[DirectoryEntry, ...]
    sections: tuple[SectionEntry, ...]


class _Versions(msgspec.Struct):
    """What is read first: all else may be other in other versions."""

    kind: str
    version: int
    layout: int


def entry_of(section: Section) -> SectionEntry:
    """What the manifest says of a section."""
    return SectionEntry(
        tensors=section.key[0],
        panels=section.packed,
        file=section.file,
        offset=section.offset,
        bytes=section.bytes,
        stride=section.stride,
        slice=section.slice,
        first_hash=section.first_hash,
        hashes=section.hashes,
    )


def encode(manifest: Manifest) -> bytes:
    """As JSON, a line for every tensor and section, to be read by people too."""
    lines = []
    for field in fields(manifest):
        value = getattr(manifest, field.name)
        said = msgspec.json.encode(value).decode()
        if isinstance(value, tuple):
            said = "[\n  " + ",\n  ".join(msgspec.json.encode(one).decode() for one in value) + "\n ]"
        lines.append(f' "{field.name}": {said}')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a complete folder, whose hashes are right. Raises ModelFileError."""
    files = read_summed(folder)
    where = folder / MANIFEST_FILE
    try:
        found = msgspec.json.decode(files[MANIFEST_FILE], type=_Versions)
        if found.kind != KIND:
            _fail("packed-kind", f"{where} is of kind {one_line(found.kind, 60)!r}, expected {KIND!r}; {ANEW}")
        if found.version != VERSION:
            _fail("packed-version", f"{where} has version {found.version}, this numoe reads {VERSION}; {ANEW}")
        if found.layout != PANEL_LAYOUT:
            lies = f"the panels of {folder} have layout {found.layout}, this numoe's kernels read {PANEL_LAYOUT}"
            _fail("packed-layout", f"{lies}; {ANEW}")
        return msgspec.json.decode(files[MANIFEST_FILE], type=Manifest)
    except msgspec.DecodeError as error:
        _fail("packed-manifest", f"{where} is not what `numoe pack` writes: {one_line(str(error))}; {ANEW}")


def read_summed(folder: Path) -> dict[str, bytes]:
    """[name] what the files that SHA256SUMS names hold. Raises ModelFileError: one is not what was written."""
    sums = _read_whole(folder / SUMS_FILE)
    files = {name: _read_whole(folder / name) for name in SUMMED}
    expected = sums_of(files)
    if sums != expected:
        stated = dict(zip(SUMMED, sums.splitlines(), strict=False))
        changed = [name for name, line in zip(SUMMED, expected.splitlines(), strict=True) if stated.get(name) != line]
        names = " and ".join(changed) or "its last line"
        problem = f"{names} of {folder} and {SUMS_FILE} there do not agree: one of them was changed or damaged"
        _fail("packed-damaged", f"{problem}; copy the folder again, or {ANEW}")
    return files


def sums_of(files: dict[str, bytes]) -> bytes:
    """What SHA256SUMS says of these files."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in SUMMED).encode()


def refuse_incomplete(folder: Path) -> NoReturn:
    """Say what is there instead of a packed model."""
    if not folder.is_dir():
        found = "something else" if folder.exists() else "nothing"
        _fail("packed-not-found", f"{folder}: expected a folder that `numoe pack` made, found {found}")
    if (folder / UNFINISHED_FILE).exists():
        _fail("packed-unfinished", f"{folder}: packing it was not finished; {ANEW}, which begins from the start")
    _fail("packed-not-found", f"{folder} holds no {SUMS_FILE}: it is no packed model, or not all of it; {ANEW}")


def identities(folder: Path, sizes: dict[str, int]) -> tuple[FileIdentity, ...]:
    """The files of a folder as they are now. Raises ModelFileError: one is missing or not of its size."""
    found = []
    for name in (*SUMMED, *sizes):
        path = folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            _fail("packed-file", f"{path} cannot be opened: {error.strerror}; copy the folder again, or {ANEW}")
        try:
            found.append(identity_of(path, descriptor))
        finally:
            os.close(descriptor)
        if name in sizes and found[-1].bytes != sizes[name]:
            problem = f"{path} has {found[-1].bytes} bytes, expected {sizes[name]}"
            _fail("packed-damaged", f"{problem}; copy the folder again, or {ANEW}")
    return tuple(found)


def _read_whole(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        if path.name == SUMS_FILE and not path.exists():
            refuse_incomplete(path.parent)
        _fail("packed-file", f"{path} cannot be read: {error.strerror}; copy the folder again, or {ANEW}")


def _fail(reason: str, message: str) -> NoReturn:
    raise ModelFileError(reason, message)
