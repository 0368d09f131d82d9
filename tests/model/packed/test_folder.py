"""A packed folder is read as the model file it was made of, or refused in a line that says what was expected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import open_gguf
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.gguf.values import same_value
from numoe.model.packed.folder import check_origin, check_sections, open_packed
from numoe.model.packed.manifest import HASHES_FILE, MANIFEST_FILE, METADATA_FILE, SUMMED, SUMS_FILE, sums_of
from numoe.protos.errors import ModelFileError
from tests.packed_model import copies, flip, pack_here
from tests.tiny_model import TinyShape, split_paths, write_tiny_model

MODELS = {"one file": (TinyShape(), 1), "three files": (TinyShape(), 3), "tied": (TinyShape("llama", tied=True), 1)}


@pytest.fixture(scope="module", params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def model(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape, parts = MODELS[kind]
    path: Path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path, shape, parts=parts)
    return split_paths(path, parts)[0]


@pytest.fixture(scope="module")
def packed(model: Path) -> Path:
    return pack_here(model, model.parent / "packed")


@pytest.fixture
def own(packed: Path, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return next(copies(packed, tmp_path / "own"))


def opened(folder: Path) -> ModelSpec:
    file, manifest = open_packed(folder)
    return check_sections(folder, manifest, model_spec(file))


def without_places(spec: ModelSpec) -> str:
    """All of a model but where its bytes lie."""

    def bare(tensor: TensorInfo) -> TensorInfo:
        return replace(tensor, path=Path(), offset=0)

    layers = [[bare(tensor) for tensor in layer.matrices] for layer in spec.layer_tensors]
    head = [bare(tensor) for tensor in (spec.output, spec.output_norm, spec.token_embedding)]
    rest = replace(spec, files=(), layer_tensors=(), output=head[0], output_norm=head[0], token_embedding=head[0])
    return repr((rest, head, layers))


def test_a_folder_says_what_its_model_file_says(model: Path, packed: Path) -> None:
    file, (found, manifest) = open_gguf(model), open_packed(packed)
    assert found.metadata.keys() == file.metadata.keys()
    assert all(same_value(found.metadata[key], value) for key, value in file.metadata.items())
    shapes = {name: (tensor.type, tensor.shape, tensor.bytes) for name, tensor in file.tensors.items()}
    assert {name: (tensor.type, tensor.shape, tensor.bytes) for name, tensor in found.tensors.items()} == shapes
    assert without_places(opened(packed)) == without_places(model_spec(file))
    assert [origin.name for origin in manifest.packed_from] == [path.name for path in file.parts]


def test_the_files_of_a_folder_are_those_that_workers_must_find(packed: Path) -> None:
    named = {identity.path for identity in opened(packed).files}
    assert named == {path for path in packed.iterdir() if path.name != SUMS_FILE}


def test_a_model_without_a_name_keeps_that_of_its_file(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "a b.gguf", TinyShape(name=" "))
    folder = pack_here(tmp_path / "a b.gguf", tmp_path / "packed")
    assert opened(folder).name == model_spec(open_gguf(tmp_path / "a b.gguf")).name


def test_what_coreutils_check_is_right(packed: Path) -> None:
    lines = (packed / SUMS_FILE).read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == list(SUMMED)
    assert all(len(line.split("  ")[0]) == 64 for line in lines)


@pytest.mark.parametrize("name", [SUMS_FILE, MANIFEST_FILE, METADATA_FILE, HASHES_FILE])
def test_one_bit_in_what_a_folder_says_of_itself_is_found(own: Path, name: str) -> None:
    size = (own / name).stat().st_size
    for place in sorted({*range(0, size, -(-size // 200)), size - 1}):
        flip(own / name, place)
        with pytest.raises(ModelFileError, match=rf"of {own} and {SUMS_FILE} there do not agree") as caught:
            opened(own)
        assert caught.value.reason == "packed-damaged"
        flip(own / name, place)
    assert opened(own)


@pytest.mark.parametrize("name", [MANIFEST_FILE, METADATA_FILE, HASHES_FILE, "layer-001.panels", "vocabulary.panels"])
@pytest.mark.parametrize("change", ["missing", "longer", "shorter"])
def test_a_file_that_is_missing_or_of_another_length_is_refused_by_name(own: Path, name: str, change: str) -> None:
    data = (own / name).read_bytes()
    if change == "missing":
        (own / name).unlink()
    else:
        (own / name).write_bytes(data + b"\0" if change == "longer" else data[:-1])
    with pytest.raises(ModelFileError, match=name):
        opened(own)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Make up a manifest, and hashes that are right for it."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    change(manifest)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    (folder / SUMS_FILE).write_bytes(sums_of({name: (folder / name).read_bytes() for name in SUMMED}))


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str, str]] = {
    "an earlier version": (lambda m: m.update(version=1), "packed-version", "has version 1, this numoe reads 2; pack"),
    "a later version": (lambda m: m.update(version=3), "packed-version", r"has version 3, this numoe reads 2; pack"),
    "another layout": (lambda m: m.update(layout=9), "packed-layout", r"have layout 9, this numoe's kernels read 1; "),
    "another kind": (lambda m: m.update(kind="x"), "packed-kind", "is of kind 'x', expected 'numoe packed model'"),
    "no version": (lambda m: m.pop("version"), "packed-manifest", "missing required field `version`"),
    "text for a number": (lambda m: m.update(layout="1"), "packed-manifest", r"Expected `int`, got `str`"),
    "no tensors": (lambda m: m.pop("tensors"), "packed-manifest", "missing required field `tensors`"),
    "an unknown type": (lambda m: m["tensors"][0].update(type="Q9"), "packed-manifest", "Q9 of the shape"),
    "no dimension": (lambda m: m["tensors"][0].update(shape=[]), "packed-manifest", r"of the shape \(\)"),
    "a dimension of 0": (lambda m: m["tensors"][0].update(shape=[0, 64]), "packed-manifest", r"shape \(0, 64\)"),
    "half a block": (lambda m: m["tensors"][0].update(type="Q8_0", shape=[8, 33]), "packed-manifest", "Q8_0"),
    "another place": (lambda m: m["sections"][3].update(offset=1), "packed-sections", "where this numoe's panels"),
    "a section less": (lambda m: m["sections"].pop(), "packed-sections", r"has \d+ sections, expected \d+"),
    "another file": (lambda m: m["sections"][0].update(file="/etc/passwd"), "packed-sections", "attn_norm"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_manifest_that_is_made_up_is_refused(own: Path, what: str) -> None:
    change, reason, message = REFUSED[what]
    rewrite(own, change)
    with pytest.raises(ModelFileError, match=message) as caught:
        opened(own)
    assert caught.value.reason == reason
    assert str(own) in str(caught.value)


def test_what_was_not_finished_is_refused(own: Path) -> None:
    (own / SUMS_FILE).unlink()
    (own / "unfinished").touch()
    with pytest.raises(ModelFileError, match=f"{own}: packing it was not finished; pack the model anew") as caught:
        opened(own)
    assert caught.value.reason == "packed-unfinished"


@pytest.mark.parametrize(
    ("made", "found"), [("", "found nothing"), ("file", "found something else"), ("folder", "holds no SHA256SUMS")]
)
def test_what_is_no_packed_folder_is_refused(tmp_path: Path, made: str, found: str) -> None:
    path = tmp_path / "x"
    if made == "file":
        path.write_text("")
    elif made == "folder":
        path.mkdir()
    with pytest.raises(ModelFileError, match=found):
        opened(path)


def test_the_file_that_was_packed_is_known_wherever_it_lies(model: Path, packed: Path, tmp_path: Path) -> None:
    _, manifest = open_packed(packed)
    check_origin(packed, manifest, model)
    for part in model.parent.glob("*.gguf"):
        shutil.copy(part, tmp_path / part.name)
    check_origin(packed, manifest, tmp_path / model.name)


def test_another_file_is_told_from_the_one_that_was_packed(kind: str, packed: Path, tmp_path: Path) -> None:
    _, manifest = open_packed(packed)
    shape, parts = MODELS[kind]
    write_tiny_model(tmp_path / "same.gguf", shape, seed=1, parts=parts)
    write_tiny_model(tmp_path / "more.gguf", replace(shape, vocabulary=347), parts=parts)
    for name, said in (("same", "has other metadata or weights than"), ("more", r"has \d+ bytes, .* had \d+")):
        with pytest.raises(ModelFileError, match=said) as caught:
            check_origin(packed, manifest, split_paths(tmp_path / f"{name}.gguf", parts)[0])
        assert caught.value.reason == "packed-origin"
        assert f"{packed} was packed from another model" in str(caught.value)


def test_a_model_in_other_parts_is_another_file(kind: str, packed: Path, tmp_path: Path) -> None:
    shape, parts = MODELS[kind]
    others = 1 if parts > 1 else 2
    write_tiny_model(tmp_path / "tiny.gguf", shape, parts=others)
    _, manifest = open_packed(packed)
    with pytest.raises(ModelFileError, match="was packed from another model"):
        check_origin(packed, manifest, split_paths(tmp_path / "tiny.gguf", others)[0])


def test_hashes_are_of_what_lies_there(packed: Path) -> None:
    """By the definition, with nothing of ours but where sections begin."""
    manifest = json.loads((packed / MANIFEST_FILE).read_text())
    hashes = np.fromfile(packed / HASHES_FILE, np.uint8).reshape(-1, 32)
    for section in manifest["sections"]:
        experts = section["hashes"] // -(-section["bytes"] // (section["slice"] * section["stride"])) or 1
        data = (packed / section["file"]).read_bytes()[section["offset"] :][: section["bytes"]]
        size, number = len(data) // experts, section["first_hash"]
        for expert in range(experts):
            for first in range(expert * size, (expert + 1) * size, section["slice"] * section["stride"]):
                stop = min(first + section["slice"] * section["stride"], (expert + 1) * size)
                assert blake3(data[first:stop]).digest() == hashes[number].tobytes()
                number += 1
        assert number == section["first_hash"] + section["hashes"]
