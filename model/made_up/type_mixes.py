"""Which type each matrix of a quantised file has, as llama.cpp's quantiser chooses it by the name of the mix.

A name like Q4_K_M stands for a mix: more bits where errors matter most. Source: llama_tensor_get_type in llama.cpp's
src/llama-quant.cpp, without an importance matrix; the counts of types in published files agree (tests).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from numoe.model.gguf.tensors import BLOCKS, RUNNABLE_TYPES, TensorType
from numoe.protos.errors import SetupError

_Q2_K, _Q3_K, _Q4_K, _Q5_K, _Q6_K = (TensorType[name] for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"))
_Q8_0 = TensorType.Q8_0

# The type of most matrices of a mix. F32, F16 and BF16 are no mixes.
MIXES: Mapping[str, TensorType] = MappingProxyType(
    {
        "Q2_K": _Q2_K,
        "Q2_K_S": _Q2_K,
        "Q3_K_S": _Q3_K,
        "Q3_K_M": _Q3_K,
        "Q3_K_L": _Q3_K,
        "Q4_K_S": _Q4_K,
        "Q4_K_M": _Q4_K,
        "Q5_K_S": _Q5_K,
        "Q5_K_M": _Q5_K,
        "Q6_K": _Q6_K,
        "Q8_0": _Q8_0,
        **{name: TensorType[name] for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS")},
        "MXFP4_MOE": _Q8_0,
    }
)
# What rows that are no multiple of 256 get instead.
_OF_32: Mapping[TensorType, TensorType] = MappingProxyType(
    {
        _Q2_K: TensorType.Q4_0,
        _Q3_K: TensorType.Q4_0,
        _Q4_K: TensorType.Q5_0,
        _Q5_K: TensorType.Q5_1,
        _Q6_K: _Q8_0,
        TensorType.IQ4_XS: TensorType.IQ4_NL,
    }
)
_BETTER_OUTPUT_OF_8_EXPERTS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS")


@dataclass(frozen=True, slots=True)
class MixFacts:
    """What the choice of types depends on in a model."""

    layers: int
    experts: int
    queries_per_kv: int
    tied_output: bool


def named(name: str) -> tuple[TensorType, str]:
    """The type of most matrices and the mix that a name stands for; "" for one type everywhere. Raises SetupError."""
    if name in MIXES:
        return MIXES[name], name
    if name in (kind.name for kind in RUNNABLE_TYPES):
        return TensorType[name], ""
    known = ", ".join([*MIXES, *sorted({kind.name for kind in RUNNABLE_TYPES} - MIXES.keys())])
    raise SetupError(f"{name} is no type of weights that can be made; known are {known}")


def mixed_type(mix: str, role: str, layer: int, row_values: int, facts: MixFacts) -> TensorType:
    """The type of a matrix whose rows have so many values.

    `role` is its GGUF name without layer and suffix: attn_v, ffn_down_exps, token_embd; outside the layers any layer.
    """
    chosen = _chosen(mix, role, layer, facts)
    return _OF_32.get(chosen, chosen) if row_values % BLOCKS[chosen][0] else chosen


def _chosen(mix: str, role: str, layer: int, facts: MixFacts) -> TensorType:
    if role == "output" or (role == "token_embd" and facts.tied_output):
        return _Q8_0 if MIXES[mix] is _Q8_0 else _Q6_K
    if mix == "MXFP4_MOE":
        return TensorType.MXFP4 if role.endswith("_exps") else _Q8_0
    if facts.experts == 8 and role in ("attn_k", "attn_v"):
        return _Q8_0
    rules = {"attn_v": _value, "attn_output": _attention_output, "ffn_down": _down, "ffn_down_exps": _down}
    better = rules[role](mix, layer, facts) if role in rules else None
    return better or MIXES[mix]


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighths, and every third layer between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _value(mix: str, layer: int, facts: MixFacts) -> TensorType | None:
    shared = facts.queries_per_kv >= 4
    match mix:
        case "Q2_K":
            return _Q4_K if shared else _Q3_K
        case "Q2_K_S":
            return _Q4_K if shared else None
        case "Q3_K_M":
            return _Q5_K if layer < 2 else _Q4_K
        case "Q3_K_L":
            return _Q5_K
        case "IQ4_NL" | "IQ4_XS":
            return _Q5_K if shared else None
        case "Q4_K_M" | "Q5_K_M":
            return _Q6_K if _more_bits(layer, facts.layers) else None
        case "Q4_K_S":
            return _Q5_K if layer < 4 else None
    return None


def _attention_output(mix: str, layer: int, facts: MixFacts) -> TensorType | None:
    if facts.experts == 8:
        return _Q5_K if mix in _BETTER_OUTPUT_OF_8_EXPERTS else None
    return {"Q2_K": _Q3_K, "Q3_K_M": _Q4_K, "Q3_K_L": _Q5_K}.get(mix)


def _down(mix: str, layer: int, facts: MixFacts) -> TensorType | None:
    early = layer < facts.layers // 8
    match mix:
        case "Q2_K":
            return _Q3_K
        case "Q2_K_S":
            return _Q4_K if early else None
        case "Q3_K_M":
            return _Q5_K if layer < facts.layers // 16 else _Q4_K
        case "Q3_K_L":
            return _Q5_K
        case "Q4_K_M" | "Q5_K_M":
            return _Q6_K if _more_bits(layer, facts.layers) else None
        case "IQ4_NL" | "IQ4_XS" | "Q4_K_S":
            return _Q5_K if early else None
    return None
