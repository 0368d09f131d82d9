"""File blocks: the bits of every quantised format (ggml's block structs), read into the same few fields.

    format   bytes  layout of a block, in order (n x b: n numbers of b bits, packed from the low bits of each byte)
    Q4_0      18    d, 32x4                      values 0-15 in the low halves of the bytes, 16-31 in the high ones
    Q4_1      20    d, m, 32x4                   as Q4_0
    Q5_0      22    d, 32x1, 32x4                bit 4 of value i is bit i of the first four bytes
    Q5_1      24    d, m, 32x1, 32x4             as Q5_0
    Q8_0      34    d, 32x8                      signed
    IQ4_NL    18    d, 32x4                      as Q4_0
    MXFP4     17    e, 32x4                      d = 2**(e - 128)
    Q2_K      84    16x(4 + 4), 256x2, d, m      scale and minimum per 16; 2 bits of values 32j + i in byte i of each 32
    Q3_K     110    256x1, 256x2, 16x6, d        bit 2 as mask, set: not minus 4; 2 bits as Q2_K; scales + 32
    Q4_K     144    d, m, 8x(6 + 6), 256x4       per 64 values: 32 in the low halves, 32 in the high ones
    Q5_K     176    d, m, 8x(6 + 6), 256x1, 256x4
    Q6_K     210    256x4, 256x2, 16x8, d        per 128 values: 64 bytes of low bits, 32 of high ones
    IQ4_XS   136    d, 8x2, 8x4, 256x4           scale + 32: 2 high bits apart; quants per 32 as Q4_0

d and m are float16. Fields: `quants` as unsigned numbers (a signed Q8_0 value plus 128), `scales` one row of bytes per
block of 32 values as a panel has them: Q3_K, Q6_K: two scales (signed); IQ4_XS: one (signed); Q4_K, Q5_K: scale, then
minimum; Q2_K: two bytes of scale and, in the upper half, minimum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.records import Record
from numoe.kernels.weights.formats import NUMBERS

Bytes = NDArray[np.uint8]

_Q8_0, _Q4_0, _Q4_1, _Q5_0, _Q5_1 = (NUMBERS[name] for name in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"))
_IQ4_NL, _MXFP4, _IQ4_XS = (NUMBERS[name] for name in ("IQ4_NL", "MXFP4", "IQ4_XS"))
_Q2_K, _Q3_K, _Q4_K, _Q5_K, _Q6_K = (NUMBERS[name] for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"))


UNPACKED_BYTES = 4 + 16 + 256  # of the longest unit: numbers, scales, quants


class Unit(NamedTuple):
    """What is read of a file block."""

    numbers: Bytes  # [4] d, then m
    scales: NDArray[np.uint8]  # [8, 2]
    quants: Bytes  # [32 or 256]


@kernel
def unit_in(
    unpacked: Bytes,  # [UNPACKED_BYTES] scratch
    drawing: Record,
) -> Unit:
    """The places in scratch that a file block of one format is read into."""
    return Unit(unpacked[:4], unpacked[4:20].reshape(8, 2), unpacked[20 : 20 + drawing.unit_values])


@kernel
def _nibbles(quants: Bytes, block: Bytes, first: int, count: int) -> None:
    """Per `count` bytes, the low halves are `count` values, the high halves the next `count`."""
    for start in range(0, quants.size, 2 * count):
        for value in range(count):
            byte = block[first + start // 2 + value]
            quants[start + value] = byte & 15
            quants[start + count + value] = byte >> 4


@kernel
def _fifth_bits(quants: Bytes, block: Bytes, first: int) -> None:
    """Bit 4 of each of 32 values, from four bytes."""
    for value in range(32):
        quants[value] |= ((block[first + value // 8] >> (value % 8)) & 1) << 4


@kernel
def _crumbs(quants: Bytes, block: Bytes, first: int) -> None:
    """Values of 2 bits: 32 bytes hold 128 of them, 32 in each pair of bits."""
    for value in range(256):
        byte = block[first + value // 128 * 32 + value % 32]
        quants[value] = (byte >> (value // 32 % 4 * 2)) & 3


@kernel
def _scales_and_minima(scales: Bytes, block: Bytes, first: int) -> None:
    """8 scales and 8 minima of 6 bits in 12 bytes: four of each whole, the upper bits of those hold four more."""
    for index in range(4):
        scale, minimum, low = block[first + index], block[first + 4 + index], block[first + 8 + index]
        scales[index, 0], scales[index, 1] = scale & 63, minimum & 63
        scales[4 + index, 0] = (low & 15) | (scale >> 6 << 4)
        scales[4 + index, 1] = (low >> 4) | (minimum >> 6 << 4)


@kernel
def _read_q3_k(quants: Bytes, scales: Bytes, block: Bytes) -> None:
    _crumbs(quants, block, 32)
    for value in range(256):
        quants[value] |= ((block[value % 32] >> (value // 32)) & 1) << 2
    for index in range(16):
        low = (block[96 + index % 8] >> (index // 8 * 4)) & 15
        high = (block[104 + index % 4] >> (index // 4 * 2)) & 3
        scales[index // 2, index % 2] = (low | (high << 4)) - 32


@kernel
def _read_q6_k(quants: Bytes, scales: Bytes, block: Bytes) -> None:
    for value in range(256):
        half, rest = value // 128, value % 128
        low = (block[half * 64 + rest % 64] >> (rest // 64 * 4)) & 15
        high = (block[128 + half * 32 + rest % 32] >> (rest // 32 * 2)) & 3
        quants[value] = low | (high << 4)
    for index in range(16):
        scales[index // 2, index % 2] = block[192 + index]


@kernel
def _read_iq4_xs(quants: Bytes, scales: Bytes, block: Bytes) -> None:
    for index in range(8):
        low = (block[4 + index // 2] >> (index % 2 * 4)) & 15
        high = (block[2 + index // 4] >> (index % 4 * 2)) & 3
        scales[index, 0] = (low | (high << 4)) - 32
    _nibbles(quants, block, 8, 16)


@kernel
def read_file_block(
    number: int,  # of the format
    block: Bytes,  # of the file
    head: Bytes,  # [4], written: d, then m
    scales: NDArray[np.uint8],  # [8, 2], written
    quants: Bytes,  # [32 or 256], written
) -> None:
    """Unscramble one file block of a quantised format."""
    d, m = 0, 2
    if number == _Q8_0:
        for value in range(32):
            quants[value] = block[2 + value] ^ 0x80
    elif number in (_Q4_0, _IQ4_NL):
        _nibbles(quants, block, 2, 16)
    elif number == _MXFP4:
        _nibbles(quants, block, 1, 16)
    elif number == _Q4_1:
        _nibbles(quants, block, 4, 16)
    elif number == _Q5_0:
        _nibbles(quants, block, 6, 16)
        _fifth_bits(quants, block, 2)
    elif number == _Q5_1:
        _nibbles(quants, block, 8, 16)
        _fifth_bits(quants, block, 4)
    elif number == _Q2_K:
        d, m = 80, 82
        _crumbs(quants, block, 16)
        for index in range(16):
            scales[index // 2, index % 2] = block[index]
    elif number == _Q3_K:
        d = 108
        _read_q3_k(quants, scales, block)
    elif number == _Q4_K:
        _scales_and_minima(scales, block, 4)
        _nibbles(quants, block, 16, 32)
    elif number == _Q5_K:
        _scales_and_minima(scales, block, 4)
        _nibbles(quants, block, 48, 32)
        for value in range(256):
            quants[value] |= ((block[16 + value % 32] >> (value // 32)) & 1) << 4
    elif number == _Q6_K:
        d = 208
        _read_q6_k(quants, scales, block)
    else:
        _read_iq4_xs(quants, scales, block)
    head[0], head[1] = block[d], block[d + 1]
    if m + 1 < block.size:
        head[2], head[3] = block[m], block[m + 1]
