"""Counters of threads, and of memory traffic: read where the kernel permits, refused in a line where it does not."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from numoe.model.machine.processor_counters import (
    CYCLES,
    INSTRUCTIONS,
    ThreadCounters,
    no_traffic_remark,
    read_traffic,
    why_refused,
)

TASK_CLOCK = (1, 1)  # PERF_TYPE_SOFTWARE: nanoseconds on a CPU, which needs no processor's help
NO_EVENT = (0, 9999)  # of hardware, which no kernel knows


def test_what_threads_do_is_counted_from_then_on() -> None:
    counters = ThreadCounters([threading.get_native_id()], {"clock": TASK_CLOCK})
    if "clock" in counters.refused:
        pytest.skip(f"this kernel lets nobody count: {counters.refused['clock']}")
    first = counters.read()["clock"]
    sum(range(100_000))
    assert counters.read()["clock"] > first
    counters.close()
    assert counters.read() == {}


def test_what_cannot_be_counted_of_one_thread_is_counted_of_none_and_leaves_nothing_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    no_thread = 2**22 + 1  # above the most that Linux gives
    counters = ThreadCounters([threading.get_native_id(), no_thread], {CYCLES: TASK_CLOCK, INSTRUCTIONS: NO_EVENT})
    assert set(counters.refused) == {CYCLES, INSTRUCTIONS}
    assert counters.read() == {}
    assert counters.remark.startswith("no instructions per cycle: ")
    assert "\n" not in counters.remark
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_refusal_says_what_mends_it(tmp_path: Path) -> None:
    paranoid = tmp_path / "perf_event_paranoid"
    paranoid.write_text("4\n")
    denied, absent = OSError(errno.EACCES, "denied"), OSError(errno.ENOENT, "no event")
    assert "sysctl -w kernel.perf_event_paranoid=1" in why_refused(denied, paranoid)
    paranoid.write_text("1\n")
    assert "CAP_PERFMON" in why_refused(denied, paranoid)
    assert "CAP_PERFMON" in why_refused(denied, tmp_path / "missing")
    assert "virtual machine" in why_refused(absent, paranoid)
    assert why_refused(OSError(errno.EMFILE, "many"), paranoid) == "perf_event_open answers Too many open files"


def test_traffic_is_read_from_every_cache_that_counts(tmp_path: Path) -> None:
    assert "not mounted" in no_traffic_remark(tmp_path)
    (tmp_path / "info").mkdir()
    assert "does not count" in no_traffic_remark(tmp_path)
    for number, (local, total) in enumerate([("100", "150"), ("7", "Unavailable")]):
        domain = tmp_path / "mon_data" / f"mon_L3_0{number}"
        domain.mkdir(parents=True)
        (domain / "mbm_local_bytes").write_text(f"{local}\n")
        (domain / "mbm_total_bytes").write_text(f"{total}\n")
    assert read_traffic(tmp_path) == {"mon_L3_00": (100, 150)}
    assert no_traffic_remark(tmp_path) == ""
