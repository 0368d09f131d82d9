"""Finds a model by its name on a hub: in the cache, or fetched into it.

The hub is asked once, for the files of the repository. If it cannot be asked, or does not give them, what is in the
cache serves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from numoe.coordinator.hub.cache import COMMIT, ELSEWHERE, RepoCache, repo_cache
from numoe.coordinator.hub.choosing import HubFile, choose_files
from numoe.coordinator.hub.client import HubClient, HubRefused, HubUnreachable
from numoe.coordinator.hub.fetching import fetch_files
from numoe.coordinator.hub.heads import read_heads
from numoe.coordinator.hub.names import HubName
from numoe.coordinator.hub.reading import Source
from numoe.coordinator.hub.waiting import call
from numoe.coordinator.progress import LoadProgress
from numoe.protos.errors import ServiceError, SetupError
from numoe.protos.foreign_text import one_line

ASKING, READING, FETCHING = "asking the hub", "reading the model's head", "fetching"
ANSWER_SECONDS = 60.0  # for the list of a repository's files, however slowly it comes

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FoundModel:
    """Which files the model is, and which of them are still to be fetched."""

    source: Source
    files: tuple[HubFile, ...]  # the first part first
    missing: tuple[HubFile, ...]

    @property
    def path(self) -> Path:
        """Where the first file lies once nothing is missing."""
        return self.source.cache.place(self.source.commit, self.files[0])


def find_model(wanted: HubName, progress: LoadProgress) -> FoundModel:
    """Look which files the model is. Raises SetupError, ServiceError, and whatever `progress` raises."""
    client = HubClient()
    cache = repo_cache(client.cache, wanted)
    if wanted.offline or client.offline:
        return _in_cache(client, cache, wanted, f"{'--offline' if wanted.offline else 'HF_HUB_OFFLINE'} is set")
    try:
        commit, listed = call(lambda: client.list_files(wanted), _patience(progress, client.endpoint))
    except (HubUnreachable, HubRefused) as error:
        return _in_cache(client, cache, wanted, error)
    if not COMMIT.fullmatch(commit):
        raise SetupError(f"{client.endpoint} names the commit {one_line(commit, 60)!r}; see HF_ENDPOINT")
    files = choose_files(listed, wanted, wanted.repo)
    missing = tuple(file for file in files if not cache.has(commit, file))
    found = FoundModel(Source(client, cache, wanted, commit), files, missing)
    if not missing:
        _link(found)
    return found


@contextmanager
def model_heads(found: FoundModel, progress: LoadProgress) -> Iterator[Path]:
    """The model's first file, in the context at least as far as its head; all files' sizes are true."""
    if not found.missing:
        yield found.path
        return
    with read_heads(found.source, found.files, lambda: progress(READING, 0, 0)) as path:
        yield path


def fetch_model(found: FoundModel, progress: LoadProgress) -> Path:
    """Fetch what is missing, and return the path of the model's first file.

    Raises SetupError, before anything is fetched where that is possible, and whatever `progress` raises.
    """
    if found.missing:
        started, source, cache = time.monotonic(), found.source, found.source.cache
        cache.check_space(found.missing)
        size = sum(file.bytes for file in found.missing)
        name = one_line(found.files[0].path, 120)
        facts = {"repo": source.wanted.repo, "file": name, "parts": len(found.files), "bytes": size}
        _log.info("fetching", **facts, to=str(source.cache.folder))
        try:
            fetch_files(source, found.missing, _said_now_and_then(progress))
        except HubUnreachable as error:
            raise HubUnreachable(f"{error}; what was fetched is kept: start again to go on") from error
        _link(found)
        _log.info("fetched", seconds=round(time.monotonic() - started, 1))
    return found.path


def _said_now_and_then(progress: LoadProgress) -> Callable[[int, int], None]:
    """Reports to `progress`, and writes a line to the log after every tenth: where no bar is seen, an hour is long."""
    tenths = 0

    def report(done: int, total: int) -> None:
        nonlocal tenths
        progress(FETCHING, done, total)
        if 10 * done // total > tenths:
            tenths = 10 * done // total
            _log.info("fetched_so_far", done=done, total=total)

    return report


def _link(found: FoundModel) -> None:
    cache = found.source.cache
    try:
        cache.link(found.source.commit, found.source.wanted, found.files)
    except OSError as error:
        if not all(found.source.cache.place(found.source.commit, file).is_file() for file in found.files):
            raise SetupError(
                f"{cache.folder} cannot be written: {error.strerror}; mend that, or {ELSEWHERE}"
            ) from error


def _in_cache(client: HubClient, cache: RepoCache, wanted: HubName, why: str | Exception) -> FoundModel:
    """The model as it was fetched before. Raises the error `why`, or one that says so, and what there is."""
    commit = cache.commit_of(wanted)
    here = cache.files(commit) if commit else ()
    try:
        files = choose_files(here, wanted, f"the cache {cache.folder}")
    except SetupError as error:
        kind = SetupError if isinstance(why, str | SetupError) else ServiceError
        raise kind(f"{wanted}: {why}; {error if here else f'nothing of it is in the cache {client.cache}'}") from error
    assert commit is not None
    _log.warning("from_the_cache", model=str(wanted), file=one_line(files[0].path, 120), commit=commit, error=str(why))
    return FoundModel(Source(client, cache, wanted, commit), files, ())


def _patience(progress: LoadProgress, endpoint: str) -> Callable[[], None]:
    end = time.monotonic() + ANSWER_SECONDS

    def poll() -> None:
        progress(ASKING, 0, 0)
        if time.monotonic() > end:
            raise HubUnreachable(f"{endpoint} does not answer within {ANSWER_SECONDS:.0f} s")

    return poll
