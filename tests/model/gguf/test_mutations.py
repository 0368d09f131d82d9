"""However a file is damaged, it is read or refused by a typed error: no other exception, no hang, little memory."""

from __future__ import annotations

import random
import resource
import signal
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from numoe.model.architectures.reading import model_spec
from numoe.model.gguf.model_file import GgufFile, open_gguf
from numoe.model.gguf.values import Strings
from numoe.protos.errors import ModelFileError, UnsupportedModel
from tests.model.architectures.model_bytes import model_bytes
from tests.model.gguf.gguf_bytes import sound_file, write
from tests.model.gguf.gguf_oracle import assert_read_alike

MUTATIONS = 2000
SECONDS = 1.0  # of processor time for one file
EXTRA_BYTES = 256 << 20  # of address space for all of them

DIRECTORY_BYTES = 2500  # where keys and tensor infos lie in the files below; beyond is data, which is never looked at
WORDS = [0, 1, 2, 3, 5, 8, 9, 31, 32, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, 1 << 63]
WORDS += [(1 << 64) - 1, (1 << 64) - 8, (1 << 64) - 32]

Mutation = Callable[[random.Random, bytearray], None]


def place(chance: random.Random, content: bytearray) -> int:
    """Mostly in the header and the directory."""
    return chance.randrange(min(len(content), DIRECTORY_BYTES) if chance.random() < 0.95 else len(content))


def flip(chance: random.Random, content: bytearray) -> None:
    for _ in range(chance.choice([1, 1, 2, 8])):
        content[place(chance, content)] ^= 1 << chance.randrange(8)


def overwrite(chance: random.Random, content: bytearray) -> None:
    content[place(chance, content)] = chance.randrange(256)


def truncate(chance: random.Random, content: bytearray) -> None:
    del content[place(chance, content) :]


def edit_length(chance: random.Random, content: bytearray) -> None:
    """Writes a number that is likely to hurt where a count, a length or an offset may be."""
    word = chance.choice(WORDS) if chance.random() < 0.7 else chance.randrange(1000)
    raw = struct.pack("<Q", word)[: chance.choice([4, 8])]
    directory = content[:DIRECTORY_BYTES]
    known = [index for index in range(len(directory) - 8) if directory[index + 1 : index + 8] == bytes(7)]
    start = chance.choice(known) if known and chance.random() < 0.8 else place(chance, content)
    content[start : start + len(raw)] = raw


def splice(chance: random.Random, content: bytearray) -> None:
    start, source, size = place(chance, content), place(chance, content), chance.randrange(1, 64)
    piece = content[source : source + size]
    content[start : start + chance.choice([0, size])] = piece


def cut_out(chance: random.Random, content: bytearray) -> None:
    start = place(chance, content)
    del content[start : start + chance.randrange(1, 64)]


MUTATIONS_OF: list[Mutation] = [flip, overwrite, truncate, edit_length, edit_length, splice, cut_out]


def read_all(path: Path) -> GgufFile:
    """Opens the file, decodes its strings and describes its model, as far as that goes."""
    file = open_gguf(path)
    for value in file.metadata.values():
        if isinstance(value, Strings):
            list(value)
    return file


def outcome(path: Path) -> str:
    try:
        model_spec(read_all(path))
    except ModelFileError as error:
        return error.reason
    except UnsupportedModel:
        return "unsupported"
    return "accepted"


@contextmanager
def guarded() -> Iterator[Callable[[], None]]:
    """Limits the address space, and with each call of what it yields, the processor time until the next."""

    def restart() -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"one file took more than {SECONDS} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    # The virtual timer counts our own processor time; the real one belongs to the test runner.
    before = signal.signal(signal.SIGVTALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + EXTRA_BYTES, hard))
    try:
        yield restart
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGVTALRM, before)


def mutants(seed: int, count: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    sound = [sound_file(), model_bytes("qwen3moe"), model_bytes("llama"), model_bytes("mixtral")]
    for _ in range(count):
        content = bytearray(chance.choice(sound))
        for _ in range(chance.choice([1, 1, 1, 2, 4])):
            if content:
                chance.choice(MUTATIONS_OF)(chance, content)
        yield bytes(content)


def test_mutated_files_are_read_or_refused_by_a_typed_error(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    with guarded() as restart:
        for content in mutants(seed=1, count=MUTATIONS):
            restart()
            outcomes[outcome(write(tmp_path, content))] += 1
    assert outcomes.total() == MUTATIONS
    # Mutations that were all refused at the door, or all harmless, would show nothing.
    assert outcomes["accepted"] > MUTATIONS // 50
    assert len(outcomes) > 20, outcomes


def test_mutated_files_that_are_read_are_read_as_the_gguf_package_reads_them(tmp_path: Path) -> None:
    compared = 0
    for content in mutants(seed=2, count=400):
        path = write(tmp_path, content)
        try:
            file = read_all(path)
        except ModelFileError:
            continue
        # The package flattens arrays in arrays, so that they cannot be compared.
        if "nested" not in file.metadata:
            assert_read_alike(path)
            compared += 1
    assert compared > 40


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    content = sound_file()
    path = tmp_path / "model.gguf"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ModelFileError):
            open_gguf(path)
    path.write_bytes(content)
    assert len(open_gguf(path).tensors) == 2
