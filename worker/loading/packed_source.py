"""A shard's own byte ranges of a packed folder, read straight to where they are to lie and compared with their hashes.

*Guarantees*: nothing that is other than what was packed is taken, whichever byte it is. That all weights are numbers
was looked at while they were packed, and is not looked at again.

*Rejected*: mapping the files, whose pages are the system's, on any node, and not huge; O_DIRECT, which wants offsets
and addresses that are multiples of 512 or 4096, as panels are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.packed.manifest import ANEW, HASH_BYTES, HASHES_FILE, read_summed
from numoe.model.packed.sections import Section, sections_of
from numoe.protos.errors import ModelFileError
from numoe.worker.loading.arrangement import Arrangement, Block
from numoe.worker.loading.files import Files

Bytes = NDArray[np.uint8]

READ_BYTES = 4 << 20  # per read: large enough for full disk speed, small enough to stay in the L2/L3 until it is hashed
READERS = 2  # per thread that computes: one waits for the disk while another one hashes


@dataclass(frozen=True, slots=True)
class Read:
    """Consecutive slices of one expert, of which a block's own strides go to memory."""

    section: Section
    block: Block
    first: int  # slice
    stop: int

    @property
    def strides(self) -> tuple[int, int]:
        """From which stride of the expert to which."""
        return self.first * self.section.slice, min(self.stop * self.section.slice, self.section.strides)

    @property
    def own(self) -> tuple[int, int]:
        """The same of those that the block has."""
        start, stop = self.strides
        return max(start, self.block.first), min(stop, self.block.first + self.block.count)


class PackedSource:
    """Reads what a packed folder holds."""

    def __init__(self, files: Files, folder: Path, spec: ModelSpec) -> None:
        self._files, self._folder = files, folder
        self._sections = {section.key: section for section in sections_of(spec)}
        self._hashes = read_summed(folder)[HASHES_FILE]
        expected = HASH_BYTES * sum(section.hashes for section in self._sections.values())
        if len(self._hashes) != expected:
            found = f"{folder / HASHES_FILE} has {len(self._hashes)} bytes, expected {expected}"
            raise ModelFileError("packed-hashes", f"{found}; {ANEW}")

    def vector(self, tensor: TensorInfo) -> NDArray[np.float32]:  # [n]
        """A norm or bias."""
        values = np.zeros(tensor.shape[-1], np.float32)
        self._run(values.view(np.uint8), Block((tensor,), False, 0, 0, 1, 0, values.nbytes))
        return values

    def fill(self, memory: Bytes, arranged: Arrangement, threads: int, report: Callable[[int], None]) -> None:
        """Read all blocks of a shard into its memory."""
        lock = Lock()

        def run(read: Read) -> None:
            size = self._read(memory, read)
            with lock:
                report(size)

        with ThreadPoolExecutor(READERS * threads, thread_name_prefix="load") as pool:
            for _ in pool.map(run, [read for block in arranged.blocks for read in self._reads(block)]):
                pass

    def _run(self, memory: Bytes, block: Block) -> None:
        for read in self._reads(block):
            self._read(memory, read)

    def _reads(self, block: Block) -> Iterator[Read]:
        section = self._sections[tuple(tensor.name for tensor in block.tensors), block.packed]
        assert section.stride == block.stride, (section, block)
        step = max(1, READ_BYTES // (section.slice * section.stride))
        first, stop = block.first // section.slice, -(-(block.first + block.count) // section.slice)
        for start in range(first, stop if block.count else first, step):
            yield Read(section, block, start, min(start + step, stop))

    def _read(self, memory: Bytes, read: Read) -> int:
        """Read slices, own strides into memory and others beside it; returns how many bytes are own."""
        section, block, (start, stop), (own_start, own_stop) = read.section, read.block, read.strides, read.own
        place = block.offset + (own_start - block.first) * block.stride
        own = memory[place : place + (own_stop - own_start) * block.stride]
        before, after = (np.empty(count * block.stride, np.uint8) for count in (own_start - start, stop - own_stop))
        parts = [before, own, after]
        self._files.read(self._folder / section.file, section.offset_of(block.expert, start), parts)
        for slice_ in range(read.first, read.stop):
            first = (slice_ * section.slice - start) * section.stride
            last = (min((slice_ + 1) * section.slice, section.strides) - start) * section.stride
            self._check(section, block.expert, slice_, _sha256(parts, first, last))
        return own.size

    def _check(self, section: Section, expert: int, slice_: int, found: bytes) -> None:
        place = HASH_BYTES * (section.first_hash + expert * section.slices + slice_)
        expected = self._hashes[place : place + HASH_BYTES]
        if found != expected:
            first, last = slice_ * section.slice, min((slice_ + 1) * section.slice, section.strides)
            span = f"bytes {section.offset_of(expert, first)} to {section.offset_of(expert, last)}"
            what = f"{' and '.join(section.key[0])}{f', expert {expert}' if section.experts > 1 else ''}"
            hashes = f"their SHA-256 is {found.hex()[:16]}..., expected {expected.hex()[:16]}..."
            problem = f"{self._folder / section.file}: {span} ({what}) were changed or damaged: {hashes}"
            raise ModelFileError("packed-damaged", f"{problem}; copy the folder again, or {ANEW}")


def _sha256(parts: Sequence[Bytes], first: int, last: int) -> bytes:
    """The hash of a range of bytes that lie in several arrays, one behind the other."""
    digest, start = hashlib.sha256(), 0
    for part in parts:
        own = part[max(0, first - start) : max(0, last - start)]
        if own.size:
            digest.update(own.data)
        start += part.size
    return digest.digest()
