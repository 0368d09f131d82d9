"""How the files of KV blocks are called and laid out that workers write and the coordinator puts in their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WRITTEN_SUFFIX = ".written"  # of a file that is not in its place yet
SLOT_MAGIC = b"numoe slot 1    "  # a file of a slot begins with it; behind it are the records of its blocks


def file_name(key: bytes) -> str:
    """Of the block of a key, in its place."""
    return key.hex()


def written_name(key: bytes) -> str:
    """The same, beside its place while it is written."""
    return f"{file_name(key)}{WRITTEN_SUFFIX}"


@dataclass(frozen=True, slots=True)
class BlockPart:
    """What of each block one worker holds; workers that share heads hold the same part."""

    identity: str  # of all that the bits follow from: model, arithmetic, formats; in hexadecimal
    name: str  # which layers and KV heads
    record_bytes: int  # of a block's record


def records_at(parts: Sequence[BlockPart], block: int) -> dict[str, int]:
    """Where in a file of a slot the records of its block number `block` begin, by the names of parts.

    Of each block there are the records of all parts, one after the other.
    """
    place, places = len(SLOT_MAGIC) + block * sum(part.record_bytes for part in parts), dict[str, int]()
    for part in parts:
        places[part.name] = place
        place += part.record_bytes
    return places
