"""Several hosts on one machine: this one, and network namespaces with wires to it; their nodes, a service on all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped]

from tests.system.losses.campaign import SERVE_FLAGS
from tests.system.serve_process import NUMOE, PATIENCE_SECONDS, ServeProcess, lives, wait_until

HERE, THERE, THIRD = "10.231.77.1", "10.231.77.2", "10.231.77.3"
BRIDGE, INSIDE = "numoe-hosts", "wire"  # network devices: of this host, and of each other one
PORT = 51160
FLAGS = tuple(flag for flag in SERVE_FLAGS if flag != "--standby")  # four workers are processes enough
GONE_SECONDS = "30"  # a node that is started anew takes less, on a busy machine too


def namespace(host: str) -> str:
    """The network namespace that is this host."""
    return f"numoe-{host.rpartition('.')[2]}"


def _wire(host: str) -> str:
    """The end here of the wire to this host."""
    return f"numoe-w{host.rpartition('.')[2]}"


def why_not() -> str:
    """Why this machine cannot be two hosts; "": it can."""
    if shutil.which("ip") is None:
        return "ip is missing (on Debian: apt-get install iproute2)"
    tried = subprocess.run(["ip", "netns", "add", f"{BRIDGE}-try"], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", f"{BRIDGE}-try"], capture_output=True, check=False)
    return f"no network namespace can be made: {tried.stderr.strip()}" if tried.returncode else ""


class SeveralHosts:
    """The nodes of all; the service runs on this one."""

    def __init__(self, folder: Path, others: Sequence[str], *, apart: bool = False) -> None:
        """`folder`: of a short path, as Ray's sockets lie in it; `apart`: the others compute on the last cores."""
        self._cores = dict(zip(others, sorted(os.sched_getaffinity(0), reverse=True), strict=False)) if apart else {}
        self._folders = {host: folder / str(number) for number, host in enumerate((HERE, *others))}
        self._slow: dict[str, subprocess.Popen[str]] = {}
        self.nodes: dict[str, subprocess.Popen[str]] = {}
        for place in self._folders.values():
            place.mkdir(mode=0o700)
        self.certificates = folder / "certificates"
        made = [NUMOE, "host", "certificates", str(self.certificates)]
        made += [word for host in self._folders for word in ("--host", host)]
        subprocess.run(made, check=True, capture_output=True)

    def environment(self, host: str) -> list[str]:
        """The words before a command that runs on a host, as this user, with folders of its own."""
        place = self._folders[host]
        inside = ["ip", "netns", "exec", namespace(host)] if host != HERE else []
        core = ["taskset", "--cpu-list", str(self._cores[host])] if host in self._cores else []
        return [*inside, *core, "env", f"XDG_RUNTIME_DIR={place}", f"TMPDIR={place}"]

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

    def wire(self, state: str, host: str = THERE) -> None:
        """Have the wire to a host be "up" or "down"."""
        _ip("link", "set", _wire(host), state)

    def join_wire(self, host: str, *, slow: bool) -> None:
        """Lay the wire to a host; `slow`: one that can be made worse."""
        _ip("netns", "add", namespace(host))
        if slow:
            command = [sys.executable, "-m", "tests.system.hosts.slow_wire", _wire(host), f"{_wire(host)}-in"]
            relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._slow[host] = relay
            assert relay.stdout is not None
            assert relay.stdout.readline() == "READY\n"
            _ip("link", "set", f"{_wire(host)}-in", "netns", namespace(host), "name", INSIDE)
        else:
            end = ("peer", "name", INSIDE, "netns", namespace(host))
            _ip("link", "add", _wire(host), "type", "veth", *end)
        _ip("link", "set", _wire(host), "master", BRIDGE, "up")
        inside = ("-n", namespace(host))
        _ip(*inside, "addr", "add", f"{host}/24", "dev", INSIDE)
        _ip(*inside, "link", "set", INSIDE, "up")
        _ip(*inside, "link", "set", "lo", "up")

    def worsen(self, host: str, milliseconds: float = 0.0, loss: float = 0.0) -> None:
        """Have a slow wire delay every frame, on each way, and lose this share of them."""
        told = self._slow[host].stdin
        assert told is not None
        told.write(f"{milliseconds} {loss}\n")
        told.flush()

    def cut_all(self) -> None:
        """Remove every wire, and kill what is left."""
        for node in self.nodes.values():
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
        for relay in self._slow.values():
            relay.kill()
            relay.wait()
            for pipe in (relay.stdin, relay.stdout):
                assert pipe is not None
                pipe.close()
        remove_devices()

    def end(self) -> None:
        """End all nodes; nothing of them may be left."""
        for host in reversed(self._folders):
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


def remove_devices() -> None:
    """Those of an earlier run, too."""
    for host in (THERE, THIRD):
        subprocess.run(["ip", "netns", "del", namespace(host)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", _wire(host)], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)


@contextmanager
def several_hosts(*others: str, slow: bool = False, apart: bool = False) -> Iterator[SeveralHosts]:
    """The nodes of this host and of others, for the length of a block.

    `slow`: with wires that can be made worse; `apart`: the others compute on one core each, the last ones.
    """
    remove_devices()
    folder = TemporaryDirectory(prefix="h", dir="/tmp")
    hosts = SeveralHosts(Path(folder.name), others, apart=apart)
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{HERE}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for host in others:
            hosts.join_wire(host, slow=slow)
        for host in (HERE, *others):
            hosts.start(host)
        yield hosts
        hosts.end()
    finally:
        hosts.cut_all()
        folder.cleanup()


@contextmanager
def serving_on(hosts: SeveralHosts, log: Path, *arguments: str) -> Iterator[ServeProcess]:
    """A service on all hosts, for the length of a block; no worker may be left on any."""
    flags = ("--host-gone-seconds", GONE_SECONDS, *(() if "--hosts" in arguments else ("--hosts", "auto")))
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
