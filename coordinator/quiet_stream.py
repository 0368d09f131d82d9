"""A stream for what nobody must wait for or stumble over: a line that cannot be written is dropped.

The reader of a log ends, its disk is full, standard error was closed before the start, a pipe is not read: none of this
may end a call, or the thread that restarts workers.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import TextIO, cast

ATOMIC_BYTES = select.PIPE_BUF  # a pipe that is ready takes so many without waiting


class QuietStream:
    """Writes to another stream as long as that works; never raises, never waits for a reader."""

    __slots__ = ("__weakref__", "_stream", "encoding")  # structlog keeps a lock for each stream

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding = (stream and stream.encoding) or "utf-8"

    def write(self, text: str) -> int:
        """Write at once, unbuffered: what a buffer could not pass on would be tried again at the process's end."""
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            if self._stream is not None:
                self._pass_on(text.encode(self.encoding, "backslashreplace"), self._stream)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        """Whether people read it."""
        with suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def fileno(self) -> int:
        """The descriptor of the stream behind. Raises OSError if there is none."""
        if self._stream is None:
            raise OSError("there is no stream")
        return self._stream.fileno()

    def _pass_on(self, data: bytes, stream: TextIO) -> None:
        try:
            descriptor = stream.fileno()
        except OSError:  # in memory
            stream.write(data.decode(self.encoding))
            return
        stream.flush()
        ready = select.poll()
        ready.register(descriptor, select.POLLOUT)
        while data and ready.poll(0):
            data = data[os.write(descriptor, data[:ATOMIC_BYTES]) :]


def quiet(stream: TextIO | None) -> TextIO:
    """The stream with its failures dropped; None: all is dropped."""
    return cast("TextIO", QuietStream(stream))
