"""How much memory a process may keep from being swapped out: the limit RLIMIT_MEMLOCK, or none with CAP_IPC_LOCK."""

from __future__ import annotations

from pathlib import Path

from numoe.model.machine.linux_files import labelled_lines, read_text

_CAP_IPC_LOCK = 14
_LIMIT = "Max locked memory"
RAISING = (
    "raise it: LimitMEMLOCK=infinity in a systemd unit, docker run --ulimit memlock=-1, a line `* hard memlock "
    "unlimited` in /etc/security/limits.conf and a new login, or `ulimit -l unlimited` as root; or leave --mlock away"
)


def lock_limit(root: Path = Path("/")) -> int | None:
    """Bytes that a process of this one may lock, as the hard limit allows; None: as many as there are."""
    if int(labelled_lines(read_text(root / "proc/self/status")).get("CapEff", "0"), 16) >> _CAP_IPC_LOCK & 1:
        return None
    for line in read_text(root / "proc/self/limits").splitlines():
        if line.startswith(_LIMIT):
            _soft, hard, _unit = line.removeprefix(_LIMIT).split()
            return int(hard) if hard.isdecimal() else None
    return None


def refusal(worker: int, wanted: int, limit: int | None) -> str:
    """Why a worker cannot lock so many bytes, for people."""
    found = "" if limit is None else f" is {limit:,} bytes here and"
    return (
        f"--mlock: worker {worker} has {wanted:,} bytes of weights to lock, so that they are never swapped out; the "
        f"limit RLIMIT_MEMLOCK (ulimit -l), what a process may lock of its memory,{found} does not suffice; {RAISING}"
    )
