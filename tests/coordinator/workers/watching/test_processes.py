"""Processes are watched whatever the numbers of their descriptors, and from several threads at once."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from numoe.coordinator.workers.watching.processes import WatchedProcesses
from numoe.protos.errors import WorkerLost

SELECTABLE = 1024  # select() knows descriptors below


@pytest.fixture
def sleeping() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As a service with a thousand clients has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    first = os.open(os.devnull, os.O_RDONLY)
    opened = [first, *(os.dup(first) for _ in range(1100))]
    yield
    for descriptor in opened:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def pids(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    return [process.pid for process in processes]


def test_processes_are_watched_though_a_thousand_descriptors_are_open(
    many_descriptors: None, sleeping: list[subprocess.Popen[bytes]]
) -> None:
    watched = WatchedProcesses(pids(sleeping))
    assert min(watched._descriptors) >= SELECTABLE
    assert watched.ended() == []
    sleeping[1].kill()
    os.waitid(os.P_PID, sleeping[1].pid, os.WEXITED | os.WNOWAIT)
    assert watched.ended() == [1]
    watched.kill()
    assert [process.wait() for process in sleeping] == [-signal.SIGKILL] * 2


def pidfds() -> int:
    """How many this process has open; descriptors of other kinds come and go with what earlier tests left."""
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link) == "anon_inode:[pidfd]" for link in links if link.is_symlink())


def test_descriptors_are_closed_once_by_whoever_ends_the_processes(sleeping: list[subprocess.Popen[bytes]]) -> None:
    """Else a second close would take a descriptor that a client was given meanwhile."""
    watched = WatchedProcesses(pids(sleeping))
    before = pidfds()
    errors: list[Exception] = []
    together = threading.Barrier(4)

    def end() -> None:
        together.wait()
        try:
            watched.kill()
            assert watched.ended() == []
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=end) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert before - pidfds() == len(sleeping)


def test_a_process_that_ended_before_it_was_watched_is_a_lost_worker(
    sleeping: list[subprocess.Popen[bytes]],
) -> None:
    sleeping[1].kill()
    sleeping[1].wait()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(WorkerLost, match=f"worker 1 .*{sleeping[1].pid}.* died"):
        WatchedProcesses(pids(sleeping))
    assert os.listdir("/proc/self/fd") == before
