"""The models that speed is measured on: random weights in real shapes, with the types of real files, written once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from numoe.model.made_up.synthetic import write_synthetic_model
from numoe.model.made_up.synthetic_shape import PRESETS, SyntheticShape
from numoe.model.made_up.type_mixes import named
from numoe.protos.folders import cache_folder


def _shape(preset: str, layers: int, type_name: str) -> SyntheticShape:
    tensor_type, mix = named(type_name)
    return replace(PRESETS[preset], layers=layers, type=tensor_type, mix=mix)


# Fewer layers than the real models where those would not fit 20 GB: a layer costs the same in any number of them, but
# `output` and what a step costs once weigh more.
CASES: Mapping[str, SyntheticShape] = MappingProxyType(
    {
        "30b-q8_0": _shape("qwen3-30b-a3b", 12, "Q8_0"),
        "30b-q4_k_m": _shape("qwen3-30b-a3b", 12, "Q4_K_M"),
        "30b-q2_k": _shape("qwen3-30b-a3b", 48, "Q2_K"),
        "235b-q8_0": _shape("qwen3-235b-a22b", 4, "Q8_0"),
    }
)


def default_folder() -> Path:
    """Where models and results are kept, unless said otherwise."""
    return cache_folder() / "bench"


def model_path(folder: Path, name: str, shape: SyntheticShape) -> Path:
    """One file per shape, whatever it is called: the digest of all its sizes and types is in the name."""
    digest = hashlib.sha256(repr(shape).encode()).hexdigest()[:8]
    return folder / f"{name}-{shape.layers}layers-{digest}.gguf"


def written_model(folder: Path, name: str, shape: SyntheticShape) -> Path:
    """The model's file, written if it is not there yet."""
    path = model_path(folder, name, shape)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_synthetic_model(path, shape)
    return path
