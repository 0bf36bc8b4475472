"""How far two float32 computations of the same probabilities may lie apart.

The shape of a batch decides in which order a matrix product adds up, and so its last digits. What is computed for
some passages and what would have been computed for all of them may therefore differ: by how much, this file bounds.

**One product.** A float32 sum of n products is off by at most γ(n) = n·u / (1 - n·u) of |x||w|, u = 2⁻²⁴, whatever
the order (Higham 2002, section 3.1). Roundings are not all of one sign: where they are independent and of mean 0, n
gives way to a small multiple of its square root, √n·u of |x||w| (Higham and Mary 2019, theorem 3.1).

**A path of products.** A layer adds what a product gives to its input and normalises the sum, which passes relative
errors on without making them larger; so errors of the products on a path, which are independent, add up in squares:
after products of n₁, n₂, ... terms the decoder's output h is off by ε|h|, ε = u·√(n₁ + n₂ + ...).

**Logits.** A logit is h·w + b, with |h| no more than the last normalisation lets it be (√width times its largest
gain, plus the length of its bias) and w a row of the output matrix. By Cauchy and Schwarz it is off by at most
ε|h||w|, as if the whole error of h lay along w; of random directions it is √width times less, which is what the
estimate has in hand. Two computations, each so near to the exact one, are within η = 2ε·max|h|·max|w|.

**Probabilities.** If no logit differs by more than η, no log-probability log p(v|z) = l(v) - log Σ exp(l) differs by
more than 2η; nor does the logarithm of a mixture of them. Exponentials, and sums over a vocabulary of V tokens, add a
few u and √V·u. So p'(v) is within (1 ± δ)·p(v), δ = exp(2η + 4√V·u) - 1.

**What a certificate needs.** Let A be the mixture over the passages read, as computed, and e the prior of all others.
A computation of the whole mixture P that is off by factors of 1 ± δ has, for the token b and any other token s,

    P(b) - P(s) >= (1 - δ) A(b) - (1 + δ) (A(s) + e) = A(b) - A(s) - e - δ (A(b) + A(s) + e),

and A(b) + A(s) + e is no more than 1. So d = δ: if b leads every other token by more than e + d, the whole mixture,
in whatever shapes it is computed, has b for its likeliest token.

Independence, and that layers do not amplify, are assumptions: attention with weights as sharp as those of wildly random
models amplifies. So η is taken `SPARE` times as large, and `tests/benchmarks/bench_lazy.py` measures what shapes really
make of probabilities: for a trained reader less than a fiftieth of δ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

UNIT = 2.0**-24  # half of the distance from 1 to the next number of float32
SPARE = 3.0  # for what the derivation assumes


def logit_error(terms: Iterable[int], largest: float) -> float:
    """Returns η, by which two float32 computations of a logit may differ.

    Args:
        terms: for each product on the way to the logits, how many terms its sums have.
        largest: max|h|·max|w|.
    """
    return SPARE * 2 * UNIT * math.sqrt(sum(terms)) * largest


def probability_error(logits: float, vocabulary: int) -> float:
    """Returns δ, the share by which two computations of a probability may differ, from η and the number of tokens."""
    return math.expm1(min(2 * logits + 4 * math.sqrt(vocabulary) * UNIT, 1.0))
