"""What is kept can be taken up by others while the keeper lives, and the keeper lives as long as it is to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from numoe.keeper.client import KeeperClient, KeeperGone, close_all
from numoe.keeper.process import MOST_BYTES, receive, send
from tests.keeper.running import Running

END_SECONDS = 20.0  # on a loaded machine
MOST_MEMORY = 50 << 20


@pytest.fixture
def staying(tmp_path: Path) -> Iterator[Running]:
    one = Running(tmp_path / "socket", 60.0)
    yield one
    one.close()


def memory(text: bytes) -> int:
    descriptor = os.memfd_create("kept")
    os.write(descriptor, text)
    return descriptor


def put(client: KeeperClient, name: str, text: bytes) -> None:
    descriptor = memory(text)
    client.put(name, {"bytes": len(text)}, descriptor)
    os.close(descriptor)


def texts(client: KeeperClient, prefix: str = "") -> dict[str, bytes | None]:
    kept = client.items(prefix)
    found = {one.name: None if one.descriptor is None else os.pread(one.descriptor, 100, 0) for one in kept}
    close_all(kept)
    return found


def test_what_was_put_is_found_by_its_name_until_it_is_removed_or_put_again(running: Running) -> None:
    put(running.client, "0/loaded", b"first")
    put(running.client, "1/loaded", b"second")
    running.client.put("0/left/3/5", 0)
    assert texts(running.client) == {"0/loaded": b"first", "1/loaded": b"second", "0/left/3/5": None}
    assert texts(running.client, "0/") == {"0/loaded": b"first", "0/left/3/5": None}
    put(running.client, "0/loaded", b"third")
    assert texts(running.client, "0/loaded") == {"0/loaded": b"third"}
    running.client.remove("0/")
    assert texts(running.client) == {"1/loaded": b"second"}
    [kept] = running.client.items("1/")
    assert kept.note == {"bytes": 6}
    close_all([kept])


def test_one_thing_is_removed_by_its_name_and_nothing_whose_name_begins_so(running: Running) -> None:
    for expert in (1, 12):
        put(running.client, f"0/came/3/{expert}", b"text")
    running.client.remove("0/came/3/1")
    assert texts(running.client) == {"0/came/3/12": b"text"}


def test_memory_that_is_removed_is_given_back(running: Running) -> None:
    descriptors = psutil.Process(running.keeper.pid).num_fds()
    for _ in range(3):
        put(running.client, "0/loaded", b"text")
    running.client.remove("")
    end = time.monotonic() + END_SECONDS
    while psutil.Process(running.keeper.pid).num_fds() != descriptors:  # until it has noticed that we are gone
        assert time.monotonic() < end


def test_a_keeper_takes_little_memory_itself(running: Running) -> None:
    put(running.client, "0/loaded", bytes(64 << 20))
    assert psutil.Process(running.keeper.pid).memory_info().rss < MOST_MEMORY


def test_thousands_of_experts_can_be_kept(running: Running) -> None:
    descriptor = memory(b"expert")
    for expert in range(3000):
        running.client.put(f"0/came/0/{expert}", 6, descriptor)
    os.close(descriptor)
    soft, hard = psutil.Process().rlimit(psutil.RLIMIT_NOFILE)
    if hard < 8000:
        pytest.skip("so many files may not be open here")
    psutil.Process().rlimit(psutil.RLIMIT_NOFILE, (8000, hard))
    try:
        assert len(texts(running.client)) == 3000
    finally:
        psutil.Process().rlimit(psutil.RLIMIT_NOFILE, (soft, hard))


def test_it_ends_with_its_coordinator(running: Running) -> None:
    put(running.client, "0/loaded", b"text")
    running.end_owner()
    assert running.keeper.wait(END_SECONDS) == 0
    assert not running.path.exists()
    with pytest.raises(KeeperGone, match="socket"):
        running.client.items()


def test_it_ends_when_it_is_told_to(running: Running) -> None:
    running.client.end()
    assert running.keeper.wait(END_SECONDS) == 0
    assert not running.path.exists()


def test_it_is_adopted_once_its_coordinator_is_dead(staying: Running) -> None:
    put(staying.client, "0/loaded", b"text")
    assert not staying.client.adopt(os.getpid(), 0.0)
    staying.end_owner()
    with subprocess.Popen(["sleep", "1000"]) as owner:
        end = time.monotonic() + END_SECONDS
        while not staying.client.adopt(owner.pid, 0.0):  # until it has noticed
            assert time.monotonic() < end
        assert texts(staying.client) == {"0/loaded": b"text"}
        assert not staying.client.adopt(os.getpid(), 0.0)
        owner.kill()
    assert staying.keeper.wait(END_SECONDS) == 0


def test_it_stays_no_longer_than_it_may(tmp_path: Path) -> None:
    running = Running(tmp_path / "socket", 0.5)
    try:
        running.end_owner()
        assert running.keeper.wait(END_SECONDS) == 0
    finally:
        running.close()


@pytest.mark.parametrize("packet", [b"no json", b"{}", b'["put"]', b'["what"]', b"[]", b'["adopt", "x", "y"]', b"\xff"])
def test_who_speaks_otherwise_is_left_and_nobody_else(running: Running, packet: bytes) -> None:
    put(running.client, "0/loaded", b"text")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(str(running.path))
        stranger.settimeout(END_SECONDS)
        stranger.send(packet)
        if packet.startswith(b'["adopt'):
            assert receive(stranger)[0] == ["taken"]
        else:
            with pytest.raises(OSError, match="gone"):
                receive(stranger)
    assert texts(running.client) == {"0/loaded": b"text"}


def test_a_client_that_reads_nothing_holds_nobody_up_for_long(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1000):
        running.client.put(f"0/{number}", "x" * 1000)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(running.path))
        send(silent, ["list", ""])
        assert len(texts(running.client)) == 1000


def test_a_packet_that_is_too_long_is_refused_where_it_is_sent(running: Running) -> None:
    with pytest.raises(KeeperGone, match="expected at most 65536"):
        running.client.put("0/loaded", "x" * MOST_BYTES)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_other_users_are_not_heard_and_no_other_s_keeper_is_spoken_to(running: Running, tmp_path: Path) -> None:
    put(running.client, "0/loaded", b"text")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    running.path.chmod(0o777)
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from numoe.keeper.client import KeeperClient\n"
        "os.setuid(65534)\n"
        "try: KeeperClient(Path(sys.argv[1])).items()\n"
        "except Exception as error: print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(running.path)], capture_output=True, text=True, check=True
    ).stdout
    assert "it is another user's" in told
    strange = (
        "import os, socket, sys; os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1])\n"
        "s.send(b'[\"end\"]'); print(s.recv(9))"
    )
    command = [sys.executable, "-c", strange, str(running.path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "done" not in answer.stdout
    assert texts(running.client) == {"0/loaded": b"text"}


def test_a_keeper_that_is_stopped_counts_as_gone(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numoe.keeper.client.ANSWER_SECONDS", 0.2)
    running.keeper.send_signal(signal.SIGSTOP)
    with pytest.raises(KeeperGone, match="timed out"):
        running.client.items()
    running.keeper.send_signal(signal.SIGCONT)
    assert texts(running.client) == {}
