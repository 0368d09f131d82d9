"""Models are found by name: on the hub, in the cache, or with one line that says why not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from numoe.coordinator.commands.options import HubOptions
from numoe.coordinator.hub import client, models
from numoe.coordinator.hub.client import HubUnreachable
from numoe.coordinator.hub.models import find_model
from numoe.coordinator.hub.names import read_name
from numoe.coordinator.machine.model_file import read_spec
from numoe.protos.errors import ModelFileError, ServiceError, SetupError
from tests.coordinator.hub.conftest import REPO, cache_of, fetch, find, ignore
from tests.coordinator.hub.stand_in import COMMIT, StandIn
from tests.tiny_model import TinyShape, split_paths, write_tiny_model

FileMaker = Callable[[str, int], Path]


@pytest.fixture
def fetched(hub: StandIn, file_of: FileMaker) -> Path:
    """A model that was fetched, and no request noted of it."""
    hub.files[REPO] = {name: file_of(name, 1000) for name in ("M-Q8_0.gguf", "M-Q4_K_M.gguf")}
    path = fetch(f"{REPO}:Q8_0")
    hub.requests.clear()
    return path


def test_a_model_that_is_here_takes_one_request_and_no_byte(hub: StandIn, fetched: Path) -> None:
    assert fetch(f"{REPO}:Q8_0") == fetched
    assert [request.path for request in hub.requests] == [f"/api/models/{REPO}/revision/main"]


def test_the_plan_knows_the_files_behind_the_links_of_the_cache(hub: StandIn, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "M-Q8_0.gguf", TinyShape(), parts=2)
    hub.files[REPO] = {path.name: path for path in split_paths(tmp_path / "M-Q8_0.gguf", 2)}
    first, second = read_spec(fetch()).files
    for identity in (first, second):
        assert identity.path.is_symlink()
        with identity.path.open("rb") as file:  # as a worker opens it
            identity.check(file.fileno())
    second.path.unlink()
    second.path.symlink_to(first.path.resolve())
    with second.path.open("rb") as file, pytest.raises(ModelFileError, match="was changed or replaced"):
        second.check(file.fileno())


def test_options_of_a_command_find_the_file(hub: StandIn, fetched: Path) -> None:
    assert HubOptions(hf_repo=f"{REPO}:Q8_0").find(None, ignore) == fetched
    assert HubOptions(hf_repo=REPO, hf_file="m-q8_0.gguf").find(None, ignore) == fetched
    assert (HubOptions().find(None, ignore), HubOptions().find(fetched, ignore)) == (None, fetched)


def test_offline_takes_none(hub: StandIn, fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert HubOptions(hf_repo=REPO, offline=True).find(None, ignore) == fetched
    with pytest.raises(SetupError, match=r"ann/other: --offline is set; nothing of it is in the cache"):
        HubOptions(hf_repo="ann/other", offline=True).find(None, ignore)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(f"{REPO}:Q8_0") == fetch() == fetched
    with pytest.raises(SetupError, match=r"HF_HUB_OFFLINE is set; the cache .* has no Q4_K_M: it has Q8_0"):
        fetch(f"{REPO}:Q4_K_M")
    with pytest.raises(SetupError, match="nothing of it is in"):
        fetch("ann/other")
    assert hub.requests == []


@pytest.mark.parametrize(
    "failure", [(503, {}, ""), (403, {"X-Error-Code": "GatedRepo"}, ""), (200, {}, "<html>"), (200, {}, "[" * 100_000)]
)
def test_a_hub_that_fails_is_done_without(
    hub: StandIn, fetched: Path, failure: tuple[int, dict[str, str], str]
) -> None:
    hub.failure = failure
    assert fetch(f"{REPO}:Q8_0") == fetched


def test_a_hub_that_is_gone_is_done_without(hub: StandIn, fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert fetch(f"{REPO}:Q8_0") == fetched
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:1 cannot be reached: .*; the cache .* it has Q8_0"):
        fetch(f"{REPO}:Q4_K_M")


def test_a_split_of_which_a_part_is_lost_is_not_taken_from_the_cache(
    hub: StandIn, file_of: FileMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"M-Q8_0-{number:05d}-of-00002.gguf" for number in (1, 2)]
    hub.files[REPO] = {name: file_of(name, 1000) for name in names}
    fetch().with_name(names[1]).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SetupError, match=f"of 2 parts {names[1]} is missing"):
        fetch(f"{REPO}:Q8_0")


def test_a_revision_is_fetched_and_found_again(
    hub: StandIn, file_of: FileMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", 1000)}
    for revision in (COMMIT, "main"):
        wanted = read_name(REPO, None, revision)
        assert models.fetch_model(find_model(wanted, ignore), ignore).parts[-2:] == (COMMIT, "M-Q8_0.gguf")
    with pytest.raises(SetupError, match="has no revision v9"):
        find_model(read_name(REPO, None, "v9"), ignore)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model(read_name(REPO, None, COMMIT), ignore).path == find().path


def test_a_new_commit_with_the_same_file_fetches_nothing(hub: StandIn, fetched: Path) -> None:
    hub.commit = "f" * 40
    path = fetch(f"{REPO}:Q8_0")
    assert (path.parts[-2], path.resolve()) == ("f" * 40, fetched.resolve())
    assert len(hub.requests) == 1
    assert cache_of().commit_of(read_name(REPO)) == "f" * 40


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (
            (401, {"X-Error-Code": "RepoNotFound"}, ""),
            r"has no repository ann/Tiny-GGUF .*no token is known: set HF_TOKEN",
        ),
        ((404, {}, ""), r"has no repository ann/Tiny-GGUF that this user may see: .* set HF_TOKEN"),
        (
            (403, {"X-Error-Code": "GatedRepo"}, ""),
            r"only to users who were let in, and no token is known: .*ask for access at http",
        ),
        (
            (401, {"X-Error-Message": "Invalid"}, ""),
            r"refuses ann/Tiny-GGUF with 401 \(Invalid\); no token is known: set HF_TOKEN",
        ),
        ((403, {}, '{"error": "a\\u001b[2J\\nb"}'), r"refuses ann/Tiny-GGUF with 403 \(a\?\[2J b\); no token"),
        ((500, {}, ""), "answers 500"),
        ((429, {"Retry-After": "9"}, ""), "answers 429"),
        ((200, {}, "{}"), "an answer about ann/Tiny-GGUF that is none of Hugging Face's"),
        ((200, {}, "\x1b[2J"), "an answer about ann/Tiny-GGUF that is none of Hugging Face's"),
        ((200, {}, json.dumps({"id": REPO, "siblings": []})), "does not say which commit"),
        ((200, {}, json.dumps({"id": REPO, "sha": "../x", "siblings": []})), "names the commit"),
        ((200, {}, json.dumps({"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": 5}]})), "has no GGUF file"),
        ((200, {}, json.dumps({"id": REPO, "sha": COMMIT, "siblings": [{}]})), "none of Hugging Face's"),
    ],
)
def test_a_refusal_is_said_in_one_clean_line(
    hub: StandIn, failure: tuple[int, dict[str, str], str], problem: str
) -> None:
    hub.failure = failure
    with pytest.raises((SetupError, ServiceError), match=problem) as raised:
        find()
    assert "\x1b" not in str(raised.value)


def test_the_token_goes_to_the_hub_alone(hub: StandIn, file_of: FileMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files[REPO], hub.token = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", 1000)}, "hf_secret"
    with pytest.raises(SetupError, match="no token is known"):
        find()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SetupError, match="the token is not enough") as raised:
        find()
    assert "hf_wrong" not in str(raised.value)
    monkeypatch.setenv("HF_TOKEN", "hf_wr\x01ong")
    with pytest.raises(SetupError, match="signs that no token has") as raised:
        find()
    assert "ong" not in str(raised.value)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch().is_file()
    assert {request.authorization for request in hub.asked("/content/")} == {""}
    assert {request.authorization for request in hub.asked("/resolve/")} == {"Bearer hf_secret"}


def test_a_signal_ends_the_wait_for_a_hub_that_is_silent(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = threading.Event()
    monkeypatch.setattr(client.HubClient, "list_files", lambda *_: silent.wait())

    def interrupt(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_model(read_name(REPO), interrupt)
    monkeypatch.setattr(models, "ANSWER_SECONDS", 0.0)
    with pytest.raises(ServiceError, match="does not answer within 0 s"):
        find()
    silent.set()


def test_a_silent_connection_is_given_up(hub: StandIn, file_of: FileMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files[REPO], hub.stall = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", 1000)}, 10
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    with pytest.raises(HubUnreachable, match="timed out"):
        fetch()
