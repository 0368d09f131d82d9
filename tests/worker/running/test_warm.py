"""Compiling is for whoever started it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

PATIENCE_SECONDS = 60.0  # compiling into an empty cache takes minutes
START_AND_END = """
import os, subprocess, sys
command = [sys.executable, "-P", "-m", "numoe.worker.running.warm", f"--end-with={os.getpid()}"]
print(subprocess.Popen(command, stdout=subprocess.DEVNULL).pid, flush=True)
input()
os._exit(0)
"""


def test_compiling_ends_with_the_process_that_started_it_however_that_ends(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment, "text": True}
    with subprocess.Popen([sys.executable, "-c", START_AND_END], **pipes) as starting:  # type: ignore[call-overload]
        assert starting.stdout is not None
        descriptor = os.pidfd_open(int(starting.stdout.readline()))
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        assert ended.poll(0) == []
        starting.communicate("\n")
    assert ended.poll(1000 * PATIENCE_SECONDS), "it compiles for nobody"
    os.close(descriptor)
