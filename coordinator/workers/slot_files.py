"""Files of slots: what a request has left in blocks, to be read again by this service or the next one.

    SLOT_MAGIC | the records of block 0, of block 1, ... | description | [8] its length | [32] its BLAKE3

The records are the workers' (worker/running/block_records.py), at places of protos/kv_files.py; the description is JSON
of the tokens and of whose records they are. A file is written beside its place, of which it takes the old one's when it
is whole.

*Guarantees*: a file is in its place whole or not at all; nothing of one that was changed, or is of another model, other
formats or kernels, or other shares of heads, gets into the cache; no name leads out of the folder.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Annotated, Any
from unicodedata import category

import msgspec
import numpy as np
from blake3 import blake3

from numoe.coordinator.cluster.ray_calls import inside_ray
from numoe.coordinator.engine.executor import SavedSlot
from numoe.coordinator.engine.kv.block_keys import BlockKeys
from numoe.coordinator.engine.kv.slot_orders import Blocks, Found
from numoe.coordinator.engine.kv.slots import Left
from numoe.coordinator.settings import EngineSettings
from numoe.coordinator.workers.kv_store import SAVED_AT_ONCE
from numoe.protos.errors import InvalidRequest, SetupError, Unavailable
from numoe.protos.expert_reduction import ExpertReduction
from numoe.protos.kv_files import SLOT_MAGIC, WRITTEN_SUFFIX, BlockPart, records_at

NAME_BYTES = 255  # as file systems have it
MOST_DESCRIPTION_BYTES = 16 << 20  # a million tokens take 7
LENGTH_BYTES, DIGEST_BYTES = 8, 32
OWN = ".numoe-slot-"  # what files are called while they are written
FIELD = "filename"
_FOREIGN = '/\\:*?"<>|\ufffd\ufeff'  # as llama-server refuses them, on whichever system

Ask = Callable[..., list[Any]]  # has every worker run a method with arguments; may raise WorkerLost

Token = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class _Description(msgspec.Struct, forbid_unknown_fields=True):
    """Of a file's records."""

    identity: str
    parts: list[str]
    record_bytes: list[int]
    experts: tuple[int, float]
    tokens: list[Token]


class SlotFiles:
    """Implements SlotStore (engine/executor.py) over the workers of one group."""

    def __init__(self, folder: Path, block_positions: int, ask: Ask) -> None:
        self._folder, self._size, self._ask = folder, block_positions, ask
        self._parts: tuple[BlockPart, ...] = ()

    def open_folder(self, parts: Sequence[BlockPart]) -> None:
        """The workers hold these parts of each block. Raises SetupError."""
        self._parts = tuple({part.name: part for part in parts}.values())
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in self._folder.glob(f"{OWN}*{WRITTEN_SUFFIX}"):
                left.unlink(missing_ok=True)  # a service ended while it was written
        except OSError as error:
            raise SetupError(f"--slot-save-path {self._folder} cannot be used: {error.strerror}") from error

    def save(self, name: str, found: Found, unchanged: Callable[[int], int]) -> tuple[int, int]:
        place = self._place_of(name)
        written = self._folder / f"{OWN}{secrets.token_hex(8)}{WRITTEN_SUFFIX}"
        try:
            descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(SLOT_MAGIC)
            blocks = self._write_blocks(written, found, unchanged)
            with written.open("r+b") as file:
                size = self._describe(file, found.left.first(blocks))
            written.replace(place)
        except OSError as error:
            raise Unavailable(f"{name} cannot be written into --slot-save-path: {error.strerror or error}") from error
        finally:
            written.unlink(missing_ok=True)
        return blocks, size

    def _write_blocks(self, path: Path, found: Found, unchanged: Callable[[int], int]) -> int:
        """How many were written before one that was taken for something else meanwhile. Raises OSError, WorkerLost."""
        for first in range(0, len(found.blocks), SAVED_AT_ONCE):
            some = found.blocks[first : first + SAVED_AT_ONCE]
            places = [records_at(self._parts, first + place) for place in range(len(some))]
            with inside_ray():
                failed = next(filter(None, self._ask("save_slot_blocks", some, path, places)), "")
            if failed:
                raise OSError(failed)
            for place, (block, _) in enumerate(some, first):
                if unchanged(block) != found.versions[place]:
                    return place
        return len(found.blocks)

    def _describe(self, file: IO[bytes], left: Left) -> int:
        """Writes what follows the records; returns how long the file is. Raises OSError."""
        experts = left.experts.fewest, left.experts.threshold
        names, sizes = [part.name for part in self._parts], [part.record_bytes for part in self._parts]
        described = _Description(self._parts[0].identity, names, sizes, experts, left.tokens.tolist())
        text = msgspec.json.encode(described)
        file.seek(len(SLOT_MAGIC) + len(left.keys) * sum(sizes))
        file.truncate()
        file.write(text + len(text).to_bytes(LENGTH_BYTES, "little") + blake3(text).digest())
        return file.tell()

    def open(self, name: str) -> SavedSlot:
        path = self._place_of(name)
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                described, records = _read_description(file, size)
        except FileNotFoundError as error:
            raise _unfit(f"{name} is not in --slot-save-path: save a slot under this name first") from error
        except OSError as error:
            raise _unfit(f"{name} cannot be read from --slot-save-path: {error.strerror}") from error
        blocks, rest = divmod(len(described.tokens), self._size) if described else (0, 1)
        if described is None or rest or records != blocks * sum(described.record_bytes):
            raise _unfit(f"{name} is no whole file of a slot: save it anew")
        self._refuse_foreign(name, described)
        tokens, experts = np.array(described.tokens, np.int32), ExpertReduction(*described.experts)
        left = Left(tokens, experts, BlockKeys(experts, tokens, self._size).between(0, blocks))
        numbers = {key: number for number, key in enumerate(left.keys)}

        def read(some: Blocks) -> int:
            places = [records_at(self._parts, numbers[key]) for _, key in some]
            for answer in self._ask("restore_slot_blocks", some, path, places) if some else ():
                if wrong := next(filter(None, answer), ""):
                    raise _unfit(f"{name} {wrong}: save it anew")
            return len(some)

        return SavedSlot(left, size, read)

    def _refuse_foreign(self, name: str, described: _Description) -> None:
        own = [part.name for part in self._parts]
        if described.identity != self._parts[0].identity:
            other = "of another model, by other kernels, or with other formats of keys and values"
            raise _unfit(f"{name} was saved {other}: run the prompt and save it anew")
        if described.parts != own:
            theirs = f"{len(described.parts)} workers ({'; '.join(described.parts)[:100]})"
            raise _unfit(f"{name} was saved by {theirs}, found {len(own)}: start the service with as many")

    def check(self, name: str) -> None:
        if why := _why_no_name(name):
            raise _unfit(f"{why}; expected the name of a file, without folders")

    def _place_of(self, name: str) -> Path:
        """Raises InvalidRequest where a name is none, or leads out of the folder."""
        self.check(name)
        return self._folder / name


def slot_files_of(settings: EngineSettings, block_positions: int, ask: Ask) -> SlotFiles | None:
    """None: nobody said where."""
    folder = settings.slot_save_path
    return None if folder is None else SlotFiles(folder.absolute(), block_positions, ask)


def _read_description(file: IO[bytes], size: int) -> tuple[_Description | None, int]:
    """And how long the records before it are; None: it is none of ours, or not as it was written. Raises OSError."""
    tail = LENGTH_BYTES + DIGEST_BYTES
    if size < len(SLOT_MAGIC) + tail or file.read(len(SLOT_MAGIC)) != SLOT_MAGIC:
        return None, 0
    file.seek(size - tail)
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    digest = file.read(DIGEST_BYTES)
    if length > min(MOST_DESCRIPTION_BYTES, size - tail - len(SLOT_MAGIC)):
        return None, 0
    file.seek(size - tail - length)
    text = file.read(length)
    if blake3(text).digest() != digest:
        return None, 0
    try:
        return msgspec.json.decode(text, type=_Description), size - tail - length - len(SLOT_MAGIC)
    except msgspec.DecodeError:
        return None, 0


def _why_no_name(name: str) -> str:
    """What llama-server refuses as well, and what files are called that are being written."""
    size = len(name.encode(errors="surrogatepass"))
    if not 1 <= size <= NAME_BYTES:
        return f"has {size} bytes, expected 1 to {NAME_BYTES}"
    if foreign := next((c for c in name if c in _FOREIGN or category(c) in ("Cc", "Cs")), ""):
        return f"has the character {foreign!r}"
    if name[0] == " " or name[-1] in " ." or ".." in name or name.startswith(OWN):
        return f"begins with a blank or {OWN}, ends with a blank or a dot, or has two dots in a row"
    return ""


def _unfit(problem: str) -> InvalidRequest:
    return InvalidRequest(FIELD, problem)
