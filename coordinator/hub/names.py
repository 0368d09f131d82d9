"""The name of a model on a hub, as llama.cpp's users write it: OWNER/REPO, or OWNER/REPO:QUANT."""

from __future__ import annotations

import re
from dataclasses import dataclass

from numoe.protos.errors import SetupError
from numoe.protos.foreign_text import one_line

MAIN = "main"  # the branch that a repository has unless another is asked for
_REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_QUANT = re.compile(r"[A-Za-z0-9._-]+")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")


@dataclass(frozen=True, slots=True)
class HubName:
    """Which model is wanted."""

    repo: str  # OWNER/REPO
    quant: str = ""  # as in the names of its files: "Q4_K_M"; "": the usual one
    file: str = ""  # the file's path in the repository, which counts instead of `quant`; "": not named
    revision: str = MAIN  # a branch, a tag or a commit
    offline: bool = False  # whether only the cache is looked at

    def __str__(self) -> str:
        return self.repo + (f":{self.quant}" if self.quant else "")


def read_name(text: str, file: str | None = None, revision: str | None = None, offline: bool = False) -> HubName:
    """The name in `text`. Raises SetupError for one that no hub can have."""
    repo, colon, quant = text.partition(":")
    if "@" in repo:
        _refuse(text, "a revision is named by --hf-revision")
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        _refuse(text, "it must be OWNER/REPO or OWNER/REPO:QUANT")
    if colon and not _QUANT.fullmatch(quant):
        _refuse(text, "behind the colon a quantisation such as Q4_K_M is expected")
    if quant and file:
        _refuse(text, f"it names a quantisation and --hf-file {one_line(file, 60)} a file: leave one of them out")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise SetupError(f"--hf-revision is {one_line(revision, 60)}, expected a branch, a tag or a commit")
    # "latest" is what llama.cpp calls a name without a quantisation.
    return HubName(repo, "" if quant.lower() == "latest" else quant, file or "", revision or MAIN, offline)


def _refuse(text: str, why: str) -> None:
    raise SetupError(f"--hf-repo is {one_line(text, 120)}: {why}")
