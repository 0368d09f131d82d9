"""Names of models on a hub."""

from __future__ import annotations

import pytest

from numoe.coordinator.hub.names import HubName, read_name
from numoe.protos.errors import SetupError


def test_a_name_is_read_as_llama_cpp_reads_it() -> None:
    assert read_name("ann/Qwen3-30B-A3B-GGUF") == HubName("ann/Qwen3-30B-A3B-GGUF")
    assert read_name("ann/M.x_2:ud-q4_k_xl") == HubName("ann/M.x_2", "ud-q4_k_xl")
    assert read_name("ann/M:latest") == HubName("ann/M")
    assert read_name("ann/M", "Q8_0/m-00001-of-00002.gguf", "refs/pr/4") == HubName(
        "ann/M", "", "Q8_0/m-00001-of-00002.gguf", "refs/pr/4"
    )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "OWNER/REPO"),
        ("Qwen3", "OWNER/REPO"),
        ("a/b/c", "OWNER/REPO"),
        ("../etc", "OWNER/REPO"),
        ("a/..", "OWNER/REPO"),
        ("a/b--c", "OWNER/REPO"),
        ("https://huggingface.co/a/b", "OWNER/REPO"),
        ("a/b:", "a quantisation such as Q4_K_M"),
        ("a/b:Q4 K", "a quantisation such as Q4_K_M"),
        ("a/b:../../c", "a quantisation such as Q4_K_M"),
        ("a/b@main:Q4_K_M", "--hf-revision"),
        ("a/b\x1b[2J", "OWNER/REPO"),
    ],
)
def test_what_is_no_name_is_refused(name: str, problem: str) -> None:
    with pytest.raises(SetupError, match=problem) as raised:
        read_name(name)
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("revision", ["", "..", "a/../b", "/etc", "a b", "a//b", "x\n"])
def test_a_revision_that_cannot_be_is_refused(revision: str) -> None:
    with pytest.raises(SetupError, match="a branch, a tag or a commit"):
        read_name("a/b", None, revision)


def test_a_quantisation_and_a_file_exclude_each_other() -> None:
    with pytest.raises(SetupError, match="leave one of them out"):
        read_name("a/b:Q8_0", "m.gguf")
