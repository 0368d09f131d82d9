"""`numoe host start`: makes this machine one of the hosts that serve a model together."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path

from numoe.coordinator.commands.screen.terminal import out
from numoe.coordinator.service_manager import ServiceManager
from numoe.protos.errors import NumoeError, SetupError

LOOK_SECONDS = 0.5  # between two looks at Ray's processes
PORT = 50160


def start(
    *,
    head: bool = False,
    join: str | None = None,
    ip: str | None = None,
    port: int = PORT,
    token: Path | None = None,
    certificates: Path | None = None,
) -> None:
    """Make this machine one of the hosts that serve a model together, until Ctrl-C or SIGTERM.

    On the first host `numoe host start --head`, on all others `--join` with the address that it tells, and with its
    token, a file that must be copied to them. Then `numoe serve --hosts auto` on the first one.

    Parameters
    ----------
    head
        This is the first host: the others join it, and `numoe serve --hosts` runs here.
    join
        ADDRESS:PORT of the first host, as it told.
    ip
        The address by which the other hosts reach this one. Default: that of the way to the others.
    port
        The first of 90 ports, the same on all hosts.
    token
        The file with the secret that all hosts share, mode 600. Default: ~/.config/numoe/cluster-token, made by --head.
    certificates
        A folder with what `numoe host certificates` made for this host, by which steps go encrypted, and to known hosts
        only. Default: none; `numoe serve --hosts` then asks for --insecure.
    """
    if head == (join is not None):
        raise SetupError("name one of --head, on the first host, and --join ADDRESS:PORT, on all others")
    if not 1024 <= port <= 65535 - 90:
        raise SetupError(f"--port is {port}, expected 1024 to {65535 - 90}, as 90 ports are used from there on")
    # They bring Ray: a second that `--help` and a refused flag do not wait for.
    import structlog

    from numoe.coordinator.cluster.certificates import load_credentials
    from numoe.coordinator.cluster.host_node import HostNode, use_token
    from numoe.coordinator.cluster.host_state import (
        HostPorts,
        HostState,
        default_token_path,
        make_token,
        read_state,
        read_token,
        remove_state,
        start_of,
        write_state,
    )
    from numoe.coordinator.logs import configure_logging
    from numoe.model.machine.topology_reading import read_topology

    configure_logging()
    log, manager = structlog.get_logger(), ServiceManager()
    if (running := read_state()) is not None:
        raise SetupError(f"a node of this user runs on this host already (pid {running.pid}): stop that one first")
    secret = token or default_token_path()
    if head:
        make_token(secret)
    use_token(read_token(secret))
    stopping = _on_signals()
    own = ip or _own_address(join)
    if certificates is not None:
        load_credentials(certificates, own)  # refused now, not when a service starts
    nodes = [node.id for node in read_topology().nodes if node.memory_bytes]
    node = HostNode(own, HostPorts(port), nodes, join)

    with suppress(OSError):  # of processes, lest a service that was started beside it ends with it
        os.setsid()

    def look() -> None:
        manager.lives()
        if stopping.is_set():
            raise _Stopped("a signal came")

    try:
        while True:
            node.start(look)
            state = HostState(
                pid=os.getpid(),
                started=start_of(os.getpid()),
                cluster=node.cluster,
                ip=own,
                port=port,
                session=str(node.folder),
                token=str(secret.absolute()),
                certificates=None if certificates is None else str(certificates.absolute()),
                processes=node.processes,
            )
            write_state(state)
            manager.ready(f"Ray's node of {own}, of the cluster {node.cluster}")
            out().print(f"HOST READY cluster={node.cluster} ip={own} nodes={len(nodes)} token={secret}", soft_wrap=True)
            while (lost := node.lost()) is None and not stopping.wait(LOOK_SECONDS):
                manager.lives()
            remove_state()
            if stopping.is_set():
                manager.stopping("ending Ray's node")
                return
            log.warning("host_node_lost", processes=lost)
            node.end(keep_logs=True)
    except _Stopped:
        return
    finally:
        remove_state()
        node.end(keep_logs=False)


def certificates(folder: Path, /, *, host: list[str]) -> None:
    """Write certificates by which hosts know each other, and an authority of your own where there is none yet.

    They live for 400 days: call it again with the same folder, copy what it writes, and start the hosts anew.

    Parameters
    ----------
    folder
        Where they are kept. Copy ca.pem and a host's two files to that host; keep ca.key where it is.
    host
        The address by which the others reach a host. May be given several times.
    """
    from numoe.coordinator.cluster.certificates import make_certificates

    for path in make_certificates(folder, host):
        out().print(str(path), soft_wrap=True, highlight=False)


class _Stopped(NumoeError):
    """A signal came while the node started."""


def _on_signals() -> threading.Event:
    stopping = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda number, frame: stopping.set())
    return stopping


def _own_address(join: str | None) -> str:
    """This host's address on the way to the first one, or to anywhere."""
    host, _, port = (join or "").rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host or "192.0.2.1", int(port or 9)))  # sends nothing
        except (OSError, ValueError) as error:
            if join is None:
                raise SetupError("this host has no way to any other: name its own address with --ip") from error
            raise SetupError(f"--join {join}: {error}; expected ADDRESS:PORT as the first host told it") from error
        found: str = probe.getsockname()[0]
        return found
