"""What a folder was packed from, so that a file which is named beside it can be told to be another one.

Of each file: its length, and one SHA-256 of its header (metadata and tensor directory) and of the first 4 KiB of every
tensor. *Not guaranteed*: that a file of the same header, in which somebody changed a weight further on, is told from
it; that would take as long as reading all of it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from numoe.model.gguf.model_file import GgufFile

SAMPLE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Origin:
    """One file of a model."""

    name: str  # for people: a file may be moved or called otherwise
    bytes: int
    sha256: str  # of header and samples, see above

    def differs_from(self, other: Origin) -> str:
        """How another file is not the same, in words; "": it is."""
        if self.bytes != other.bytes:
            return f"{other.name} has {other.bytes} bytes, {self.name} had {self.bytes}"
        if self.sha256 != other.sha256:
            return f"{other.name} has other metadata or weights than {self.name} had"
        return ""


def origins_of(file: GgufFile) -> tuple[Origin, ...]:
    """What tells the files of a model from others. Raises OSError."""
    found = []
    for identity in file.identities:
        starts = sorted(tensor.offset for tensor in file.tensors.values() if tensor.path == identity.path)
        digest = hashlib.sha256()
        descriptor = os.open(identity.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            identity.check(descriptor)
            digest.update(os.pread(descriptor, starts[0] if starts else identity.bytes, 0))
            for start in starts:
                digest.update(os.pread(descriptor, SAMPLE_BYTES, start))
        finally:
            os.close(descriptor)
        found.append(Origin(identity.path.name, identity.bytes, digest.hexdigest()))
    return tuple(found)
