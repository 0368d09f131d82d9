"""The measurements of the machine run and give figures that can be true."""

from __future__ import annotations

import os

import numpy as np

from bench.machine import KEPT, SUMS, cores, integer_peak, multiply, read_bandwidth


def test_a_bandwidth_is_measured_and_leaves_this_thread_unpinned() -> None:
    allowed = os.sched_getaffinity(0)
    rate = read_bandwidth(cores(), bytes_per_thread=1 << 20)
    assert 1e8 < rate.median <= rate.best < 1e13
    assert os.sched_getaffinity(0) == allowed


def test_a_peak_is_measured() -> None:
    rate = integer_peak(cores()[:1], dots=1 << 12)
    assert 1e7 < rate.median <= rate.best < 1e14


def test_the_peak_s_kernel_computes_what_it_counts() -> None:
    weights = np.ones(4096, np.uint8)
    x = np.repeat(np.arange(1, KEPT + 1), 4).astype(np.int8)
    out = np.zeros((SUMS, 16), np.float32)
    multiply(weights.ctypes.data, x.ctypes.data, out.ctypes.data, 100)
    expected = 100 * 4 * (1 + np.arange(SUMS) % KEPT)
    np.testing.assert_array_equal(out, np.broadcast_to(expected[:, None], out.shape))
