"""How far apart two right forward passes may be: bounds on logits from widths, layers and the roundings on the way.

Let u = 2**-24 be float32's unit roundoff; the forward of tests/forward.py runs in float64 and counts as exact.
Rounding errors of one sum of n products behave as independent and of zero mean, so the sum's relative error is at most
about u sqrt(n) (Higham and Mary 2019), n being at most the widest row W = max(D, H*K, F, T). Rounding RoPE's angles
adds T u to a rotated pair. One layer chains eight such sums: norm, q or k, scores, weighted values, output; norm, gate
or up, down; the logits add two, norm and output. Errors of different sums are independent and add in quadrature:

    one pass:  e = sqrt((u sqrt(W))**2 (8 L + 2) + L (T u)**2)

What enters a layer leaves it larger: the residual keeps it as it is, and the two branches add it again times some
gain, since softmax and router turn an error of a logit into one relative to the probability, and silu(gate) * up adds
those of its two factors. Perturbed embeddings of these models came out of L = 2 layers 2.6 times as large, of L = 4
layers 3.9 times; (1 + GAIN**2)**(L / 2) with GAIN = 1.5 is 3.3 and 10.6. Logits spread by s, and the largest of T*V
errors lies within sqrt(2 ln(T V)) standard deviations:

    |difference| <= s sqrt(2 ln(T V)) e (1 + GAIN**2)**(L / 2)

Keys and values kept in float16 add their own relative errors of at most 2**-11 each: e = 2**-11 sqrt(2 L).

Quantised matrices read their activations rounded to 8 bits in blocks of 32. The largest of 32 values of a normal
distribution has a root mean square of about 2.4, the steps are 1/127 of it, and rounding to the nearest step errs by
1 / sqrt(12) of one: 2.4 / 127 / sqrt(12) = 0.0055. Four such vectors enter a layer and one the output matrix. The
relative root mean square of the logits' errors is compared, not the largest; an error enters half way on average, and
so grows by the square root of what an error of the embedding grows by:

    rms difference <= s 0.0055 sqrt(4 L + 1) (1 + GAIN**2)**(L / 4)       0.030 s for L = 2
"""

from __future__ import annotations

import numpy as np

from numoe.model.architectures.spec import ModelSpec

GAIN = 1.5
FLOAT_UNIT, HALF_UNIT = 2.0**-24, 2.0**-11
EIGHT_BITS = 0.0055


def growth(spec: ModelSpec) -> float:
    """How many times larger an error of the embedding leaves the last layer."""
    return float((1 + GAIN**2) ** (spec.layers / 2))


def largest_error(spec: ModelSpec, tokens: int, spread: float) -> float:
    """The largest difference of logits that rounding to float32 explains."""
    widest = max(spec.width, spec.query_heads * spec.head_size, spec.expert_width, tokens)
    one_pass = FLOAT_UNIT**2 * widest * (8 * spec.layers + 2) + spec.layers * (tokens * FLOAT_UNIT) ** 2
    return spread * _extreme(spec, tokens) * float(np.sqrt(one_pass)) * growth(spec)


def largest_half_kv_error(spec: ModelSpec, tokens: int, spread: float) -> float:
    """The largest difference of logits that keys and values in float16 explain."""
    return spread * _extreme(spec, tokens) * HALF_UNIT * float(np.sqrt(2 * spec.layers)) * growth(spec)


def relative_eight_bit_error(spec: ModelSpec) -> float:
    """Root mean square of the logits' differences over their spread that activations of 8 bits explain."""
    return EIGHT_BITS * float(np.sqrt((4 * spec.layers + 1) * growth(spec)))


def _extreme(spec: ModelSpec, tokens: int) -> float:
    return float(np.sqrt(2 * np.log(tokens * spec.vocabulary)))
