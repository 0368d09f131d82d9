"""The file of log-probabilities that llama-perplexity --kl-divergence-base writes, read and written.

    "_logits_" | n_ctx, n_vocab, n_chunk: int32 | tokens: int32 [n_chunk, n_ctx] | rows: uint16 [n_chunk * R, W]

R are the predictions of a chunk that count. A row is W = 4 + V words, one more where V is odd: a scale and the least
log-probability, both float32, then V numbers of 16 bits. ln p of a token is scale times its number plus the least; what
is less than 16 below the largest logit is raised to that. All of it is little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.measuring.evaluation import rows_of
from numoe.coordinator.measuring.texts import LEAST_CONTEXT
from numoe.protos.errors import SetupError

MAGIC = b"_logits_"
HEADER = struct.Struct("<8s3i")
LEVELS = 65535
DEEPEST = 16.0  # nats below the largest logit

Words = NDArray[np.uint16]  # [R, W]


def row_words(vocabulary: int) -> int:
    """Words of a row."""
    return 4 + vocabulary + vocabulary % 2


@dataclass(frozen=True, slots=True)
class SavedLogits:
    """A file that was found whole; its rows are read when they are asked for."""

    path: Path
    vocabulary: int
    tokens: NDArray[np.int32]  # [chunks, context]

    @property
    def context(self) -> int:
        """Tokens of a chunk."""
        return int(self.tokens.shape[1])

    def rows(self, first: int, count: int) -> Words:
        """Some rows, as they are stored. Raises SetupError: the file has changed meanwhile."""
        words = row_words(self.vocabulary)
        offset = HEADER.size + 4 * self.tokens.size + 2 * words * first
        try:
            found = np.fromfile(self.path, "<u2", count * words, offset=offset)
        except OSError as error:
            raise SetupError(f"{self.path} cannot be read: {error.strerror}") from error
        if found.size != count * words:
            raise SetupError(f"{self.path} has become shorter while it was read")
        return found.reshape(count, words)


def open_saved(path: Path, vocabulary: int | None = None) -> SavedLogits:
    """Look a file over. Raises SetupError: it is none, cut short, or of another vocabulary than the one given."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEADER.size)
            if len(head) < HEADER.size or head[:8] != MAGIC:
                raise SetupError(f"{path} begins with {head[:8]!r}, expected {MAGIC!r}: no file of log-probabilities")
            _, context, found, chunks = HEADER.unpack(head)
            if vocabulary is not None and found != vocabulary:
                raise SetupError(
                    f"{path} is of a vocabulary of {found} tokens, the model's has {vocabulary}: expected the same"
                )
            if context < LEAST_CONTEXT or found < 1 or chunks < 1:
                raise SetupError(f"{path} says {chunks} chunks of {context} tokens out of {found}: it is damaged")
            expected = HEADER.size + 4 * context * chunks + 2 * chunks * rows_of(context) * row_words(found)
            if size != expected:
                how = "cut short" if size < expected else "damaged"
                raise SetupError(f"{path} has {size} bytes, expected {expected}: it is {how}")
            tokens = np.fromfile(file, "<i4", context * chunks).reshape(chunks, context)
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from error
    if tokens.min() < 0 or tokens.max() >= found:
        raise SetupError(f"{path} names token ids outside its vocabulary of {found}: it is damaged")
    return SavedLogits(path, found, tokens.astype(np.int32))


def levels(words: Words, vocabulary: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint16]]:
    """Of stored rows the scales [R, 1], the least log-probabilities [R, 1] and the numbers [R, V]."""
    scale, least = words[:, :4].copy().view("<f4").T
    return scale[:, None], least[:, None], words[:, 4 : 4 + vocabulary]


def pack_rows(logits: NDArray[np.float32]) -> Words:  # [R, V] -> [R, W]
    """Round rows of logits to what is stored, in float32 as llama-perplexity does; the sum is of float64."""
    rows, vocabulary = logits.shape
    largest = logits.max(axis=1, keepdims=True)
    least = np.maximum(logits.min(axis=1, keepdims=True), largest - np.float32(DEEPEST))
    total = np.exp(logits - largest).sum(axis=1, keepdims=True, dtype=np.float64)
    scale = (largest - least) / np.float32(LEVELS)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    words = np.zeros((rows, row_words(vocabulary)), "<u2")
    words[:, :4] = np.concatenate([scale, least - largest - np.log(total).astype(np.float32)], axis=1).view("<u2")
    words[:, 4 : 4 + vocabulary] = np.rint(inverse * (np.maximum(logits, least) - least)).astype("<u2")
    return words


class SavedWriter:
    """Takes the rows of all chunks in order."""

    def __init__(self, path: Path, draft: Path) -> None:
        self._path = path
        try:
            self._file = draft.open("wb")
        except OSError as error:
            raise self._failure(error) from error

    def write(self, rows: Words) -> None:
        """Write rows. Raises SetupError: the disk is full, say."""
        self.write_bytes(rows.astype("<u2", copy=False).tobytes())

    def write_bytes(self, data: bytes) -> None:
        """Write what is no row."""
        try:
            self._file.write(data)
        except OSError as error:
            raise self._failure(error) from error

    def finish(self, draft: Path) -> None:
        """Give the file its name."""
        try:
            self._file.close()
            draft.replace(self._path)
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Close it, whole or not."""
        with suppress(OSError):
            self._file.close()

    def _failure(self, error: OSError) -> SetupError:
        return SetupError(f"{self._path} cannot be written: {error.strerror}")


@contextmanager
def saving(path: Path, chunks: NDArray[np.int32], vocabulary: int) -> Iterator[SavedWriter]:
    """A file that takes the rows of all chunks in order; it gets its name once it is whole. Raises SetupError."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    writer = SavedWriter(path, draft)
    try:
        writer.write_bytes(HEADER.pack(MAGIC, chunks.shape[1], vocabulary, chunks.shape[0]))
        writer.write_bytes(chunks.astype("<i4").tobytes())
        yield writer
        writer.finish(draft)
    finally:
        writer.close()
        with suppress(OSError):
            draft.unlink()
