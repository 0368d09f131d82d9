"""A served model to measure: `numoe serve` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY = re.compile(r"READY grpc=(?P<grpc>\S+) .* ops=http://(?P<http>\S+)/ops/")


@dataclass(frozen=True, slots=True)
class Service:
    """A service that runs."""

    grpc: str
    http: str
    pid: int

    def processor_seconds(self) -> float:
        """That the coordinator has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(path: Path, *flags: str) -> Iterator[Service]:
    """Run `numoe serve` on free ports for the length of a block."""
    command = [str(Path(sys.executable).with_name("numoe")), "serve", str(path), "--address", "127.0.0.1:0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = READY.match(process.stdout.readline())
            if ready is None:
                raise SystemExit("the service did not start; its own messages are above")
            yield Service(ready["grpc"], ready["http"], process.pid)
        finally:
            process.terminate()
