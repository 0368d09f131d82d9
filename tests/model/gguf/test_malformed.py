"""Every known way to malform a GGUF file is refused by name, at once and without much memory."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.model.gguf import gguf_bytes as g
from tests.model.gguf.gguf_bytes import (
    ARRAY,
    BOOL,
    HUGE,
    STRING,
    U8,
    U16,
    U32,
    U64,
    array,
    array_key,
    gguf,
    key,
    string,
)
from tests.model.gguf.gguf_bytes import tensor as t
from tests.model.gguf.refusal import refusal

ONE = key("one", U32, 1)
ROW = bytes(32 * 4)


def deep(depth: int) -> bytes:
    """Arrays in arrays, `depth` of them."""
    value = array(U8, [1])
    for _ in range(depth - 1):
        value = array(ARRAY, [value])
    return array_key("deep", value)


def aligned(value: int, kind: int = U32) -> bytes:
    return key("general.alignment", kind, value)


MALFORMED: dict[str, tuple[bytes, str]] = {
    # The header.
    "empty file": (b"", "empty"),
    "only the magic": (b"GGUF", "truncated"),
    "wrong magic": (gguf(magic=b"GGML"), "bad-magic"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "bad-magic"),
    "version 0": (gguf(version=0), "version-unknown"),
    "version 1": (gguf(version=1), "version-1"),
    "version 4": (gguf(version=4), "version-unknown"),
    "version -1": (gguf(version=0xFFFFFFFF), "version-unknown"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "header cut in the counts": (gguf()[:20], "truncated"),
    "tensor count beyond the file": (gguf(tensor_count=1), "truncated"),
    "tensor count huge": (gguf(tensor_count=1 << 40), "too-many-tensors"),
    "tensor count negative": (gguf(tensor_count=HUGE), "too-many-tensors"),
    "key count beyond the file": (gguf([ONE], key_count=2), "truncated"),
    "key count huge": (gguf([ONE], key_count=1 << 40), "too-many-keys"),
    "key count negative": (gguf([ONE], key_count=HUGE), "too-many-keys"),
    # Keys.
    "key empty": (gguf([key("", U32, 1)]), "key-empty"),
    "key twice": (gguf([ONE, key("two", U32, 2), ONE]), "key-duplicate"),
    "key not UTF-8": (gguf([key(b"\xff\xfe", U32, 1)]), "key-not-utf8"),
    "key longer than allowed": (gguf([key("k" * 65536, U32, 1)]), "key-too-long"),
    "key length 2^31": (gguf([string("k", 1 << 31)]), "key-too-long"),
    "key length negative": (gguf([string("k", HUGE)]), "key-too-long"),
    "key length beyond the file": (gguf([string("k", 100)]), "truncated"),
    # Values.
    "value type 13": (gguf([string("k") + struct.pack("<IQ", 13, 0)]), "value-type-unknown"),
    "value type negative": (gguf([string("k") + struct.pack("<iQ", -1, 0)]), "value-type-unknown"),
    "value missing": (gguf([string("k")]), "truncated"),
    "value cut": (gguf([key("k", U64, 1)])[:-1], "truncated"),
    "bool 2": (gguf([string("k") + struct.pack("<IB", BOOL, 2)]), "bool"),
    "bool 255 in an array": (gguf([array_key("k", struct.pack("<IQ", BOOL, 3) + b"\1\0\xff")]), "bool"),
    "string length beyond the file": (gguf([key("k", STRING, "s")[:-9] + string("s", 99)]), "truncated"),
    "string length huge": (gguf([key("k", STRING, "s")[:-9] + string("s", 1 << 62)]), "value-too-long"),
    "string length negative": (gguf([key("k", STRING, "s")[:-9] + string("s", HUGE)]), "value-too-long"),
    "string not UTF-8": (gguf([key("k", STRING, b"\xc3\x28")]), "value-not-utf8"),
    "strings larger than allowed": (
        gguf([key("a", STRING, "a" * (2 << 20)), key("b", STRING, "b" * (2 << 20))]),
        "metadata-too-large",
    ),
    # Arrays.
    "array of an unknown type": (gguf([array_key("k", struct.pack("<IQ", 99, 1) + b"x")]), "value-type-unknown"),
    "empty array of an unknown type": (gguf([array_key("k", struct.pack("<IQ", 99, 0))]), "value-type-unknown"),
    "array count beyond the file": (gguf([array_key("k", array(U16, [1], count=1000))]), "truncated"),
    "array count huge": (gguf([array_key("k", array(U8, [1], count=1 << 40))]), "array-too-long"),
    "array count times size wraps": (gguf([array_key("k", array(U64, [1], count=1 << 61))]), "array-too-long"),
    "string array count beyond the file": (gguf([array_key("k", array(STRING, ["a"], count=9))]), "truncated"),
    "string array count huge": (gguf([array_key("k", array(STRING, [], count=1 << 60))]), "array-too-long"),
    "string array count within the cap": (gguf([array_key("k", array(STRING, [], count=999_999))]), "truncated"),
    "string in an array beyond the file": (
        gguf([array_key("k", array(STRING, [], count=1) + string("s", 99))]),
        "truncated",
    ),
    "string in an array with a wrapping length": (
        gguf([array_key("k", array(STRING, [], count=2) + string("s", HUGE - 16) + string("x"))]),
        "truncated",
    ),
    "array of arrays count huge": (gguf([array_key("k", array(ARRAY, [], count=1 << 40))]), "array-too-long"),
    "arrays nested 5 deep": (gguf([deep(5)]), "array-too-deep"),
    "arrays nested 5000 deep": (gguf([deep(5000)]), "array-too-deep"),
    "many empty arrays": (gguf([array_key("k", array(ARRAY, [array(U8, [])] * 9000))]), "array-too-long"),
    # Alignment.
    "alignment 0": (gguf([aligned(0)]), "alignment"),
    "alignment 24": (gguf([aligned(24)]), "alignment"),
    "alignment 2^31": (gguf([aligned(1 << 31)]), "alignment"),
    "alignment of type u64": (gguf([aligned(32, U64)]), "alignment-type"),
    "alignment a string": (gguf([key("general.alignment", STRING, "32")]), "alignment-type"),
    "alignment an array": (gguf([array_key("general.alignment", array(U32, [32]))]), "alignment-type"),
    # Tensors.
    "tensor name longer than allowed": (gguf([], [t("n" * 65, (32,))], ROW), "tensor-name-too-long"),
    "tensor name length negative": (gguf([], [string("n", HUGE)]), "tensor-name-too-long"),
    "tensor name empty": (gguf([], [t("", (32,))], ROW), "tensor-name-empty"),
    "tensor name not UTF-8": (gguf([], [t(b"\x80", (32,))], ROW), "tensor-name-not-utf8"),
    "tensor twice": (gguf([], [t("n", (32,)), t("n", (32,), offset=128)], ROW * 2), "tensor-duplicate"),
    "no dimensions": (gguf([], [t("n", ())], ROW), "tensor-dimensions"),
    "5 dimensions": (gguf([], [t("n", (2, 1, 1, 1, 1))], ROW), "tensor-dimensions"),
    "2^32 - 1 dimensions": (gguf([], [t("n", (32,), dimensions=0xFFFFFFFF)], ROW), "tensor-dimensions"),
    "dimension zero": (gguf([], [t("n", (32, 0))], ROW), "tensor-dimension-zero"),
    "dimension negative": (gguf([], [t("n", (32, HUGE))], ROW), "tensor-dimension-negative"),
    "dimensions overflow 64 bits": (gguf([], [t("n", (1 << 32, 1 << 32))], ROW), "tensor-too-large"),
    "dimensions wrap to a small product": (gguf([], [t("n", (1 << 62, 4, 1 << 62, 4))], ROW), "tensor-too-large"),
    "bytes overflow 64 bits": (gguf([], [t("n", ((1 << 62) + 32,))], ROW), "tensor-too-large"),
    "tensor larger than the file": (gguf([], [t("n", (33,))], ROW), "tensor-outside-file"),
    "tensor type removed": (gguf([], [t("n", (32,), kind=4)], ROW), "tensor-type-unknown"),
    "tensor type of ik_llama.cpp": (gguf([], [t("n", (256,), kind=138)], ROW), "tensor-type-unknown"),
    "tensor type negative": (gguf([], [t("n", (32,), kind=0xFFFFFFFF)], ROW), "tensor-type-unknown"),
    "row no whole number of blocks": (gguf([], [t("n", (33, 32), kind=8)], ROW * 9), "tensor-row"),
    "offset misaligned": (gguf([], [t("n", (2,), offset=4)], ROW), "tensor-misaligned"),
    "offset beyond the file": (gguf([], [t("n", (32,), offset=1 << 20)], ROW), "tensor-outside-file"),
    "offset negative": (gguf([], [t("n", (32,), offset=HUGE - 31)], ROW), "tensor-outside-file"),
    "tensors overlap": (gguf([], [t("m", (32,)), t("n", (32,), offset=96)], ROW * 2), "tensor-overlap"),
    "tensors at one place": (gguf([], [t("m", (32,)), t("n", (32,))], ROW), "tensor-overlap"),
    "a gap before the first": (gguf([], [t("n", (32,), offset=32)], ROW * 2), "tensor-gap"),
    "a gap between two": (gguf([], [t("m", (8,)), t("n", (8,), offset=64)], ROW), "tensor-gap"),
    "a type of less bytes than lie there": (
        gguf([], [t("m", (32,), kind=1), t("n", (32,), offset=128)], ROW * 2),
        "tensor-gap",
    ),
    "data of a tensor that the directory lacks": (gguf([], [t("n", (32,))], ROW * 2), "tensor-gap"),
    "data of tensors where the directory has none": (gguf([], [], ROW * 2), "tensor-gap"),
    "data missing": (gguf([], [t("n", (32,))]), "tensor-outside-file"),
    "data one byte short": (gguf([], [t("n", (32,))], ROW[:-1]), "tensor-outside-file"),
    "data short by its own alignment": (gguf([aligned(4096)], [t("n", (32,))], ROW), "tensor-outside-file"),
    "directory cut": (gguf([], [t("n", (32,))])[:40], "truncated"),
}


@pytest.mark.parametrize(("content", "reason"), MALFORMED.values(), ids=list(MALFORMED))
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    error = refusal(g.write(tmp_path, content))
    assert error.reason == reason
    assert str(error).startswith(str(tmp_path / "model.gguf"))
    assert "\n" not in str(error)


@dataclass(frozen=True, slots=True)
class Sparse:
    """A file that is large but for the disk: `head`, then zeros up to `size`."""

    head: bytes
    size: int
    reason: str


SPARSE = {
    "a terabyte of zeros": Sparse(b"", 1 << 40, "bad-magic"),
    "a 5 GB string": Sparse(gguf([string("k") + struct.pack("<IQ", STRING, 5 << 30)]), 6 << 30, "value-too-long"),
    "numbers without end": Sparse(gguf([array_key("k", array(U64, [], 1 << 32))]), 1 << 40, "array-too-long"),
    "two large arrays": Sparse(gguf([array_key("k", array(U8, [], 30 << 20))], key_count=2), 1 << 30, "key-empty"),
    "metadata beyond the cap": Sparse(
        gguf([array_key("k", array(U8, [], 20 << 20) + bytes(20 << 20)), array_key("l", array(U8, [], 20 << 20))]),
        1 << 30,
        "metadata-too-large",
    ),
    "half a million empty strings": Sparse(
        gguf([array_key("k", array(STRING, [], 500_000))], key_count=2), 1 << 30, "key-empty"
    ),
    "8,192 tensors": Sparse(gguf(tensor_count=8192), 1 << 30, "tensor-name-empty"),
    "8,192 tensors at one place": Sparse(gguf([], [t(f"{n}", (32,)) for n in range(8192)]), 1 << 30, "tensor-overlap"),
    "8,192 keys, then nothing": Sparse(
        gguf([key(f"{n}", U32, n) for n in range(8192)], tensor_count=1), 1 << 30, "tensor-name-empty"
    ),
}


@pytest.mark.parametrize("sparse", SPARSE.values(), ids=list(SPARSE))
def test_a_large_malformed_file_is_refused_as_fast(tmp_path: Path, sparse: Sparse) -> None:
    path = g.write(tmp_path, sparse.head)
    os.truncate(path, sparse.size)
    assert refusal(path).reason == sparse.reason


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing": (lambda folder: folder / "absent.gguf", "not-found"),
    "a directory": (lambda folder: folder, "not-a-file"),
    "a device": (lambda folder: Path("/dev/zero"), "not-a-file"),
    "a path through a file": (lambda folder: g.write(folder, b"") / "model.gguf", "not-found"),
    "a name with a zero": (lambda folder: folder / "a\0b.gguf", "not-found"),
    "a name that is too long": (lambda folder: folder / ("n" * 300), "unreadable"),
}


@pytest.mark.parametrize(("place", "reason"), PLACES.values(), ids=list(PLACES))
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, place: Callable[[Path], Path], reason: str) -> None:
    assert refusal(place(tmp_path)).reason == reason


def test_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert refusal(tmp_path / "pipe.gguf").reason == "not-a-file"


def test_a_message_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    hostile = key("\x1b[2J\nroot#" + "x" * 60000, STRING, b"\xff")
    message = str(refusal(g.write(tmp_path, gguf([hostile]))))
    assert message.isprintable()
    assert len(message) < 1000
