"""A wire between two network devices that delays and loses frames: python -m tests.system.hosts.slow_wire NAME NAME

Kernels that can do this by themselves (netem) are rare where tests run. It reads "MILLISECONDS SHARE" from its standard
input, a line for each change: how much later a frame leaves than it came, and how many are lost.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue

TAP, NO_HEADER, SET_NAME = 0x0002, 0x1000, 0x400454CA  # linux/if_tun.h
FRAME_BYTES = 65536

Frames = SimpleQueue[tuple[float, bytes]]  # with when each is to arrive


@dataclass(slots=True)
class Quality:
    """What the wire is like now."""

    delay: float = 0.0  # seconds, each way
    loss: float = 0.0  # share of frames


def open_device(name: str) -> int:
    """A new device of this name, in this process's network namespace, that may be moved to another one."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, SET_NAME, struct.pack("16sH", name.encode(), TAP | NO_HEADER))
    return device


def take(device: int, quality: Quality, frames: Frames, seed: int) -> None:
    """All that comes, but for what is lost."""
    chance = random.Random(seed)
    while True:
        frame = os.read(device, FRAME_BYTES)
        if chance.random() >= quality.loss:
            frames.put((time.monotonic() + quality.delay, frame))


def deliver(frames: Frames, device: int) -> None:
    """Each when it is time."""
    while True:
        when, frame = frames.get()
        time.sleep(max(0.0, when - time.monotonic()))
        with suppress(OSError):  # that end is down
            os.write(device, frame)


def main() -> None:
    """Carry frames until standard input ends."""
    ends, quality = [open_device(name) for name in sys.argv[1:3]], Quality()
    for seed, (source, target) in enumerate((ends, reversed(ends))):
        frames: Frames = SimpleQueue()
        threading.Thread(target=take, args=(source, quality, frames, seed), daemon=True).start()
        threading.Thread(target=deliver, args=(frames, target), daemon=True).start()
    sys.stdout.write("READY\n")
    sys.stdout.flush()
    for line in sys.stdin:
        milliseconds, share = map(float, line.split())
        quality.delay, quality.loss = milliseconds / 1e3, share


if __name__ == "__main__":
    main()
