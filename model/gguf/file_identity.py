"""Which file was read: a path may name another one later, when a model was replaced while it was served."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from numoe.protos.errors import ModelFileError


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """One file in one state, as the kernel tells of it."""

    path: Path
    device: int
    inode: int
    bytes: int
    modified_ns: int  # since 1970

    def check(self, descriptor: int) -> None:
        """Raise ModelFileError unless the open file `descriptor` is this one, as it was."""
        if identity_of(self.path, descriptor) != self:
            sizes = f"it had {self.bytes} bytes then, {os.fstat(descriptor).st_size} now"
            problem = f"{self.path} was changed or replaced since the model was planned by it: {sizes}"
            raise ModelFileError("changed", f"{problem}; start the service again to serve what is there now")


def identity_of(path: Path, descriptor: int) -> FileIdentity:
    """The identity of the open file `descriptor`, which was opened by `path`."""
    status = os.fstat(descriptor)
    return FileIdentity(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
