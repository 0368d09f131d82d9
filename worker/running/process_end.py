"""Ends this process with another one."""

from __future__ import annotations

import os
import select
import threading


def end_with(pid: int) -> None:
    """Let this process end as soon as process `pid` has ended, however it did; at once if there is none."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        os._exit(0)
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)

    def watch() -> None:
        ended.poll()
        os._exit(0)

    threading.Thread(target=watch, name="numoe-watch", daemon=True).start()
