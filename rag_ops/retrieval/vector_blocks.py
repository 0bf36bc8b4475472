"""Vectors on their way to the device that multiplies them by questions: block by block, copied ahead of their use."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

QUESTION_BLOCK = 1024  # questions of one product
MAX_LOW_DIMENSION = 1 << 16  # of which a sum of 8-bit products stays within 31 bits
SLACK = 1 + 2.0**-6  # for a length that is computed in float32: of MAX_LOW_DIMENSION numbers it is off by less
TINY = 1e-30  # no step is less, so that its inverse is a number


@dataclasses.dataclass(frozen=True)
class Pass:
    """How vectors go through a device.

    Attributes:
        block_rows: vectors of one product.
        questions: how many meet the vectors in one pass.
        half: whether products are of float16 numbers and blocks are carried to the device ahead.
    """

    block_rows: int
    questions: int
    half: bool


# With their scores, 1,024 vectors are what a CPU's caches hold, and 65,536 take 1 GB of a GPU.
PASSES = {"cpu": Pass(1024, QUESTION_BLOCK, False), "cuda": Pass(65_536, 4 * QUESTION_BLOCK, True)}


@dataclasses.dataclass(frozen=True)
class Block:
    """Some vectors on the device.

    Attributes:
        start: row of the first.
        vectors: (rows, dimension), float32, or float16 or int8 and to be multiplied by `factor`.
        longest: greatest length of one as stored.
        rounded: greatest length of what was rounded off one.
    """

    start: int
    vectors: torch.Tensor
    longest: float
    rounded: float = 0.0
    factor: float = 1.0

    @classmethod
    def of(cls, start: int, vectors: torch.Tensor) -> Block:
        """Vectors of float32 as they are."""
        return cls(start, vectors, float(torch.linalg.vector_norm(vectors, dim=1).amax()))

    @functools.cached_property
    def low(self) -> Block:
        """The same in 8 bits, worked out once."""
        return self.in_8_bits()

    def in_8_bits(self) -> Block:
        """The vectors, of float32, as multiples of a step that they have in common."""
        step = steps_of(self.vectors.abs().amax())
        numbers = to_8_bits(self.vectors, step)
        off = torch.linalg.vector_norm(torch.add(self.vectors, numbers, alpha=-float(step)), dim=1).amax()
        rounded = SLACK * float(off) + self.longest * 2.0**-20
        rounded = rounded if math.isfinite(rounded) else math.inf
        return Block(self.start, numbers.to(torch.int8), self.longest, rounded, float(step))

    @classmethod
    def halved(cls, start: int, stored: torch.Tensor) -> Block:
        """The vectors in float16."""
        longest = float(torch.linalg.vector_norm(stored, dim=1, dtype=torch.float32).amax())
        half, factor = to_half(stored)
        if stored.dtype == torch.float16:
            return cls(start, half, longest)
        off = torch.linalg.vector_norm(stored - half.float() * factor, dim=1).amax()
        return cls(start, half, longest, float(off), factor)


def blocks_of(vectors: np.ndarray, block_rows: int, device: str, threads: int) -> Generator[Block, None, None]:
    """Yields all vectors in order, each block on the device as its products want it."""
    if PASSES[device].half:
        with contextlib.closing(_carried(vectors, block_rows, device, threads)) as carried:
            for start, stored in carried:
                yield Block.halved(start, stored)
        return
    for start in range(0, len(vectors), block_rows):
        block = torch.from_numpy(vectors[start : start + block_rows]).to(device, torch.float32)
        yield Block.of(start, block)


def _carried(
    vectors: np.ndarray, block_rows: int, device: str, threads: int
) -> Generator[tuple[int, torch.Tensor], None, None]:
    """Yields blocks of vectors as stored, on the device, with the row of each one's first; good until the next.

    Another thread copies the next one meanwhile, by way of two page-locked buffers.
    """
    if not len(vectors):
        return
    on_card, starts = device != "cpu", range(0, len(vectors), block_rows)
    shape, dtype = (min(block_rows, len(vectors)), vectors.shape[1]), torch.from_numpy(vectors[:0]).dtype
    buffers = [torch.empty(shape, dtype=dtype, pin_memory=on_card) for _ in range(2)]
    stream = torch.cuda.Stream() if on_card else None
    copied: list[Any] = [None, None]  # an event for each buffer: its last copy to the card is over

    @torch.inference_mode()  # which is a thread's own
    def carry(number: int) -> tuple[torch.Tensor, Any]:
        part = torch.from_numpy(vectors[starts[number] : starts[number] + block_rows])
        buffer = buffers[number % 2][: len(part)]
        if stream is None:
            return buffer.copy_(part), None
        if copied[number % 2] is not None:
            copied[number % 2].synchronize()
        buffer.copy_(part)
        with torch.cuda.stream(stream):
            there = buffer.to(device, non_blocking=True)
            copied[number % 2] = stream.record_event()
        return there, copied[number % 2]

    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,)) as ahead:
        pending = ahead.submit(carry, 0)
        for number, start in enumerate(starts, 1):
            there, event = pending.result()
            if number < len(starts):
                pending = ahead.submit(carry, number)
            if event is not None:
                torch.cuda.current_stream().wait_event(event)
                there.record_stream(torch.cuda.current_stream())
            yield start, there


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


def to_half(numbers: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Float16 numbers, and the power of two that they are to be multiplied by: 1 unless float16 could not hold them."""
    if numbers.dtype == torch.float16:
        return numbers, 1.0
    largest = float(numbers.abs().amax())
    factor = 1.0 if not largest or 2.0**-6 <= largest < 2.0**15 else 2.0 ** math.frexp(largest)[1]
    return (numbers if factor == 1 else numbers / factor).half(), factor
