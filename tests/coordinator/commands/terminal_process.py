"""The command `numoe` on a terminal of its own: a test types, and waits for what is shown."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType

from tests.coordinator.commands.numoe_process import NUMOE, PATIENCE_SECONDS, ROOT

AGAIN_SECONDS = 1.0  # between two presses of a key
CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
# A session's leader that opens a terminal has it as its own: only so does it turn Ctrl-C into a signal.
ON_TERMINAL = 'terminal=$1; shift; exec "$@" <"$terminal" >"$terminal" 2>&1'


class OnTerminal:
    """One command, to be used in `with`; what it shows is kept without colours and movements of the cursor.

    So wide that no line is broken, unless `columns` are said.
    """

    def __init__(self, *arguments: str, program: Sequence[str] = (NUMOE,), columns: int = 2000) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        command = ["bash", "-c", ON_TERMINAL, "bash", os.ttyname(theirs), *program, *arguments]
        environment = {**os.environ, "TERM": "dumb"}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
        self._theirs = theirs  # open until it has opened it itself; without any, reading would end
        self._unread = ""

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._theirs)
        os.close(self._ours)

    def type(self, line: str) -> None:
        """Type a line and Enter."""
        os.write(self._ours, f"{line}\n".encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._ours, b"\x03")

    def hang_up(self) -> None:
        """Tell it that its terminal goes away, of which it is shown a little longer."""
        self._process.send_signal(signal.SIGHUP)

    def interrupt_until(self, expected: str) -> None:
        """Press Ctrl-C where a line may be typed, until that is shown.

        Python (3.11) takes none as long as its prompt is there but it has not yet begun to look at what is typed.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            self.interrupt()
            if self._shown(expected, AGAIN_SECONDS) is not None:
                return
        self.until(expected)

    def until(self, expected: str) -> str:
        """What is shown up to where `expected`, a regular expression, ends; it counts as read."""
        shown = self._shown(expected, PATIENCE_SECONDS)
        assert shown is not None, f"no {expected!r} in {self._unread!r}"
        return shown

    def _shown(self, expected: str, seconds: float) -> str | None:
        """As `until`; None: it is not shown within so many seconds."""
        end = time.monotonic() + seconds
        ready = select.poll()
        ready.register(self._ours, select.POLLIN)
        while not (found := re.search(expected, self._unread)):
            if not ready.poll(1000 * max(0.0, end - time.monotonic())):
                return None
            self._unread += CONTROLS.sub("", os.read(self._ours, 1 << 16).decode().replace("\r", ""))
        shown, self._unread = self._unread[: found.end()], self._unread[found.end() :]
        return shown

    def turn(self, line: str) -> str:
        """Type a line; what is shown after it, up to where the next may be typed."""
        self.type(line)
        self.until(re.escape(line) + "\n")
        return self.until(r"(?m)^> ").removesuffix("> ")

    def wait(self) -> int:
        """The exit status, once it has ended."""
        return self._process.wait(PATIENCE_SECONDS)
