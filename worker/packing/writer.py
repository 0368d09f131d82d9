"""Writes the panels of a model's matrices into a folder, slice by slice, and the hash of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from numoe.model.architectures.spec import ModelSpec
from numoe.model.packed.hashes import HASH_BYTES, hash_of
from numoe.model.packed.manifest import HASHES_FILE
from numoe.model.packed.sections import Section, file_bytes, sections_of
from numoe.model.planning.panels import panel_bytes
from numoe.model.planning.plan import PANEL_ROWS
from numoe.worker.loading.files import Files
from numoe.worker.loading.gguf_source import GgufSource

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Slice:
    """Some strides of one expert, which share a hash."""

    section: Section
    expert: int
    number: int

    @property
    def strides(self) -> tuple[int, int]:
        """From which stride of the expert to which."""
        return self.section.strides_of(self.number)

    @property
    def hash(self) -> int:
        """Its place among all hashes."""
        return self.section.first_hash + self.expert * self.section.slices + self.number


def write_panels(spec: ModelSpec, folder: Path, threads: int, report: Callable[[int], None]) -> None:
    """Write all files of panels, and that of their hashes; `report` receives the bytes of each slice once written.

    Raises:
        ModelFileError: the model is not what it was when it was opened, or holds a weight that is no number.
        OSError: it cannot be read, or the folder not written.
    """
    sections = sections_of(spec)
    hashes = np.zeros((sum(section.hashes for section in sections), HASH_BYTES), np.uint8)
    files, lock = Files(spec.files), Lock()
    source = GgufSource(files)
    written: dict[str, int] = {}

    def run(slice_: Slice) -> None:
        made = slice_bytes(source, slice_)
        hashes[slice_.hash] = np.frombuffer(hash_of(made), np.uint8)
        _write(written[slice_.section.file], slice_.section.offset_of(slice_.expert, slice_.strides[0]), made)
        with lock:
            report(made.size)

    try:
        for name in file_bytes(sections):
            written[name] = _create(folder / name)
        with ThreadPoolExecutor(threads, thread_name_prefix="pack") as pool:
            for _ in pool.map(run, _slices(sections)):
                pass
        files.check()
        written[HASHES_FILE] = _create(folder / HASHES_FILE)
        _write(written[HASHES_FILE], 0, hashes.reshape(-1))
        for descriptor in written.values():
            os.fsync(descriptor)
    finally:
        files.close()
        for descriptor in written.values():
            os.close(descriptor)


def slice_bytes(source: GgufSource, slice_: Slice) -> Bytes:
    """What a slice holds. Raises ModelFileError, OSError."""
    section, (first, stop) = slice_.section, slice_.strides
    made = np.empty((stop - first, section.stride), np.uint8)
    if not section.packed:
        [tensor] = section.tensors
        if len(tensor.shape) == 1:
            return source.vector(tensor).view(np.uint8)
        source.rows(tensor, first, made)
        return made.reshape(-1)
    start = 0
    for tensor in section.tensors:
        rows = min(stop * PANEL_ROWS, section.rows) - first * PANEL_ROWS
        source.panels(tensor, slice_.expert * section.rows + first * PANEL_ROWS, rows, made, start)
        start += panel_bytes(tensor)
    return made.reshape(-1)


def _slices(sections: Sequence[Section]) -> Iterator[Slice]:
    for section in sections:
        for expert in range(section.experts):
            for number in range(section.slices):
                yield Slice(section, expert, number)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)


def _write(descriptor: int, offset: int, data: Bytes) -> None:
    done = 0
    while done < data.size:
        done += os.pwrite(descriptor, data.data[done:], offset + done)
