"""A shard's own byte ranges of a packed folder, read, compared with their hashes, and put where they are to lie.

Every reading thread has memory of its own, into which the disk writes; a slice is hashed there and copied from there
while it is in a cache of the CPU.

*Guarantees*: nothing that is other than what was packed gets into a worker's memory, whichever byte it is. That all
weights are numbers was looked at while they were packed, and is not looked at again.

*Rejected*: mapping the files, whose pages are the system's, on any node, and not huge; reading straight to where bytes
are to lie, as disks want whole blocks, which panels are not, and a hash of them would come after they are there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.packed.hashes import HASH_BYTES, HASH_NAME, hash_of
from numoe.model.packed.manifest import ANEW, HASHES_FILE, read_summed
from numoe.model.packed.sections import Section, sections_of
from numoe.protos.errors import ModelFileError
from numoe.worker.loading.arrangement import Arrangement, Block
from numoe.worker.loading.direct_files import DirectFiles, span_of
from numoe.worker.loading.files import Files
from numoe.worker.placing.memory import allocate

Bytes = NDArray[np.uint8]

READ_BYTES = 4 << 20  # per read: large enough for full disk speed, small enough to stay in the L2/L3 until it is hashed
READERS = 2  # per thread that computes: one waits for the disk while another one hashes; 3 and 4 were no faster


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
        return self.section.strides_of(self.first)[0], self.section.strides_of(self.stop - 1)[1]

    @property
    def own(self) -> tuple[int, int]:
        """The same of those that the block has."""
        start, stop = self.strides
        return max(start, self.block.first), min(stop, self.block.first + self.block.count)


class PackedSource:
    """Reads what a packed folder holds."""

    def __init__(self, files: Files, folder: Path, spec: ModelSpec) -> None:
        self._files, self._folder, self._own = DirectFiles(files), folder, threading.local()
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
        lock = threading.Lock()

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
        """Read slices, and copy own strides of them to memory; returns how many bytes are own."""
        section, block, (start, stop), (own_start, own_stop) = read.section, read.block, read.strides, read.own
        place = block.offset + (own_start - block.first) * block.stride
        own = memory[place : place + (own_stop - own_start) * block.stride].reshape(-1, block.stride)
        path, size = self._folder / section.file, (stop - start) * block.stride
        offset = section.offset_of(block.expert, start)
        found = self._files.read(path, offset, size, self._memory_of(span_of(size))).reshape(-1, block.stride)
        for slice_ in range(read.first, read.stop):
            first, last = section.strides_of(slice_)
            self._check(section, block.expert, slice_, found[first - start : last - start])
            first, last = max(first, own_start), min(last, own_stop)
            own[first - own_start : last - own_start] = found[first - start : last - start]
        return own.size

    def _memory_of(self, size: int) -> Bytes:  # [size] aligned
        """Memory of this thread to read into."""
        memory: Bytes | None = getattr(self._own, "memory", None)
        if memory is None or memory.size < size:
            memory = self._own.memory = allocate(max(size, span_of(READ_BYTES)))
        return memory[:size]

    def _check(self, section: Section, expert: int, slice_: int, data: Bytes) -> None:
        place = HASH_BYTES * (section.first_hash + expert * section.slices + slice_)
        found, expected = hash_of(data), self._hashes[place : place + HASH_BYTES]
        if found != expected:
            first, last = section.strides_of(slice_)
            span = f"bytes {section.offset_of(expert, first)} to {section.offset_of(expert, last)}"
            what = f"{' and '.join(section.key[0])}{f', expert {expert}' if section.experts > 1 else ''}"
            hashes = f"their {HASH_NAME} is {found.hex()[:16]}..., expected {expected.hex()[:16]}..."
            problem = f"{self._folder / section.file}: {span} ({what}) were changed or damaged: {hashes}"
            raise ModelFileError("packed-damaged", f"{problem}; copy the folder again, or {ANEW}")
