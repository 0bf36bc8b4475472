"""Decoding in bfloat16 on a CPU next to float32: the speed on a model of BART-base's size, and the answers that agree.

Answers are compared on the demo's reader, greedy and by 4 beams, extractive and free: with random weights the best
tokens lie so close together that any rounding changes them.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from pathlib import Path

import torch

from rag_ops.compute import processor
from rag_ops.generation.rag_token import GenerationSettings, RagTokenGenerator
from tests.benchmarks import bench_decode, bench_lazy
from tests.benchmarks.common import THREADS, Result

DTYPES = ("float32", "bfloat16")
WANTED, WANTED_SAME, DOCS = 1.6, 0.99, 5


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The model and the questions by number of beams that are timed, rounds; passages and questions of the demo."""

    model: bench_decode.Size = bench_decode.BASE
    questions: tuple[tuple[int, int], ...] = ((1, 16), (4, 8))
    rounds: int = 5
    passages: int | None = None
    demo_questions: int = 48


TOY = Sizes(bench_decode.Size(1, 32, 64, 2), ((1, 2), (4, 2)), 1, 24, 2)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Seconds in float32 over seconds in bfloat16, medians of rounds that take turns; and the share of same answers."""
    if not processor.computes("bfloat16"):
        text = "this processor has no instructions for bfloat16"
        return [Result("decode in bfloat16 / float32", 0.0, f">= {WANTED}", True, text)]
    torch.set_num_threads(THREADS)
    model = bench_decode.random_model(sizes.model)
    return [*(speed(model, beams, count, sizes.rounds) for beams, count in sizes.questions), same(directory, sizes)]


def speed(model: bench_decode.Rag, beams: int, count: int, rounds: int) -> Result:
    """Decoding of random contexts."""
    _, contexts, scores = bench_decode.make_inputs(beams, count)
    pair = [bench_decode.our_generator(model, beams, "cpu", dtype) for dtype in DTYPES]
    seconds: list[list[float]] = [[], []]
    with torch.inference_mode():
        for one in pair:
            one._answer_batch(contexts[:1], scores[:1])
        for _ in range(rounds):
            for place, one in enumerate(pair):
                start = time.perf_counter()
                for part in range(0, count, bench_decode.BATCH):
                    one._answer_batch(
                        contexts[part : part + bench_decode.BATCH], scores[part : part + bench_decode.BATCH]
                    )
                seconds[place].append(time.perf_counter() - start)
    whole, narrow = map(statistics.median, seconds)
    label = "greedy" if beams == 1 else f"{beams} beams"
    text = f"{count / narrow:.2f} questions/s, {count / whole:.2f} in float32; {bench_decode.DOCS} passages, 10 tokens"
    name = f"decode in bfloat16 / float32, {label}"
    return Result(name, whole / narrow, f">= {WANTED}", whole / narrow >= WANTED, text)


def same(directory: Path, sizes: Sizes) -> Result:
    """The share of the demo's answers that are the same in both."""
    lazily = bench_lazy.Sizes(passages=sizes.passages, questions=sizes.demo_questions)
    model, questions, passages, scores = bench_lazy.retrieved(directory, lazily)
    passages = [found[:DOCS] for found in passages]
    asked, agreeing, counts = 0, 0, []
    for beams, extractive in itertools.product((1, 4), (True, False)):
        settings = GenerationSettings(
            max_new_tokens=20,
            num_beams=beams,
            extractive=extractive,
            score_scale=bench_lazy.WANTED["its own priors"][0],
        )
        found = [
            RagTokenGenerator.load(str(model), settings, device="cpu", threads=THREADS, dtype=dtype).answer(
                questions, passages, scores
            )
            for dtype in DTYPES
        ]
        alike = sum(a.text == b.text for a, b in zip(*found, strict=True))
        counts.append(f"{'extractive' if extractive else 'free'}, {beams} beams {alike} of {len(questions)}")
        asked, agreeing = asked + len(questions), agreeing + alike
    share = agreeing / asked
    return Result(
        "answers in bfloat16 that are float32's", share, f">= {WANTED_SAME}", share >= WANTED_SAME, "; ".join(counts)
    )
