"""What llama.cpp's tools call a model file: architecture, size label and kind of quantisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any

from numoe.coordinator.measuring.peaks import model_tensors, operations_per_token
from numoe.model.architectures.spec import ModelSpec
from numoe.protos.foreign_text import one_line

# general.file_type, as llama.cpp numbers and calls it.
FILE_TYPES: Mapping[int, str] = MappingProxyType(
    {
        0: "all F32",
        1: "F16",
        2: "Q4_0",
        3: "Q4_1",
        7: "Q8_0",
        8: "Q5_0",
        9: "Q5_1",
        10: "Q2_K - Medium",
        11: "Q3_K - Small",
        12: "Q3_K - Medium",
        13: "Q3_K - Large",
        14: "Q4_K - Small",
        15: "Q4_K - Medium",
        16: "Q5_K - Small",
        17: "Q5_K - Medium",
        18: "Q6_K",
        21: "Q2_K - Small",
        25: "IQ4_NL - 4.5 bpw",
        30: "IQ4_XS - 4.25 bpw",
        32: "BF16",
        38: "MXFP4 MoE",
    }
)
LONGEST_LABEL = 32  # characters; a file may say anything


def count_parameters(spec: ModelSpec) -> int:
    """Values of all tensors."""
    return sum(prod(tensor.shape) for tensor in model_tensors(spec))


def count_bytes(spec: ModelSpec) -> int:
    """Bytes of all tensors."""
    return sum(tensor.bytes for tensor in model_tensors(spec))


def describe_model(metadata: Mapping[str, Any], spec: ModelSpec) -> str:
    """For example "qwen3moe 30B.A3B Q8_0"."""
    label = metadata.get("general.size_label")
    if not isinstance(label, str) or not label.strip():
        label = _size_label(spec)
    label = one_line(label.replace("-A", ".A"), LONGEST_LABEL)
    number = metadata.get("general.file_type")
    kind = FILE_TYPES.get(number) if isinstance(number, int) else None
    return f"{spec.architecture} {label} {kind or _likely_type(spec) + ' (guessed)'}"


def _size_label(spec: ModelSpec) -> str:
    """By the count of parameters, and for experts of those that a token meets: "30B.A3B", "135M"."""
    total = count_parameters(spec)
    if not spec.routed:
        return _short(total, round)
    active = operations_per_token(spec, with_output=True) / 2 + spec.vocabulary * spec.width
    return f"{_short(total, int)}.A{_short(active, int)}"


def _short(count: float, whole: Callable[[float], int]) -> str:
    unit, name = next((pair for pair in ((1e9, "B"), (1e6, "M"), (1e3, "K")) if count >= pair[0]), (1.0, ""))
    return f"{whole(count / unit)}{name}"


def _likely_type(spec: ModelSpec) -> str:
    """The type that most values have."""
    values = Counter[str]()
    for tensor in model_tensors(spec):
        values[tensor.type.name] += prod(tensor.shape)
    [(name, _)] = values.most_common(1)
    return name
