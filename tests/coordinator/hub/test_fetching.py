"""Files come whole from a hub that breaks off, is busy, or lies, and nothing that came is asked for again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir

from numoe.coordinator.hub import reading
from numoe.coordinator.hub.cache import INCOMPLETE
from numoe.coordinator.hub.client import HubUnreachable
from numoe.coordinator.hub.models import FETCHING, fetch_model
from numoe.protos.errors import SetupError
from tests.coordinator.hub.conftest import REPO, cache_of, fetch, find, ignore
from tests.coordinator.hub.stand_in import COMMIT, StandIn

FileMaker = Callable[[str, int], Path]
SIZE = 3_000_001


def kept() -> list[Path]:
    """What lies incomplete in the cache."""
    return [path for path in cache_of().folder.rglob("*") if INCOMPLETE in path.name]


def test_a_file_lies_in_the_cache_as_the_library_has_it(hub: StandIn, file_of: FileMaker) -> None:
    file = file_of("M-Q8_0.gguf", SIZE)
    hub.files[REPO] = {"M-Q8_0.gguf": file, "README.md": file_of("README.md", 10)}
    path = fetch()
    assert path.read_bytes() == file.read_bytes()
    assert path.is_symlink()
    assert str(path) == hf_hub_download(REPO, "M-Q8_0.gguf", local_files_only=True)
    seen = scan_cache_dir(cache_of().folder.parent)
    assert [(repo.repo_id, repo.size_on_disk) for repo in seen.repos] == [(REPO, SIZE)]
    assert not seen.warnings
    assert [(request.method, request.path, request.range) for request in hub.requests] == [
        ("GET", f"/api/models/{REPO}/revision/main", ""),
        ("GET", f"/{REPO}/resolve/{COMMIT}/M-Q8_0.gguf", f"bytes=0-{SIZE - 1}"),
        ("GET", f"/content/{REPO}/M-Q8_0.gguf", f"bytes=0-{SIZE - 1}"),
    ]


def test_all_parts_of_a_split_come_with_one_count_of_bytes(hub: StandIn, file_of: FileMaker) -> None:
    names = [f"Q8_0/M-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    hub.files[REPO] = {name: file_of(name, 1_000_000 + number) for number, name in enumerate(names)}
    found, reports = find(f"{REPO}:q8_0"), []
    path = fetch_model(found, lambda *report: reports.append(report))
    assert [path.with_name(name[5:]).read_bytes() for name in names] == [
        file.read_bytes() for file in hub.files[REPO].values()
    ]
    assert reports[-1] == (FETCHING, 3_000_003, 3_000_003)
    assert {report[2] for report in reports} == {3_000_003}


def test_a_file_of_git_itself_is_fetched_too(hub: StandIn, file_of: FileMaker) -> None:
    hub.lfs = False
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", 1000)}
    assert fetch().read_bytes() == hub.files[REPO]["M-Q8_0.gguf"].read_bytes()


def test_two_files_of_the_same_bytes_are_fetched_once(hub: StandIn, file_of: FileMaker) -> None:
    names = [f"M-Q8_0-{number:05d}-of-00002.gguf" for number in (1, 2)]
    hub.files[REPO] = dict.fromkeys(names, file_of("same", SIZE))
    assert fetch().with_name(names[1]).stat().st_size == SIZE
    assert hub.bytes_sent == SIZE


def test_what_came_before_a_break_is_not_asked_for_again(hub: StandIn, file_of: FileMaker) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", SIZE)}
    hub.cuts, hub.busy = [1_000_000, 0, 700_000], 2
    assert fetch().read_bytes() == hub.files[REPO]["M-Q8_0.gguf"].read_bytes()
    assert hub.bytes_sent == SIZE
    begins = [request.range.removeprefix("bytes=").partition("-")[0] for request in hub.asked("/content/")]
    assert begins == ["0", "0", "0", "1000000", "1000000", "1700000"]


def test_a_new_process_goes_on_where_the_last_one_ended(hub: StandIn, file_of: FileMaker) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", SIZE)}
    hub.cuts = [1_000_000, *[0] * 6]
    with pytest.raises(HubUnreachable, match=r"127\.0\.0\.1.*; what was fetched is kept: start again to go on"):
        fetch()
    assert [path.stat().st_size for path in kept()] == [1_000_000]
    assert fetch().read_bytes() == hub.files[REPO]["M-Q8_0.gguf"].read_bytes()
    assert (hub.bytes_sent, kept()) == (SIZE, [])


def test_a_server_without_ranges_gives_the_same_file(hub: StandIn, file_of: FileMaker) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", SIZE)}
    hub.ranges, hub.cuts = False, [1_000_000]
    assert fetch().read_bytes() == hub.files[REPO]["M-Q8_0.gguf"].read_bytes()


@pytest.mark.parametrize("ranges", [True, False])
def test_just_the_bytes_that_were_asked_for_are_given(hub: StandIn, file_of: FileMaker, ranges: bool) -> None:
    file = file_of("M-Q8_0.gguf", SIZE)
    hub.files[REPO], hub.ranges = {"M-Q8_0.gguf": file}, ranges
    found, start, end = find(), 70_000, 140_000
    pieces = found.source.client.read(found.source.wanted, COMMIT, found.files[0], start, end)
    assert b"".join(pieces) == file.read_bytes()[start:end]


def test_a_large_file_is_asked_for_in_pieces(hub: StandIn, file_of: FileMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ANSWER_BYTES", 1 << 20)
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", SIZE)}
    assert fetch().read_bytes() == hub.files[REPO]["M-Q8_0.gguf"].read_bytes()
    assert len(hub.asked("/content/")) == 3


def test_a_hub_that_sends_next_to_nothing_is_given_up(
    hub: StandIn, file_of: FileMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(reading, "SLOW_BYTES", 1 << 30)
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", SIZE)}
    with pytest.raises(HubUnreachable, match=r"sent .* bytes in 0 s"):
        fetch()


def test_a_file_that_is_listed_and_not_there_is_named_so(hub: StandIn, file_of: FileMaker) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", 100)}
    found = find()
    for failure in ((404, {"X-Error-Code": "EntryNotFound"}, ""), (404, {}, "")):
        hub.failure = failure
        with pytest.raises(SetupError, match=f"lists a file of {REPO} that it does not have"):
            fetch_model(found, ignore)


def test_bytes_that_were_spoilt_on_disk_are_fetched_anew(hub: StandIn, file_of: FileMaker) -> None:
    file = file_of("M-Q8_0.gguf", SIZE)
    hub.files[REPO] = {"M-Q8_0.gguf": file}
    found = find()
    incomplete = found.source.cache.incomplete(found.files[0])
    incomplete.parent.mkdir(parents=True)
    incomplete.write_bytes(b"x" + file.read_bytes()[1:1_000_000])
    assert fetch_model(found, ignore).read_bytes() == file.read_bytes()
    assert hub.bytes_sent == 2 * SIZE - 1_000_000


def test_more_bytes_than_the_file_has_are_cut_off(hub: StandIn, file_of: FileMaker) -> None:
    file = file_of("M-Q8_0.gguf", SIZE)
    hub.files[REPO] = {"M-Q8_0.gguf": file}
    found = find()
    incomplete = found.source.cache.incomplete(found.files[0])
    incomplete.parent.mkdir(parents=True)
    incomplete.write_bytes(file.read_bytes() + b"more")
    assert fetch_model(found, ignore).read_bytes() == file.read_bytes()
    assert hub.bytes_sent == 0


def test_other_bytes_than_listed_are_refused_and_not_kept(hub: StandIn, file_of: FileMaker) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", SIZE)}
    hub.digests["M-Q8_0.gguf"] = "ab" * 32
    with pytest.raises(SetupError, match=r"have the digest .* expected (ab){32}"):
        fetch()
    assert (hub.bytes_sent, kept(), cache_of().files(COMMIT)) == (SIZE, [], ())


def test_another_size_than_listed_is_refused_before_bytes_come(hub: StandIn, file_of: FileMaker) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", SIZE)}
    hub.sizes["M-Q8_0.gguf"] = SIZE + 1
    with pytest.raises(SetupError, match=f"with {SIZE} bytes, expected {SIZE + 1}"):
        fetch()
    assert [path.stat().st_size for path in kept()] == [0]


@pytest.mark.parametrize("digest", ["../../../evil", "", "x" * 64])
def test_a_digest_that_is_none_is_refused_before_anything_is_made(
    hub: StandIn, file_of: FileMaker, digest: str
) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", 100)}
    hub.digests["M-Q8_0.gguf"] = digest or "?"
    with pytest.raises(SetupError, match="expected a SHA-256"):
        fetch()
    assert not cache_of().folder.exists()


def test_a_spoilt_file_in_the_cache_is_fetched_again(hub: StandIn, file_of: FileMaker) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", SIZE)}
    path = fetch()
    os.truncate(path, 17)
    assert fetch().read_bytes() == hub.files[REPO]["M-Q8_0.gguf"].read_bytes()


def test_what_does_not_fit_the_disk_is_refused_before_it_is_fetched(
    hub: StandIn, file_of: FileMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", SIZE)}
    hub.cuts = [1_000_000, *[0] * 6]
    with pytest.raises(HubUnreachable):
        fetch()
    missing = SIZE - 1_000_000
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=missing - 1, f_frsize=1))
    with pytest.raises(SetupError, match=r"0\.002 GB are still to be fetched, .*set HF_HUB_CACHE or HF_HOME"):
        fetch()
    assert hub.bytes_sent == 1_000_000
    (cache_of().folder / "blobs" / f"old{INCOMPLETE}").write_bytes(bytes(5_000_000))
    with pytest.raises(SetupError, match=r"0\.005 GB are taken by blobs/\*\.numoe\.incomplete of other files"):
        fetch()
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=missing, f_frsize=1))
    assert fetch().stat().st_size == SIZE


def test_a_cache_that_cannot_be_written_is_named(hub: StandIn, file_of: FileMaker, tmp_path: Path) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", 100)}
    (tmp_path / "hub").write_text("a file where the folder is to be")
    with pytest.raises(SetupError, match=f"cannot be written: {os.strerror(errno.ENOTDIR)}; mend that"):
        fetch()


def test_one_process_fetches_a_file_at_a_time(hub: StandIn, file_of: FileMaker) -> None:
    hub.files[REPO] = {"M-Q8_0.gguf": file_of("M-Q8_0.gguf", SIZE)}
    hub.stall = 500_000

    def interrupt(phase: str, done: int, total: int) -> None:
        if hub.stalled.is_set() and done == 500_000:
            with pytest.raises(SetupError, match=r"another process fetches M-Q8_0\.gguf now"):
                fetch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_model(find(), interrupt)
