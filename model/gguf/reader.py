"""Reads a GGUF file from front to back, within its end and within caps on what it may ask for.

*Guarantees*: every read is checked against the end of the file; what a file may make this process allocate or walk
is capped before it is allocated or walked; every fault is a ModelFileError that names its kind.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NoReturn

from numoe.protos.errors import ModelFileError
from numoe.protos.foreign_text import one_line

# Caps on what one file may ask for, each well above the largest file known.
METADATA_BYTES = 32 << 20  # Gemma 4's vocabulary, the largest known, takes 16 MB
TEXT_BYTES = 4 << 20  # keys and single strings, which become Python strings of up to 4 bytes a character
MOST_KEYS = 8192  # keys and nested arrays; real files hold about 50
MOST_STRINGS = 1_000_000  # strings in arrays; Gemma 4: 0.78 million; walking a million takes 80 ms
ARRAY_DEPTH = 4

DAMAGED = "the file is damaged or incomplete, fetch it again"

U32, U64 = struct.Struct("<I"), struct.Struct("<Q")


class Reader:
    """A position in one mapped file, and what is left of the caps."""

    __slots__ = ("data", "end", "keys_left", "path", "position", "size", "strings_left", "text_left")

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.end = min(self.size, METADATA_BYTES)
        self.position = 0
        self.keys_left = MOST_KEYS
        self.strings_left = MOST_STRINGS
        self.text_left = TEXT_BYTES

    def fail(self, reason: str, message: str) -> NoReturn:
        """Raise ModelFileError with the file's path and the message on one line."""
        raise ModelFileError(reason, f"{self.path}: {one_line(message)}")

    def skip(self, size: int, what: str) -> int:
        """Move past `size` bytes, all of them inside the file; returns where they start."""
        start = self.position
        if size > self.end - start:
            self.fail_beyond_end(what)
        self.position = start + size
        return start

    def fail_beyond_end(self, what: str) -> NoReturn:
        """Raise ModelFileError because `what` reaches beyond the end, of the file or of what metadata may take."""
        if self.end < self.size:
            self.fail("metadata-too-large", f"the metadata takes more than {METADATA_BYTES} bytes, up to {what}")
        self.fail("truncated", f"the file ends at byte {self.size}, inside {what}; {DAMAGED}")

    def u32(self, what: str) -> int:
        """The next 4 bytes as a number; `what` it is, for messages."""
        return int(U32.unpack_from(self.data, self.skip(4, what))[0])

    def u64(self, what: str) -> int:
        """The next 8 bytes as a number; `what` it is, for messages."""
        return int(U64.unpack_from(self.data, self.skip(8, what))[0])

    def text(self, what: str, kind: str, limit: int) -> str:
        """The next string, of at most `limit` bytes; if it is malformed, the reason of the fault begins with `kind`."""
        size = self.u64(f"the length of {what}")
        if size > limit:
            self.fail(f"{kind}-too-long", f"{what} has {size} bytes, at most {limit} are allowed; {DAMAGED}")
        self.text_left -= size
        if self.text_left < 0:
            self.fail("metadata-too-large", f"keys and strings take more than {TEXT_BYTES} bytes, up to {what}")
        start = self.skip(size, what)
        try:
            return str(self.data[start : start + size], "utf-8")
        except UnicodeDecodeError:
            self.fail(f"{kind}-not-utf8", f"{what} at byte {start} is not UTF-8; {DAMAGED}")
