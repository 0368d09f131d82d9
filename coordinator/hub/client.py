"""Asks a hub, by Hugging Face's own library: which files a repository has, and what bytes are in one.

*Guarantees*: HF_ENDPOINT, HF_TOKEN and the rest of the library's environment are obeyed; every wait for the network is
bounded; nothing that the hub says reaches a message before it was cleaned; its token goes to the hub alone.

The library is imported when the first client is made: it takes 0.4 s, and is installed with the extra "hub" only.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from numoe.coordinator.hub.choosing import HubFile
from numoe.coordinator.hub.names import HubName
from numoe.protos.errors import NumoeError, ServiceError, SetupError
from numoe.protos.foreign_text import one_line

if TYPE_CHECKING:
    import httpx2

BUSY = (408, 429, 500, 502, 503, 504)  # statuses of a hub that may answer the next time
LONGEST_REST_SECONDS = 60.0  # for which a hub that asks for it is left alone


class HubUnreachable(ServiceError):
    """The hub gave no answer, or one that says that it cannot now: what is in the cache may do, or another try."""

    def __init__(self, problem: str, rest_seconds: float = 0.0) -> None:
        super().__init__(problem)
        self.rest_seconds = rest_seconds  # for which it asks to be left alone


class HubRefused(SetupError):
    """The hub has no such model, or not for this user."""


class HubClient:
    """One hub. Any thread may ask."""

    def __init__(self) -> None:
        """Raises SetupError where the library is not installed, or its environment cannot be."""
        library = _import_library()
        if not re.fullmatch(r"[!-~]*", library.get_token() or ""):  # an error of HTTP's would show it
            raise SetupError(
                "the token for the hub, in HF_TOKEN or the file HF_HOME/token, has signs that no token has"
            )
        self._library = library
        self.endpoint: str = library.constants.ENDPOINT
        self.cache = Path(library.constants.HF_HUB_CACHE).absolute()
        self.offline: bool = library.constants.is_offline_mode()
        self._seconds = float(library.constants.HF_HUB_DOWNLOAD_TIMEOUT)  # of silence

    def list_files(self, wanted: HubName) -> tuple[str, tuple[HubFile, ...]]:
        """The commit that the revision is now, and all files of it. One request."""
        api = self._library.HfApi(self.endpoint, library_name="numoe", library_version=version("numoe"))
        with self._failures(wanted):
            info = api.model_info(wanted.repo, revision=wanted.revision, files_metadata=True, timeout=self._seconds)
            files = [(file.rfilename, file.size, _digest(file)) for file in info.siblings or ()]
            commit = info.sha
        if not isinstance(commit, str):
            raise HubRefused(f"{self.endpoint} does not say which commit of {wanted.repo} it answers with")
        known = [file for file in files if isinstance(file[0], str)]
        return commit, tuple(
            HubFile(path, size if isinstance(size, int) else -1, digest) for path, size, digest in known
        )

    def read(self, wanted: HubName, commit: str, file: HubFile, start: int, end: int) -> Generator[bytes]:
        """Bytes `start` to `end` of a file, in pieces as they come; to be closed.

        Raises HubUnreachable, also in the middle; HubRefused if the file is not the one that was listed.
        """
        url = self._library.hf_hub_url(wanted.repo, file.path, revision=commit)
        headers = self._library.utils.build_hf_headers(library_name="numoe", library_version=version("numoe"))
        headers |= {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with self._failures(wanted):
            session = self._library.get_session()
            # The library's sessions follow redirects, and leave the token out of those to another host.
            with session.stream("GET", url, headers=headers, timeout=self._seconds) as response:
                self._library.utils.hf_raise_for_status(response)
                position = _begin(response, file, start)
                for piece in response.iter_raw():
                    yield piece[max(start - position, 0) : end - position]
                    position += len(piece)
                    if position >= end:  # an answer that is the whole file is left here
                        return
        raise HubUnreachable(f"{self.endpoint} broke off at byte {position} of {one_line(file.path, 120)}")

    @contextmanager
    def _failures(self, wanted: HubName) -> Iterator[None]:
        """Says what the library and its HTTP say in our words."""
        import httpx2

        try:
            yield
        except self._library.errors.HfHubHTTPError as error:
            raise self._refusal(wanted, error) from error
        except self._library.errors.HFValidationError as error:
            raise SetupError(
                f"--hf-repo is {wanted}, which is no name on a hub: {one_line(str(error), 160)}"
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, self._library.errors.OfflineModeIsEnabled) as error:
            said = one_line(str(error) or type(error).__name__, 160)
            raise HubUnreachable(f"{self.endpoint} cannot be reached: {said}") from error
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            problem = f"{self.endpoint} gives an answer about {wanted.repo} that is none of Hugging Face's"
            raise HubRefused(f"{problem} ({type(error).__name__}); see HF_ENDPOINT") from error

    def _refusal(self, wanted: HubName, error: Any) -> NumoeError:
        errors, status = self._library.errors, error.response.status_code
        listing = "/api/models/" in str(error.response.url)
        told = one_line(" ".join((error.server_message or "").split()), 160)
        told = f" ({told})" if told else ""
        who = "no token is known: set HF_TOKEN" if self._library.get_token() is None else "the token is not enough"
        if status in BUSY:
            return HubUnreachable(f"{self.endpoint} answers {status}{told}", _rest(error.response.headers))
        if isinstance(error, errors.GatedRepoError):
            page = f"ask for access at {self.endpoint}/{wanted.repo}, and set HF_TOKEN to a token of that account"
            return HubRefused(f"{wanted.repo} is given only to users who were let in, and {who}; {page}")
        if isinstance(error, errors.RevisionNotFoundError):
            return HubRefused(f"{wanted.repo} has no revision {wanted.revision}; see {self.endpoint}/{wanted.repo}")
        if isinstance(error, errors.RepositoryNotFoundError) or (status == 404 and listing):
            hidden = f"{self.endpoint} has no repository {wanted.repo} that this user may see"
            return HubRefused(f"{hidden}: check how it is spelled; of a private one, {who}")
        if status == 404:
            return HubRefused(f"{self.endpoint} lists a file of {wanted.repo} that it does not have{told}")
        more = f"; {who}" if status in (401, 403) else ""
        return HubRefused(f"{self.endpoint} refuses {wanted.repo} with {status}{told}{more}")


def _import_library() -> ModuleType:
    # It would ask the hub for a list of coding agents, and tell it whether one of them runs this.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import httpx2  # noqa: F401
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils.logging
    except ImportError as error:
        raise SetupError("a model by its name on a hub needs numoe's extra: pip install 'numoe[hub]'") from error
    except ValueError as error:
        raise SetupError(f"a variable that begins with HF_ cannot be: {one_line(str(error), 160)}") from error
    # It writes what a hub says to standard error as it is; that its logging is imported sets the level, too.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL + 1)
    return huggingface_hub


def _digest(file: Any) -> str:
    digest = file.blob_id if file.lfs is None else file.lfs.sha256
    return digest if isinstance(digest, str) else ""


def _begin(response: httpx2.Response, file: HubFile, start: int) -> int:
    """The byte of the file at which the answer begins: `start`, or 0 where a server does not know ranges."""
    where = f"{one_line(file.path, 120)} comes from {one_line(urlsplit(str(response.url)).hostname or '', 60)}"
    begin, size = 0, response.headers.get("Content-Length", "")
    if response.status_code == 206:
        told, _, size = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        begin = start
        if not told.startswith(f"{start}-"):
            raise HubRefused(f"{where} with bytes {one_line(told, 40)!r}, expected those from {start} on")
    if size.isdecimal() and int(size) != file.bytes:
        raise HubRefused(f"{where} with {size} bytes, expected {file.bytes}: it is not the file that the hub lists")
    return begin


def _rest(headers: Any) -> float:
    """For how many seconds the hub asks to be left alone."""
    told = headers.get("Retry-After", "")
    return min(float(told), LONGEST_REST_SECONDS) if told.isdecimal() and len(told) < 9 else 0.0
