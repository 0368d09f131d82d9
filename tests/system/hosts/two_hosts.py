"""Two hosts on one machine: this one, and a network namespace with a wire to it; their nodes, and a service on both."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped]

from tests.system.serve_process import NUMOE, PATIENCE_SECONDS, ServeProcess, lives, wait_until

OTHER, WIRE, OTHER_WIRE = "numoe-other", "numoe-here", "numoe-there"
HERE, THERE = "10.231.77.1", "10.231.77.2"
PORT = 51160
GONE_SECONDS = "15"  # a node that is started anew takes less


def why_not() -> str:
    """Why this machine cannot be two hosts; "": it can."""
    if shutil.which("ip") is None:
        return "ip is missing (on Debian: apt-get install iproute2)"
    tried = subprocess.run(["ip", "netns", "add", f"{OTHER}-try"], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", f"{OTHER}-try"], capture_output=True, check=False)
    return f"no network namespace can be made: {tried.stderr.strip()}" if tried.returncode else ""


class TwoHosts:
    """The nodes of both; the service runs on this one."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of a short path, as Ray's sockets lie in it."""
        self._folders = {HERE: folder / "a", THERE: folder / "b"}
        self.nodes: dict[str, subprocess.Popen[str]] = {}
        for place in self._folders.values():
            place.mkdir(mode=0o700)
        self.certificates = folder / "certificates"
        made = [NUMOE, "host", "certificates", str(self.certificates), "--host", HERE, "--host", THERE]
        subprocess.run(made, check=True, capture_output=True)

    def environment(self, host: str) -> list[str]:
        """The words before a command that runs on a host, as this user, with folders of its own."""
        place = self._folders[host]
        inside = ["ip", "netns", "exec", OTHER] if host == THERE else []
        return [*inside, "env", f"XDG_RUNTIME_DIR={place}", f"TMPDIR={place}"]

    def start(self, host: str) -> None:
        """Start a host's node, and wait until it is there."""
        token = self._folders[HERE] / "token"
        role = ["--head"] if host == HERE else ["--join", f"{HERE}:{PORT}"]
        role += ["--certificates", str(self.certificates)]
        command = [*self.environment(host), NUMOE, "host", "start", *role, "--ip", host, "--port", str(PORT)]
        with (self._folders[host] / "log").open("a") as log:
            self.nodes[host] = subprocess.Popen(
                [*command, "--token", str(token)], stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        told = self.nodes[host].stdout
        assert told is not None
        line = told.readline()
        assert line.startswith("HOST READY"), (line, (self._folders[host] / "log").read_text())

    def processes(self, host: str, name: str) -> list[psutil.Process]:
        """Those of a host's node whose titles begin so."""
        below = psutil.Process(self.nodes[host].pid).children(recursive=True)
        return [one for one in below if _titled(one, name)]

    def kill(self, host: str) -> None:
        """End a host as a loss of power does."""
        node = self.nodes.pop(host)
        for one in [node, *psutil.Process(node.pid).children(recursive=True)]:
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                one.kill()
        node.wait(PATIENCE_SECONDS)
        assert node.stdout is not None
        node.stdout.close()

    def wire(self, state: str) -> None:
        """ "up" or "down"."""
        _ip("link", "set", WIRE, state)

    def end(self) -> None:
        """End both nodes; nothing of them may be left."""
        for host in (THERE, HERE):
            node = self.nodes.pop(host, None)
            if node is None:
                continue
            below = psutil.Process(node.pid).children(recursive=True)
            node.send_signal(signal.SIGTERM)
            assert node.wait(PATIENCE_SECONDS) == 0
            assert node.stdout is not None
            node.stdout.close()
            wait_until(lambda below=below: not any(map(lives, below)), lambda below=below: [str(one) for one in below])  # type: ignore[misc]


def _titled(process: psutil.Process, name: str) -> bool:
    with suppress(psutil.Error):
        return any(word.startswith(name) for word in (process.name(), *process.cmdline()[:1]))
    return False


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """Both nodes, for the length of a block."""
    subprocess.run(["ip", "netns", "del", OTHER], capture_output=True, check=False)
    _ip("netns", "add", OTHER)
    folder = TemporaryDirectory(prefix="h", dir="/tmp")
    hosts = TwoHosts(Path(folder.name))
    try:
        _ip("link", "add", WIRE, "type", "veth", "peer", "name", OTHER_WIRE, "netns", OTHER)
        _ip("addr", "add", f"{HERE}/24", "dev", WIRE)
        _ip("link", "set", WIRE, "up")
        for words in (("addr", "add", f"{THERE}/24", "dev", OTHER_WIRE), ("link", "set", OTHER_WIRE, "up")):
            _ip("-n", OTHER, *words)
        _ip("-n", OTHER, "link", "set", "lo", "up")
        hosts.start(HERE)
        hosts.start(THERE)
        yield hosts
        hosts.end()
    finally:
        for node in hosts.nodes.values():
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", OTHER], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", WIRE], capture_output=True, check=False)
        folder.cleanup()


@contextmanager
def serving_on(hosts: TwoHosts, log: Path, *arguments: str) -> Iterator[ServeProcess]:
    """A service on both hosts, for the length of a block; no worker may be left on either."""
    flags = ("--hosts", "auto", "--host-gone-seconds", GONE_SECONDS)
    server = ServeProcess(log, *arguments, *flags, program=[*hosts.environment(HERE), NUMOE])
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            code, text = server.wait()
            assert code == 0, text

            def left() -> list[psutil.Process]:
                every = [one for host in hosts.nodes for one in hosts.processes(host, "ray::")]
                return [one for one in every if "Actor" in "".join(one.cmdline())]

            wait_until(lambda: not left(), left)
