"""Products of small integers, summed exactly: the only operations that instruction sets do differently.

dot4          adds to each 32-bit lane its 4 products of an unsigned byte (weights) and a signed one (activations)
dot2          adds to each 32-bit lane its 2 products of signed words
byte_pairs    without VNNI instead of dot4: sums of 2 products of bytes, of 16 bits
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET
from numoe.kernels.cpu.llvm import I8, I16, I32, LANES, V16I32, V32I16, V64U8, call_llvm, lanes_of

_V8I32, _V16I16, _V32U8 = (ir.VectorType(*shape) for shape in ((I32, 8), (I16, 16), (I8, 32)))

# Whether bytes are multiplied to sums of two, of 16 bits, which are exact for small weights only (tile_products.py).
BYTE_PAIRS = INSTRUCTION_SET.name in ("avx512", "avx2")
REGISTER = V64U8 if INSTRUCTION_SET.name.startswith("avx512") else ir.VectorType(I8, 32)


def _halves(builder: Any, vector: Any, half: Any) -> list[Any]:
    """The lower and the upper 256 bits, each of type `half`."""
    return [lanes_of(builder, vector, first, half.count) for first in (0, half.count)]


def _by_halves(builder: Any, name: str, halves: list[Any], *vectors: Any) -> Any:
    """Do a 256-bit operation on 512-bit vectors; `halves` are the types of halves of the result and of each vector."""
    result, *kinds = halves
    split = [_halves(builder, vector, kind) for vector, kind in zip(vectors, kinds, strict=True)]
    low, high = (call_llvm(builder, name, result, *part) for part in zip(*split, strict=True))
    lanes = ir.Constant(ir.VectorType(I32, 2 * result.count), list(range(2 * result.count)))
    return builder.shuffle_vector(low, high, lanes)


def _multiply_words(builder: Any, a: Any, b: Any) -> Any:
    """Per lane a.low * b.low + a.high * b.high, of <16 x i32> that hold two signed words each."""
    a, b = builder.bitcast(a, V32I16), builder.bitcast(b, V32I16)
    if INSTRUCTION_SET.name == "avx512":
        return call_llvm(builder, "llvm.x86.avx512.pmaddw.d.512", V16I32, a, b)
    return _by_halves(builder, "llvm.x86.avx2.pmadd.wd", [_V8I32, _V16I16, _V16I16], a, b)


def _word(builder: Any, lanes: Any, word: int) -> Any:
    """The low (0) or high (1) word of each lane, sign-extended."""
    bits = ir.Constant(V16I32, [16] * LANES)
    return builder.ashr(lanes if word else builder.shl(lanes, bits), bits)


def _byte(builder: Any, lanes: Any, byte: int, *, signed: bool) -> Any:
    """One byte of each lane, extended."""
    up = builder.shl(lanes, ir.Constant(V16I32, [24 - 8 * byte] * LANES))
    down = ir.Constant(V16I32, [24] * LANES)
    return builder.ashr(up, down) if signed else builder.lshr(up, down)


def dot4(builder: Any, sums: Any, weights: Any, x: Any) -> Any:
    """sums + the products of 4 unsigned bytes of the weights and 4 signed ones of x; not where BYTE_PAIRS."""
    if INSTRUCTION_SET.name == "avx512vnni":
        return call_llvm(builder, "llvm.x86.avx512.vpdpbusd.512", V16I32, sums, weights, x)
    if INSTRUCTION_SET.name == "avxvnni":
        kinds = [_V8I32, _V8I32, _V32U8, _V32U8]
        return _by_halves(builder, "llvm.x86.avx512.vpdpbusd.256", kinds, sums, weights, x)
    weights, x = builder.bitcast(weights, V16I32), builder.bitcast(x, V16I32)
    for byte in range(4):
        product = builder.mul(_byte(builder, weights, byte, signed=False), _byte(builder, x, byte, signed=True))
        sums = builder.add(sums, product)
    return sums


def byte_pairs(builder: Any, weights: Any, x: Any, signs: Any = None) -> Any:
    """Per word of a register the products of 2 unsigned bytes and 2 signed ones, added; exact where they fit 16 bits.

    With `signs`, weights have the signs of those bytes; they are given as magnitudes, at most 128.
    """
    if signs is not None:
        x = _with_signs(builder, x, signs)
    if INSTRUCTION_SET.name == "avx512":
        return call_llvm(builder, "llvm.x86.avx512.pmaddubs.w.512", V32I16, weights, x)
    return call_llvm(builder, "llvm.x86.avx2.pmadd.ub.sw", _V16I16, weights, x)


def _with_signs(builder: Any, x: Any, signs: Any) -> Any:
    """Bytes, negated where `signs` are negative; those where it is zero are not looked at."""
    if INSTRUCTION_SET.name == "avx512":
        zero = ir.Constant(V64U8, [0] * 64)
        return builder.select(builder.icmp_signed("<", signs, zero), builder.sub(zero, x), x)
    return call_llvm(builder, "llvm.x86.avx2.psign.b", _V32U8, x, signs)


def dot2(builder: Any, sums: Any, words: Any, x: Any) -> Any:
    """sums + words.low * x.low + words.high * x.high; all <16 x i32>, words and x hold two signed words a lane."""
    if INSTRUCTION_SET.name == "avx512vnni":
        return call_llvm(builder, "llvm.x86.avx512.vpdpwssd.512", V16I32, sums, words, x)
    if INSTRUCTION_SET.name == "portable":
        for word in range(2):
            sums = builder.add(sums, builder.mul(_word(builder, words, word), _word(builder, x, word)))
        return sums
    return builder.add(sums, _multiply_words(builder, words, x))


def add_pairs(builder: Any, sums: Any, words: Any, factors: Any) -> Any:
    """As `dot2`, of the lanes of one register; only where BYTE_PAIRS."""
    if sums.type.count == LANES:
        return dot2(builder, sums, words, factors)
    words, factors = builder.bitcast(words, _V16I16), builder.bitcast(factors, _V16I16)
    return builder.add(sums, call_llvm(builder, "llvm.x86.avx2.pmadd.wd", _V8I32, words, factors))


def lookup(builder: Any, indices: Any, table: tuple[int, ...]) -> Any:
    """table[index] for each of 64 or, with AVX2, 32 bytes in 0 .. 15."""
    if INSTRUCTION_SET.name.startswith("avx512"):
        values = ir.Constant(indices.type, list(table) * 4)
        return call_llvm(builder, "llvm.x86.avx512.pshuf.b.512", indices.type, values, indices)
    if INSTRUCTION_SET.name != "portable":
        values = ir.Constant(indices.type, list(table) * (indices.type.count // 16))
        if indices.type.count == 32:
            return call_llvm(builder, "llvm.x86.avx2.pshuf.b", indices.type, values, indices)
        return _by_halves(builder, "llvm.x86.avx2.pshuf.b", [_V32U8] * 3, values, indices)
    found = ir.Constant(indices.type, [table[0]] * 64)
    for index in range(1, 16):
        same = builder.icmp_unsigned("==", indices, ir.Constant(indices.type, [index] * 64))
        found = builder.select(same, ir.Constant(indices.type, [table[index]] * 64), found)
    return found
