"""Vectors on their way to the device that multiplies them by questions: block by block, copied ahead of their use."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

QUESTION_BLOCK = 1024  # questions of one product
TINY = 1e-30  # more than what a processor that takes the very smallest numbers for nothing loses of a score

# What no length of some vectors exceeds, or each one's length, float32 (vectors,): by the row of the first, how many
# they are, and the name of the function that found it.
Lengths = dict[tuple[int, int, str], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Pass:
    """How vectors go through a device.

    Attributes:
        block_rows: vectors of one product.
        questions: how many meet the vectors in one pass.
        half: whether products are of float16 numbers and blocks are carried to the device ahead.
        stored: whether they are of vectors as they are stored.
    """

    block_rows: int
    questions: int
    half: bool = False
    stored: bool = False


# With their scores, 1,024 vectors are what a CPU's caches hold, and 65,536 take 1 GB of a GPU.
PASSES = {
    "cpu": Pass(1024, QUESTION_BLOCK),
    "few": Pass(65_536, QUESTION_BLOCK, stored=True),  # on a CPU
    "cuda": Pass(65_536, 4 * QUESTION_BLOCK, half=True),
}


@dataclasses.dataclass(frozen=True)
class Block:
    """Some vectors on the device.

    Attributes:
        start: row of the first.
        vectors: (rows, dimension), float32, or float16 or bfloat16 and to be multiplied by `factor`.
        longest: greatest length of one as stored, or more.
        rounded: greatest length of what was rounded off one.
        known: lengths that are known of them.
    """

    start: int
    vectors: torch.Tensor
    longest: float
    rounded: float = 0.0
    factor: float = 1.0
    known: Lengths = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, start: int, stored: torch.Tensor, how: Pass, known: Lengths | None = None) -> Block:
        """Vectors of float32, or as they are stored; lengths that are not known are added to those that are."""
        vectors, known = stored if how.stored else stored.float(), {} if known is None else known
        found = _known(known, start, vectors, longest_by_numbers if how.stored else lengths_of)
        return cls(start, vectors, float(found.amax()), known=known)

    def lengths(self) -> torch.Tensor:
        """The length of each vector as stored, or more, float32 (rows,).

        Those of vectors as they are stored are not known before, and take the time of a product with a question.
        """
        return _known(self.known, self.start, self.vectors, lengths_of) * self.factor + self.rounded

    @functools.cached_property
    def narrow(self) -> Block:
        """The same in bfloat16, converted once."""
        return Block(self.start, self.vectors.bfloat16(), self.longest, self.longest * 2.0**-8)

    @classmethod
    def halved(cls, start: int, stored: torch.Tensor) -> Block:
        """The vectors in float16."""
        half, factor = to_half(stored)
        if stored.dtype == torch.float16:
            return cls(start, half, float(longest(stored)))
        off = torch.linalg.vector_norm(stored - half.float() * factor, dim=1).amax()
        return cls(start, half, float(longest(stored)), float(off), factor)


def blocks_of(
    vectors: np.ndarray, block_rows: int, device: str, threads: int, how: Pass, lengths: Lengths | None = None
) -> Generator[Block, None, None]:
    """Yields all vectors in order, each block on the device as its products want it."""
    if how.half:
        with contextlib.closing(_carried(vectors, block_rows, device, threads)) as carried:
            for start, stored in carried:
                yield Block.halved(start, stored)
        return
    for start in range(0, len(vectors), block_rows):
        yield Block.of(start, torch.from_numpy(vectors[start : start + block_rows]).to(device), how, lengths)


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


def _known(
    known: Lengths, start: int, vectors: torch.Tensor, find: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    place = start, len(vectors), find.__name__
    if place not in known:
        known[place] = find(vectors)
    return known[place]


def lengths_of(vectors: torch.Tensor) -> torch.Tensor:
    """The length of each vector, computed in float32."""
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float32)


def longest(vectors: torch.Tensor) -> torch.Tensor:
    """The greatest of them."""
    return lengths_of(vectors).amax()


def longest_by_numbers(vectors: torch.Tensor) -> torch.Tensor:
    """A length that no vector exceeds, for what reading the numbers takes: as if all were the largest."""
    least, most = torch.aminmax(vectors)
    return torch.maximum(-least, most).float() * math.sqrt(vectors.shape[1])


def to_half(numbers: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Float16 numbers, and the power of two that they are to be multiplied by: 1 unless float16 could not hold them."""
    if numbers.dtype == torch.float16:
        return numbers, 1.0
    largest = float(numbers.abs().amax())
    factor = 1.0 if not largest or 2.0**-6 <= largest < 2.0**15 else 2.0 ** math.frexp(largest)[1]
    return (numbers if factor == 1 else numbers / factor).half(), factor
