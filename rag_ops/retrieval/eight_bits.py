"""Numbers of 8 bits and their products, which processors with instructions for them (VNNI, AMX) compute fastest."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from rag_ops.retrieval.vector_blocks import TINY

MAX_DIMENSION = 1 << 16  # of which a sum of 8-bit products stays within 31 bits
TRIAL_QUESTIONS, TRIAL_ROWS, TRIAL_DIMENSION = 128, 512, 768  # a millisecond or less, so that few are interrupted
TRIAL_ROUNDS = 10


def steps_of(largest: torch.Tensor) -> torch.Tensor:
    """The steps with which 127 of them make the largest of some numbers' absolute values, float32."""
    return largest.clamp(min=TINY) / 127


def to_8_bits(numbers: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Float32 numbers as multiples of a step: whole numbers from -127 to 127, in float32.

    Args:
        numbers: (rows, dimension).
        step: of each row (rows, 1), or of all.
    """
    return (numbers * (1 / step)).round_().clamp_(-127, 127)


def product(questions: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Inner products of numbers of int8 or float32, int32 or float32 (questions, vectors)."""
    return torch._int_mm(questions, vectors.T) if questions.dtype == torch.int8 else questions @ vectors.T


@functools.cache
def are_faster() -> bool:
    """Whether a product of 8-bit numbers is quicker here than one of float32."""
    shapes = (TRIAL_QUESTIONS, TRIAL_DIMENSION), (TRIAL_ROWS, TRIAL_DIMENSION)
    low, wide = ([torch.ones(shape, dtype=dtype) for shape in shapes] for dtype in (torch.int8, torch.float32))
    return _least_seconds(lambda: product(*low)) < _least_seconds(lambda: product(*wide))


def _least_seconds(call: Callable[[], object]) -> float:
    """The least wall-clock seconds that a call takes."""
    times = []
    for _ in range(TRIAL_ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
