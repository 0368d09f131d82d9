"""The cache folder that all users of a hub share, as Hugging Face's library lays it out.

    models--OWNER--REPO/blobs/DIGEST                        a file's bytes
    models--OWNER--REPO/snapshots/COMMIT/PATH               a link to them
    models--OWNER--REPO/refs/REVISION                       the commit that the revision was
    models--OWNER--REPO/blobs/DIGEST.numoe.incomplete       what was fetched of a file so far, by us

*Rejected*: the library's own hf_hub_download, which in version 2.4 fetches a file that broke off from its start again,
compares no digest, and without Xet takes no file of more than 50 GB.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from numoe.coordinator.hub.choosing import HubFile
from numoe.coordinator.hub.names import HubName
from numoe.protos.errors import SetupError
from numoe.protos.foreign_text import one_line

COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
INCOMPLETE = ".numoe.incomplete"
ELSEWHERE = "set HF_HUB_CACHE or HF_HOME to a folder elsewhere"


@dataclass(frozen=True, slots=True)
class RepoCache:
    """One repository's part of the cache."""

    folder: Path  # models--OWNER--REPO

    def commit_of(self, wanted: HubName) -> str | None:
        """The commit that the revision was when it was last heard of; None: never."""
        if COMMIT.fullmatch(wanted.revision):
            return wanted.revision
        try:
            commit = (self.folder / "refs" / wanted.revision).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        return commit if COMMIT.fullmatch(commit) else None

    def files(self, commit: str) -> tuple[HubFile, ...]:
        """All whole files of a commit that are here."""
        snapshot, found = self.folder / "snapshots" / commit, []
        for folder, _, names in os.walk(snapshot):
            for path in (Path(folder) / name for name in names):
                if path.is_file():
                    found.append(HubFile(path.relative_to(snapshot).as_posix(), path.stat().st_size, ""))
        return tuple(found)

    def place(self, commit: str, file: HubFile) -> Path:
        """Where the file is opened."""
        return self.folder / "snapshots" / commit / file.path

    def blob(self, file: HubFile) -> Path:
        """Where its bytes lie. Raises SetupError for a file whose digest or size was not told."""
        if not DIGEST.fullmatch(file.digest) or file.bytes <= 0:
            told = f"the hub tells of {one_line(file.path, 120)} the digest {one_line(file.digest, 70)!r}"
            raise SetupError(f"{told} and {file.bytes} bytes, expected a SHA-256 and a size; see HF_ENDPOINT")
        return self.folder / "blobs" / file.digest

    def incomplete(self, file: HubFile) -> Path:
        """Where it grows while it is fetched."""
        blob = self.blob(file)
        return blob.with_name(blob.name + INCOMPLETE)

    def has(self, commit: str, file: HubFile) -> bool:
        """Whether it is here, of the size that the hub lists."""
        return file.bytes in (_size(self.place(commit, file)), _size(self.blob(file)))

    def link(self, commit: str, wanted: HubName, files: Sequence[HubFile]) -> None:
        """Make files whose bytes are here seen by every user of the cache. Raises OSError."""
        for file in files:
            place, blob = self.place(commit, file), self.blob(file)
            if _size(place) == file.bytes:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            new = place.with_name(f".{uuid.uuid4().hex}")
            try:
                new.symlink_to(os.path.relpath(blob, place.parent))
            except OSError:  # a file system without links, on which the library moves files too
                new = blob
            new.replace(place)
        if wanted.revision != commit:
            ref = self.folder / "refs" / wanted.revision
            if self.commit_of(wanted) != commit:
                ref.parent.mkdir(parents=True, exist_ok=True)
                new = ref.with_name(f"{ref.name}.{uuid.uuid4().hex}.tmp")
                new.write_text(commit)
                new.replace(ref)

    def check_space(self, missing: Sequence[HubFile]) -> None:
        """Raise SetupError unless the file system has room for what is missing of the files."""
        needed = sum(file.bytes - min(_size(self.incomplete(file)), file.bytes) for file in missing)
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        room = os.statvfs(folder)
        free = room.f_bavail * room.f_frsize
        if needed > free:
            sizes = f"{needed / 1e9:.3f} GB are still to be fetched, {free / 1e9:.3f} GB are free"
            kept = {self.incomplete(file) for file in missing}
            others = [path for path in self.folder.glob(f"blobs/*{INCOMPLETE}") if path not in kept]
            if others:
                gigabytes = sum(map(_size, others)) / 1e9
                sizes += f", {gigabytes:.3f} GB are taken by blobs/*{INCOMPLETE} of other files or versions"
            raise SetupError(f"{sizes} on the file system of {self.folder}: make room, or {ELSEWHERE}")


def repo_cache(cache: Path, wanted: HubName) -> RepoCache:
    """The repository's part of the cache folder."""
    return RepoCache(cache / f"models--{wanted.repo.replace('/', '--')}")


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
