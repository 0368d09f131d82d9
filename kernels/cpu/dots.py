"""Products of small integers, summed exactly: the only operations that instruction sets do differently.

    dot4    adds to each 32-bit lane its 4 products of an unsigned byte (weights) and a signed one (activations)
    dot2    adds to each 32-bit lane its 2 products of signed words

Without VNNI there is no exact product of bytes, so the even and the odd bytes of the weights become words, and are
multiplied with activations that are words already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET
from numoe.kernels.cpu.llvm import I8, I16, I32, LANES, V16I32, V64U8, call_llvm, load_splat, offset

_V8I32, _V16I16, _V32I16, _V32U8 = (ir.VectorType(*shape) for shape in ((I32, 8), (I16, 16), (I16, 32), (I8, 32)))

# (builder, sums <16 x i32>, weights <64 x i8> or words <16 x i32>, address of the activations) -> <16 x i32>
Dot = Callable[[Any, Any, Any, Any], Any]


def _halves(builder: Any, vector: Any, half: Any) -> list[Any]:
    """The lower and the upper 256 bits, each of type `half`."""
    lanes = range(half.count), range(half.count, 2 * half.count)
    masks = [ir.Constant(ir.VectorType(I32, half.count), list(part)) for part in lanes]
    return [builder.shuffle_vector(vector, vector, mask) for mask in masks]


def _by_halves(builder: Any, name: str, halves: list[Any], *vectors: Any) -> Any:
    """Do a 256-bit operation on 512-bit vectors; `halves` are the types of halves of the result and of each vector."""
    result, *kinds = halves
    split = [_halves(builder, vector, kind) for vector, kind in zip(vectors, kinds, strict=True)]
    low, high = (call_llvm(builder, name, result, *part) for part in zip(*split, strict=True))
    lanes = ir.Constant(ir.VectorType(I32, 2 * result.count), list(range(2 * result.count)))
    return builder.shuffle_vector(low, high, lanes)


def _multiply_words(builder: Any, a: Any, b: Any) -> Any:
    """Per lane a.low * b.low + a.high * b.high, of <16 x i32> that hold two signed words each."""
    a, b = builder.bitcast(a, _V32I16), builder.bitcast(b, _V32I16)
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


def _dot4_of_bytes(builder: Any, sums: Any, weights: Any, address: Any) -> Any:
    """4 activations are 4 bytes."""
    x = load_splat(builder, address, V16I32)
    if INSTRUCTION_SET.name == "avx512vnni":
        return call_llvm(builder, "llvm.x86.avx512.vpdpbusd.512", V16I32, sums, weights, builder.bitcast(x, V64U8))
    if INSTRUCTION_SET.name == "avxvnni":
        x = builder.bitcast(x, V64U8)
        kinds = [_V8I32, _V8I32, _V32U8, _V32U8]
        return _by_halves(builder, "llvm.x86.avx512.vpdpbusd.256", kinds, sums, weights, x)
    words = builder.bitcast(weights, V16I32)
    for byte in range(4):
        product = builder.mul(_byte(builder, words, byte, signed=False), _byte(builder, x, byte, signed=True))
        sums = builder.add(sums, product)
    return sums


def _dot4_of_words(builder: Any, sums: Any, weights: Any, address: Any) -> Any:
    """4 activations are 4 words: 0, 2, then 1, 3."""
    words = builder.bitcast(weights, _V32I16)
    even = builder.and_(words, ir.Constant(_V32I16, [0x00FF] * 32))
    odd = builder.lshr(words, ir.Constant(_V32I16, [8] * 32))
    for half, word in enumerate((even, odd)):
        x = load_splat(builder, offset(builder, address, 4 * half), V16I32)
        sums = builder.add(sums, _multiply_words(builder, builder.bitcast(word, V16I32), x))
    return sums


def dot2(builder: Any, sums: Any, words: Any, x: Any) -> Any:
    """sums + words.low * x.low + words.high * x.high; all <16 x i32>, words and x hold two signed words a lane."""
    if INSTRUCTION_SET.name == "avx512vnni":
        return call_llvm(builder, "llvm.x86.avx512.vpdpwssd.512", V16I32, sums, words, x)
    if INSTRUCTION_SET.name == "portable":
        for word in range(2):
            sums = builder.add(sums, builder.mul(_word(builder, words, word), _word(builder, x, word)))
        return sums
    return builder.add(sums, _multiply_words(builder, words, x))


dot4: Dot = _dot4_of_bytes if INSTRUCTION_SET.value_bytes == 1 else _dot4_of_words


def lookup(builder: Any, indices: Any, table: tuple[int, ...]) -> Any:
    """table[index] for each of 64 bytes in 0 .. 15."""
    if INSTRUCTION_SET.name.startswith("avx512"):
        values = ir.Constant(indices.type, list(table) * 4)
        return call_llvm(builder, "llvm.x86.avx512.pshuf.b.512", indices.type, values, indices)
    if INSTRUCTION_SET.name != "portable":
        values = ir.Constant(indices.type, list(table) * 4)
        return _by_halves(builder, "llvm.x86.avx2.pshuf.b", [_V32U8] * 3, values, indices)
    found = ir.Constant(indices.type, [table[0]] * 64)
    for index in range(1, 16):
        same = builder.icmp_unsigned("==", indices, ir.Constant(indices.type, [index] * 64))
        found = builder.select(same, ir.Constant(indices.type, [table[index]] * 64), found)
    return found
