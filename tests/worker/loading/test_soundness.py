"""A weight that is infinite or no number is found wherever it lies, and named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numoe.kernels.weights.formats import Format
from numoe.model.gguf.tensors import TensorInfo, TensorType
from numoe.protos.errors import ModelFileError
from numoe.worker.loading.soundness import check_rows
from tests.kernels.numeric import SEED, dequantised, every_format, random_rows
from tests.tiny_model import write_tiny_model
from tests.worker.loading.test_loader import UNEVEN, load, plan_of
from tests.worker.running.shard_process import read_spec

VALUES, ROWS = 512, 6  # of two experts


def tensor_of(format_: Format) -> TensorInfo:
    return TensorInfo("blk.0.ffn", TensorType(format_.ggml_type), (2, ROWS // 2, VALUES), Path("m.gguf"), 0, 0)


@every_format
def test_what_is_refused_is_what_would_be_dequantised_to_no_number(format_: Format) -> None:
    """Every 16 bits of a row are set to all ones in turn, then to an infinite half float, a bfloat16 and a number."""
    random = np.random.default_rng(SEED)
    for place in range(0, VALUES // format_.unit_values * format_.unit_bytes // 2, 3):
        for word in (0xFFFF, 0x7C00, 0xFF80, 0x7BFF):
            rows = random_rows(format_, ROWS, VALUES, random)
            check_rows(tensor_of(format_), rows, 0)
            rows[4].view(np.uint16)[place] = word
            with np.errstate(all="ignore"):
                finite = np.isfinite(dequantised(format_, rows)).all()
            if format_.name == "MXFP4":  # of a scale that only some quants survive, the quants are not looked at
                finite = rows[4, :: format_.unit_bytes].max() < 253
            if finite:
                check_rows(tensor_of(format_), rows, 0)
            else:
                with pytest.raises(ModelFileError, match=r"^m\.gguf: blk\.0\.ffn, row 1 of expert 1, holds a weight"):
                    check_rows(tensor_of(format_), rows, 0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is damaged, and how the place is told."""

    tensor: str
    row: int
    told: str


@pytest.mark.parametrize(
    "place",
    [
        Place("blk.0.attn_q.weight", 17, "row 17"),
        Place("blk.1.attn_v.weight", 3, "row 3"),
        Place("blk.1.ffn_gate_exps.weight", 160 + 7, "row 7 of expert 1"),
        Place("blk.0.ffn_down_exps.weight", 2 * 96 + 95, "row 95 of expert 2"),
        Place("token_embd.weight", 330, "row 330"),
        Place("output.weight", 0, "row 0"),
        Place("blk.1.ffn_norm.weight", 0, "value 0"),
    ],
    ids=lambda place: place.tensor,
)
def test_a_model_with_one_is_refused_while_it_is_loaded(tmp_path: Path, place: Place) -> None:
    path = tmp_path / "own.gguf"
    write_tiny_model(path, UNEVEN)
    spec = read_spec(path)
    layers = [getattr(layer, name) for layer in spec.layer_tensors for name in layer.__dataclass_fields__]
    tensors: dict[str, Any] = {one.name: one for one in (spec.token_embedding, spec.output, *layers) if one is not None}
    tensor = tensors[place.tensor]
    row_bytes = tensor.bytes // int(np.prod(tensor.shape[:-1]))
    with path.open("r+b") as file:
        file.seek(tensor.offset + place.row * row_bytes)
        file.write(b"\x80\x7f\xff\x7f" if tensor.type == TensorType.BF16 else b"\xff\xff\xff\xff")
    spec = read_spec(path)  # of the file as it is now
    plan = plan_of(spec, 1)
    with pytest.raises(
        ModelFileError, match=rf"own\.gguf: {re.escape(place.tensor)}, {place.told}, holds a weight"
    ) as caught:
        load(spec, plan, plan.shards[0])
    assert caught.value.reason == "weight-not-finite"
