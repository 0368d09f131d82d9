"""What opening a malformed file costs and says."""

from __future__ import annotations

import gc
import time
import tracemalloc
from pathlib import Path

import pytest

from numoe.model.gguf.model_file import open_gguf
from numoe.protos.errors import ModelFileError

SECONDS = 1.0  # of processor time, ten times what the slowest takes: what grows with the square takes minutes
BYTES = 64 << 20


def refusal(path: Path) -> ModelFileError:
    """The error that opening gives; fails if that takes long or much memory."""
    gc.disable()  # what it does to objects of other tests is not timed
    try:
        started = time.thread_time()
        with pytest.raises(ModelFileError) as error:
            open_gguf(path)
        assert time.thread_time() - started < SECONDS
    finally:
        gc.enable()
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            open_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
    return error.value
