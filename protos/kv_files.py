"""How the files of KV blocks are called that workers write and the coordinator puts in their places."""

from __future__ import annotations

WRITTEN_SUFFIX = ".written"  # of a file that is not in its place yet


def file_name(key: bytes) -> str:
    """Of the block of a key, in its place."""
    return key.hex()


def written_name(key: bytes) -> str:
    """The same, beside its place while it is written."""
    return f"{file_name(key)}{WRITTEN_SUFFIX}"
