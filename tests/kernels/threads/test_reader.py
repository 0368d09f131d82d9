"""What bandwidth is measured with reads every byte once a pass, counts what it read, and stops when told."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from numoe.kernels.threads.reader import ROUND_BYTES, WINDOW_BYTES, read_memory, read_until


@pytest.mark.parametrize(("gap", "stride"), [(128, ROUND_BYTES), (1024, 128)])
def test_every_value_is_read_once(gap: int, stride: int) -> None:
    values = np.arange(1024, dtype=np.float32)  # 4 kB: eight rounds; their sums are exact
    out = np.zeros(16, np.float32)
    read_memory(values.ctypes.data, gap, stride, 8, out.ctypes.data)
    np.testing.assert_array_equal(out, values.reshape(-1, 16).sum(axis=0))


@pytest.mark.parametrize("streams", [1, 4])
def test_windows_are_counted_until_it_is_stopped(streams: int) -> None:
    windows = 3
    values = np.zeros(windows * WINDOW_BYTES // 4, np.float32)
    out, done, stop = np.zeros(16, np.float32), np.zeros(1, np.int32), np.zeros(1, np.int32)
    places = (values.ctypes.data, windows, streams, out.ctypes.data, done.ctypes.data, stop.ctypes.data)
    thread = threading.Thread(target=read_until, args=places)
    thread.start()
    end = time.monotonic() + 60
    while done[0] < 10 * windows and time.monotonic() < end:
        time.sleep(0)
    stop[0] = 1
    thread.join()
    assert done[0] >= 10 * windows


@pytest.mark.parametrize("streams", [1, 4])
def test_a_set_stop_word_lets_nothing_be_read(streams: int) -> None:
    done, stop = np.zeros(1, np.int32), np.ones(1, np.int32)
    read_until(0, 3, streams, 0, done.ctypes.data, stop.ctypes.data)
    assert done[0] == 0
