"""What Ray's raylet starts as its dashboard agent: says that it listens on no port, and ends with the raylet.

Ray's own agent does nothing else where there is no dashboard, after 2 s of a core and with 100 MB. A program of its
own, without numoe or Ray; started with what Ray would give its agent.
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from pathlib import Path

# As Ray has its own agent write: files in the folder of the session, followed by the node's id, which hold a port.
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
NO_PORT = "-1"
SESSION, NODE = "--session-dir=", "--node-id="


def main(arguments: list[str], raylet: int) -> None:
    """Write the files that `raylet`, a process id, waits for, and return when it has ended."""
    session, node = (_value(option, arguments) for option in (SESSION, NODE))
    for name in PORTS:
        path = Path(session, f"{name}_{node}")
        written = path.with_name(f"{path.name}.{os.getpid()}")
        written.write_text(NO_PORT)
        written.rename(path)  # as whole as it is seen
    ended = select.poll()
    with suppress(ProcessLookupError):
        ended.register(os.pidfd_open(raylet), select.POLLIN)
        ended.poll()


def _value(option: str, arguments: list[str]) -> str:
    [found] = [argument for argument in arguments if argument.startswith(option)]
    return found.removeprefix(option)


if __name__ == "__main__":
    main(sys.argv[1:], int(os.environ["RAY_RAYLET_PID"]))
