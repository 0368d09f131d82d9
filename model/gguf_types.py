"""How many bytes the values of each ggml tensor type take: the one table behind every byte range in a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from numoe.model.spec import TensorType

# Type: (values per block, bytes per block). A row is a whole number of blocks. Source: ggml-common.h of llama.cpp.
BLOCKS: Mapping[TensorType, tuple[int, int]] = MappingProxyType(
    {
        TensorType.F32: (1, 4),
        TensorType.F16: (1, 2),
        TensorType.Q4_0: (32, 18),
        TensorType.Q4_1: (32, 20),
        TensorType.Q5_0: (32, 22),
        TensorType.Q5_1: (32, 24),
        TensorType.Q8_0: (32, 34),
        TensorType.Q8_1: (32, 40),
        TensorType.Q2_K: (256, 84),
        TensorType.Q3_K: (256, 110),
        TensorType.Q4_K: (256, 144),
        TensorType.Q5_K: (256, 176),
        TensorType.Q6_K: (256, 210),
        TensorType.Q8_K: (256, 292),
        TensorType.IQ2_XXS: (256, 66),
        TensorType.IQ2_XS: (256, 74),
        TensorType.IQ3_XXS: (256, 98),
        TensorType.IQ1_S: (256, 50),
        TensorType.IQ4_NL: (32, 18),
        TensorType.IQ3_S: (256, 110),
        TensorType.IQ2_S: (256, 82),
        TensorType.IQ4_XS: (256, 136),
        TensorType.I8: (1, 1),
        TensorType.I16: (1, 2),
        TensorType.I32: (1, 4),
        TensorType.I64: (1, 8),
        TensorType.F64: (1, 8),
        TensorType.IQ1_M: (256, 56),
        TensorType.BF16: (1, 2),
        TensorType.TQ1_0: (256, 54),
        TensorType.TQ2_0: (256, 66),
        TensorType.MXFP4: (32, 17),
        TensorType.NVFP4: (64, 36),
        TensorType.Q1_0: (128, 18),
    }
)


def row_bytes(tensor_type: TensorType, values: int) -> int:
    """Bytes of one row of `values`, which must be a whole number of the type's blocks."""
    block_values, block_bytes = BLOCKS[tensor_type]
    assert values % block_values == 0
    return values // block_values * block_bytes
