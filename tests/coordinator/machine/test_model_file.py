"""A model's file is read whole, and what is odd about its text is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from numoe.coordinator.machine.model_file import read_model
from numoe.protos.errors import ModelFileError, UnsupportedModel
from tests.model.architectures.model_bytes import KeyValue, Shape, model_bytes, tensors_of
from tests.model.gguf.gguf_bytes import I32, STRING, U32, array, write
from tests.model.text.tiny_metadata import tiny_metadata
from tests.tiny_vocabulary import CHAT_TEMPLATE, CONTROL, IM_END, IM_START, tiny_vocabulary

PREFIX = "tokenizer.ggml."
TOKENS = tiny_vocabulary(400).tokens
EMBEDDINGS: dict[str, Shape] = {
    name: ((len(TOKENS), 32), shape[1])
    for name in ("token_embd.weight", "output.weight")
    if (shape := tensors_of("qwen3moe")[name]) is not None
}


def write_model(folder: Path, **keys: KeyValue) -> Path:
    """A small model with the tiny vocabulary; `keys` are changes, without their prefix."""
    metadata = tiny_metadata()
    values: dict[str, KeyValue] = {"tokenizer.chat_template": CHAT_TEMPLATE}
    values |= {name: metadata[name] for name in metadata if not isinstance(metadata[name], list)}
    values |= {PREFIX + name: array(STRING, metadata[PREFIX + name]) for name in ("tokens", "merges")}
    values[PREFIX + "token_type"] = array(I32, metadata[PREFIX + "token_type"])
    values |= {"tokenizer.chat_template" if name == "template" else PREFIX + name: keys[name] for name in keys}
    return write(folder, model_bytes(keys=values, tensors=EMBEDDINGS))


def test_of_a_sound_file_nothing_is_told(tmp_path: Path) -> None:
    with capture_logs() as said:
        _, tokenizer, template = read_model(write_model(tmp_path))
    assert (said, tokenizer.vocabulary) == ([], len(TOKENS))
    assert template is not None
    template.close()


@pytest.mark.parametrize("token_type", [1, 4, None])
def test_tokens_that_the_file_gives_another_type_are_told_in_one_line(tmp_path: Path, token_type: int | None) -> None:
    types = [token_type or 1] * len(TOKENS)
    with capture_logs() as said:
        _, tokenizer, template = read_model(write_model(tmp_path, token_type=array(I32, types) if token_type else None))
    assert template is not None
    template.close()
    assert [line["event"] for line in said] == ["tokens_taken_as_control"]
    assert said[0]["count"] == len(CONTROL)
    assert set(said[0]["tokens"].split(", ")) == set(CONTROL)
    assert tokenizer.encode(IM_START) == [TOKENS.index(IM_START)]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (array(STRING, ["a", "b"]), "tokenizer.chat_template is a list"),
        (array(U32, [1]), "tokenizer.chat_template is a list"),
        (7, "tokenizer.chat_template is a int"),
        ("", "tokenizer.chat_template is empty"),
        (" \n", "tokenizer.chat_template is empty"),
        ("{{ raise_exception('no\x1b') }}", "refuses a greeting: no?"),
    ],
)
def test_a_template_that_cannot_be_used_costs_the_chat_and_is_told(
    tmp_path: Path, template: KeyValue, told: str
) -> None:
    with capture_logs() as said:
        assert read_model(write_model(tmp_path, template=template))[2] is None
    assert [line["event"] for line in said] == ["no_chat"]
    assert told in said[0]["error"]


def test_the_template_is_given_the_first_of_several_ends_and_none_where_the_file_says_so(tmp_path: Path) -> None:
    ends = array(U32, [TOKENS.index(IM_END), 5])
    path = write_model(tmp_path, template="[{{ bos_token }}{{ eos_token }}]", eos_token_id=ends, bos_token_id=2**32 - 1)
    _, tokenizer, template = read_model(path)
    assert template is not None
    assert template.render([]) == f"[{IM_END}]"
    template.close()
    assert {5, TOKENS.index(IM_END)} <= tokenizer.end_ids
    assert tokenizer.bos_id is None


def test_faults_of_the_tokenizer_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"^/.*model\.gguf: .*eos_token_id is 400") as refusal:
        read_model(write_model(tmp_path, eos_token_id=400))
    assert refusal.value.reason == "token-id-range"
    with pytest.raises(UnsupportedModel, match=r"^/.*model\.gguf: .*'bert'"):
        read_model(write_model(tmp_path, model="bert"))
