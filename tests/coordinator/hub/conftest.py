"""A hub on loopback, and Hugging Face's library in this process set to it as its environment would."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from numoe.coordinator.hub import reading
from numoe.coordinator.hub.cache import RepoCache, repo_cache
from numoe.coordinator.hub.choosing import HubFile
from numoe.coordinator.hub.client import HubClient
from numoe.coordinator.hub.models import FoundModel, fetch_model, find_model
from numoe.coordinator.hub.names import read_name
from tests.coordinator.hub.stand_in import StandIn, serving

REPO = "ann/Tiny-GGUF"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serving(StandIn()) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # as the client does before it imports it
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(reading, "FIRST_REST_SECONDS", 0.01)
        yield hub
    await_readers()


@pytest.fixture
def file_of(tmp_path: Path) -> Callable[[str, int], Path]:
    """Makes a file of so many bytes, different ones for each name."""

    def make(name: str, size: int) -> Path:
        path = tmp_path / "repo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(name).randbytes(size))
        return path

    return make


def await_readers() -> None:
    """Until those threads have ended that read from the hub, as they do when it is gone or they are not wanted."""
    for thread in threading.enumerate():
        if thread.name == "hub":
            thread.join(60)
            assert not thread.is_alive()


def ignore(phase: str, done: int, total: int) -> None:
    """A progress that nobody looks at."""


def find(name: str = REPO) -> FoundModel:
    return find_model(read_name(name), ignore)


def fetch(name: str = REPO) -> Path:
    return fetch_model(find(name), ignore)


def cache_of(name: str = REPO) -> RepoCache:
    return repo_cache(HubClient().cache, read_name(name))


def listed(path: str, size: int = 1, digest: str = "") -> HubFile:
    return HubFile(path, size, digest)
