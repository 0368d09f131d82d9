"""A real service that Prometheus watches, after all that can be seen of one has happened to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.prometheus_process import Prometheus, prometheus
from tests.system.clients import SERVE_FLAGS, SHAPE
from tests.system.page.service import answer, status
from tests.system.serve_process import ServeProcess, serving, wait_until
from tests.tiny_model import write_tiny_model

ANSWER = 60
SCRAPED = 'numoe_requests_total{outcome="length"} == 1 and on (instance) numoe_worker_losses_total{worker="1"} == 0'


@dataclass(frozen=True, slots=True)
class Watched:
    """A service that has answered, lost a worker and is back, and the Prometheus that has seen it."""

    server: ServeProcess
    prometheus: Prometheus

    def answer(self) -> None:
        """One more request, to its end."""
        answer(self.server.address, ANSWER)


@contextmanager
def watched_service(folder: Path) -> Iterator[Watched]:
    """For the length of a block, with their files in `folder`."""
    write_tiny_model(folder / "tiny.gguf", SHAPE)
    flags = (*SERVE_FLAGS, "--split", "expert", "--replicas", "0")
    with (
        serving(folder / "serve log", str(folder / "tiny.gguf"), *flags) as server,
        prometheus(folder, server.http) as running,
    ):
        watched = Watched(server, running)
        watched.answer()
        running.until(lambda: bool(running.query(SCRAPED)), lambda: running.get("/api/v1/targets"))
        os.kill(status(server.http)["workers"][1]["pid"], signal.SIGKILL)
        wait_until(lambda: status(server.http)["service"]["restarts"] == 1)
        yield watched
