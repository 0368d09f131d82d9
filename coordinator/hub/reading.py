"""Reads a file on a hub from one byte to another, however often the connection breaks.

*Guarantees*: no byte is asked for again that came. A hub that is silent, slower than a byte in a millisecond, or breaks
off is asked again, five times in a row at most; then it ends with an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import structlog

from numoe.coordinator.hub.cache import RepoCache
from numoe.coordinator.hub.choosing import HubFile
from numoe.coordinator.hub.client import HubClient, HubUnreachable
from numoe.coordinator.hub.names import HubName
from numoe.coordinator.hub.waiting import Stop
from numoe.protos.foreign_text import one_line

ANSWER_BYTES = 8 << 30  # asked for at once: content networks answer with 50 GB at most
MOST_BREAKS = 5  # in a row, without PROGRESS_BYTES between them
PROGRESS_BYTES = 1 << 20
FIRST_REST_SECONDS = 1.0  # before asking again; doubled each time
SLOW_SECONDS = 30.0  # in which SLOW_BYTES must come
SLOW_BYTES = 30_000

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Source:
    """Whence a model's files come, and where to."""

    client: HubClient
    cache: RepoCache
    wanted: HubName
    commit: str


def read_bytes(
    source: Source, file: HubFile, start: int, end: int, take: Callable[[bytes], object], stop: Stop
) -> None:
    """Give bytes `start` to `end` of `file` to `take`, piece by piece and in order, until `stop` is set.

    Raises HubUnreachable, HubRefused, and whatever `take` raises.
    """
    position = progressed = start
    breaks = 0
    while position < end and not stop.is_set():
        try:
            with closing(_ask_once(source, file, position, min(end, position + ANSWER_BYTES))) as pieces:
                for piece in pieces:
                    take(piece)
                    position += len(piece)
                    if stop.is_set():
                        return
        except HubUnreachable as error:
            if stop.is_set():
                return
            if position - progressed >= PROGRESS_BYTES:
                progressed, breaks = position, 0
            breaks += 1
            if breaks > MOST_BREAKS:
                raise
            _log.warning("hub_broke_off", file=one_line(file.path, 120), bytes=position, error=str(error))
            if stop.rest(max(FIRST_REST_SECONDS * 2 ** (breaks - 1), error.rest_seconds)):
                return


def _ask_once(source: Source, file: HubFile, start: int, end: int) -> Generator[bytes]:
    asked, came = time.monotonic(), 0
    with closing(source.client.read(source.wanted, source.commit, file, start, end)) as pieces:
        for piece in pieces:
            yield piece
            came += len(piece)
            if time.monotonic() - asked > SLOW_SECONDS:
                if came < SLOW_BYTES:
                    raise HubUnreachable(f"{source.client.endpoint} sent {came} bytes in {SLOW_SECONDS:.0f} s")
                asked, came = time.monotonic(), 0
