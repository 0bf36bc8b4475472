"""Our decoder next to transformers' generate on a GPU: BART-large's size, 5 passages, 10 new tokens, bfloat16.

Transformers gets batches of 8 questions padded to 300 tokens, as its own retriever feeds it; ours cuts its batches by
itself. The share is of the rate that a large bfloat16 matrix product reaches on the same card in the same run.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rag_ops.compute.batching import token_batches
from rag_ops.generation.rag_token import BATCH_TOKENS
from tests.benchmarks.bench_decode import (
    BASE,
    BATCH,
    LARGE,
    Size,
    make_inputs,
    needed_operations,
    our_generator,
    random_model,
    their_tokens,
)
from tests.benchmarks.common import NotHereError, Result

WANTED = 5.0
MATRIX = 8192  # rows, columns and inner size of the product that is the measure


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The model, questions by number of beams, and how many of them transformers answers: the first."""

    model: Size = LARGE
    questions: tuple[tuple[int, int], ...] = ((1, 1024), (4, 512))
    theirs: int = 64


TOY = Sizes(dataclasses.replace(BASE, layers=1), ((1, 8), (4, 8)), 8)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Questions per second as ratios, greedy and with 4 beams.

    Raises:
        NotHereError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise NotHereError("no GPU that torch can use")
    model, best_rate = random_model(sizes.model), matrix_rate()
    theirs = copy.deepcopy(model).to("cuda", torch.bfloat16)
    return [_compare(model, theirs, beams, count, best_rate, sizes) for beams, count in sizes.questions]


def matrix_rate() -> float:
    """Multiplications and additions a second of a large matrix product in bfloat16."""
    x = torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16)
    return max(2 * MATRIX**3 / seconds(lambda: x @ x) for _ in range(10))


def seconds(work: Callable[[], Any]) -> float:
    """How long some work on the GPU takes."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _compare(model: Any, theirs: Any, beams: int, count: int, best_rate: float, sizes: Sizes) -> Result:
    lengths, contexts, scores = make_inputs(beams, count)
    ours = our_generator(model, beams, "cuda", "bfloat16")
    sizes = [len(row) * max(len(ids) for ids, _ in row) for row in contexts]

    def answer() -> None:
        for batch in token_batches(sizes, BATCH_TOKENS["cuda"]):
            ours._answer_batch([contexts[n] for n in batch], scores[batch])

    def generate(questions: int) -> None:
        for start in range(0, questions, BATCH):
            part = slice(start, start + BATCH)
            their_tokens(theirs, contexts[part], scores[part], beams, "padded to 300")

    with torch.inference_mode():
        answer()  # the first of each is not counted: it sets up
        own_rate = count / seconds(answer)
        generate(BATCH)
        their_rate = sizes.theirs / seconds(lambda: generate(sizes.theirs))
    share = needed_operations(sizes.model, lengths, beams) / count * own_rate / best_rate
    figures = (
        f"{own_rate:.0f} questions/s, transformers {their_rate:.1f}; {share:.0%} of the {best_rate / 1e12:.0f} TFLOP/s "
        f"that a matrix product reaches on {torch.cuda.get_device_name()}"
    )
    label = "greedy" if beams == 1 else f"{beams} beams"
    ratio = own_rate / their_rate
    return Result(f"decode on a GPU, {label}", ratio, f">= {WANTED:.0f}", ratio >= WANTED, figures)
