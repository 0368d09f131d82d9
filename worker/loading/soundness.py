"""Looks for weights that are no numbers: one of them spoils answers without an error anywhere.

Of quantised rows only the scales are looked at, d and m of every file block, as all else is whole numbers; of floats
all values. Their exponents tell: all bits are set where a float is infinite or NaN, and MXFP4's are the scales.
That takes 2 to 3 % of the time of packing, 30 % for floats.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.weights.formats import BY_GGML_TYPE, Format
from numoe.model.gguf.tensors import TensorInfo
from numoe.protos.errors import ModelFileError

# Where d, and m, begin in file blocks that do not begin with them; see kernels/weights/file_blocks.py.
_PLACES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}
_WITH_M = ("Q4_1", "Q5_1", "Q4_K", "Q5_K")
_MOST_EXPONENT = 252  # of MXFP4: 12 * 2**(252 - 128) is the largest value that is finite


def check_rows(
    tensor: TensorInfo,
    rows: NDArray[np.uint8],  # [rows, row bytes] as in the file
    first_row: int,  # counted over all experts
) -> None:
    """Refuse rows in which a weight is infinite or no number.

    Raises:
        ModelFileError: names the tensor, the row and, where there are several, the expert.
    """
    format_ = BY_GGML_TYPE[tensor.type]
    for bad in _bad_words(format_, rows):
        if bad.any():
            row = first_row + int(np.argmax(bad.any(axis=1)))
            place = f"row {row % tensor.shape[-2]}"
            if len(tensor.shape) > 2:
                place += f" of expert {row // tensor.shape[-2]}"
            raise not_finite(tensor, place)


def check_vector(tensor: TensorInfo, values: NDArray[np.float32]) -> None:  # [n]
    """Refuse a norm or bias in which a value is infinite or no number. Raises ModelFileError."""
    if not np.isfinite(values).all():
        raise not_finite(tensor, f"value {np.argmin(np.isfinite(values))}")


def not_finite(tensor: TensorInfo, place: str) -> ModelFileError:
    """The error of a tensor that holds, at some place, a weight that is no number."""
    problem = f"{tensor.path}: {tensor.name}, {place}, holds a weight that is infinite or no number"
    return ModelFileError("weight-not-finite", f"{problem}, expected finite ones only; copy or convert the model again")


def _bad_words(format_: Format, rows: NDArray[np.uint8]) -> Iterator[NDArray[np.bool_]]:  # [rows, ...] each
    """Which of the rows' floats are infinite or NaN, by the bytes that hold the exponents."""
    if not format_.integer:
        exponent = np.uint16(0x7C00 if format_.name == "F16" else 0x7F80)
        upper = rows.view(np.uint16)[:, format_.low_bits // 16 - 1 :: format_.low_bits // 16]
        yield (upper & exponent) == exponent
        return
    units = rows.reshape(len(rows), -1, format_.unit_bytes)
    if format_.scale_bytes == 1:
        yield units[:, :, 0] > _MOST_EXPONENT
        return
    for place in _PLACES.get(format_.name, (0, 2) if format_.name in _WITH_M else (0,)):
        yield (units[:, :, place + 1] & np.uint8(0x7C)) == 0x7C
