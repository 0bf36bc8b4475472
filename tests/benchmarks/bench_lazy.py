"""Lazy decoding beside decoding from all passages: the same tokens, and the time that it takes.

Tokens are compared on random questions to random generators, with priors of several shapes. Where the tokens of a
question differ, the whole mixture's two best allowed tokens have to lie within d of one another; such questions are
listed. Time is taken on the demo's reader, at its own priors, at half their scale, and at flat ones.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import BartConfig, BartForConditionalGeneration

from pipelines.demo import command as demo
from rag_ops.generation.bart import Bart
from rag_ops.generation.decoding import Batch, Constraints, Hypothesis
from rag_ops.generation.greedy import greedy
from rag_ops.generation.lazy import LazyGreedy
from rag_ops.generation.rag_token import Answer, GenerationSettings, RagTokenGenerator
from rag_ops.generation.reading import encode, pad_rows
from rag_ops.models.encoder import Encoder
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from schemas.passages import Passage
from tests.benchmarks.bench_reader import compose
from tests.benchmarks.common import THREADS, Result, encoder, excerpt, ragbeam

VOCABULARY, END, RANDOM_DOCS, LONGEST_CONTEXT, NEW_TOKENS = 120, 2, 8, 24, 8
RULES = Constraints(END, (END,), NEW_TOKENS)
DOCS, ROUNDS = 15, 5
FLAT = 1e-9  # a score scale of which all priors are alike
WANTED = {
    "its own priors": (demo.SCORE_SCALE, 1.8),
    "half their scale": (demo.SCORE_SCALE / 2, 0.95),
    "flat priors": (FLAT, 0.95),
}
# Logits of passages from random numbers: of no passage much, of a few, of one, of two alike.
PRIORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "even": lambda draw: 0.3 * draw,
    "mild": lambda draw: draw,
    "sharp": lambda draw: 4 * draw,
    "falling": lambda draw: -2 * np.log1p(np.arange(draw.shape[1])) + 0.1 * draw,
    "one": lambda draw: np.where(np.arange(draw.shape[1]) == 0, 6.0, draw),
    "two": lambda draw: np.where(np.arange(draw.shape[1]) < 2, 4.0, draw),
    "flat": lambda draw: 0 * draw,
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Random questions, how many of them to a batch, generators; passages and questions of the demo, rounds."""

    random_questions: int = 10_000
    batch: int = 100
    generators: int = 5
    passages: int | None = None
    questions: int = 32
    rounds: int = ROUNDS
    priors: Sequence[str] = tuple(WANTED)


TOY = Sizes(56, 28, 1, 24, 2, 1, ("its own priors",))


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Shares of random questions with the same tokens, and times of all passages over those of lazy decoding."""
    torch.set_num_threads(THREADS)
    with torch.inference_mode():
        results = [identical(sizes)]
    model, questions, passages, scores = retrieved(directory, sizes)
    for name in sizes.priors:
        results.append(speed(name, sizes, model, questions, passages, scores))
    return results


def identical(sizes: Sizes) -> Result:
    """Random questions with the same tokens, of all."""
    same, asked, close, read, given, wrong = 0, 0, [], 0, 0, []
    for number, block in enumerate(blocks(sizes)):
        expected, found = block.greedily(), block.lazily()
        asked, given, read = asked + len(found), given + block.docs.sum(), read + sum(one.read.sum() for one in found)
        for row, (one, whole) in enumerate(zip(found, expected, strict=True)):
            if one.tokens == whole.tokens:
                same += 1
                continue
            gap = block.gap(row, one, whole)
            (close if gap <= block.error else wrong).append(f"{number}:{row} ({gap:.1e})")
    listed = "; ".join(close) or "none"
    text = (
        f"{same} of {asked} with the same tokens, within d: {listed}; {read / given:.0%} of {RANDOM_DOCS} passages read"
    )
    if wrong:
        text += f"; NOT within d: {'; '.join(wrong)}"
    return Result(
        "lazy, random questions with the same tokens", same / asked, "1.00 but for ties", not wrong, text, not wrong
    )


def blocks(sizes: Sizes) -> Iterator[RandomBlock]:
    """Batches of random questions."""
    count = sizes.random_questions // sizes.batch
    generators = [random_generator(seed) for seed in range(sizes.generators)]
    for number in range(count):
        yield RandomBlock(generators[number % len(generators)], sizes.batch, number)


def random_generator(seed: int) -> Bart:
    """A small random BART, whose weights are large enough that its answers differ."""
    torch.manual_seed(seed)
    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 16, "vocab_size": VOCABULARY}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": END, "forced_eos_token_id": None}
    spread = (0.2, 0.35, 0.5)[seed % 3]
    model = BartForConditionalGeneration(BartConfig(**sizes, **special, init_std=spread, tie_word_embeddings=False))
    model.final_logits_bias[0, END] += 1
    return Bart(model.eval())


class RandomBlock:
    """Random questions, each with priors of another shape than the one before; some have few passages."""

    def __init__(self, generator: Bart, questions: int, seed: int):
        draw = np.random.default_rng(seed)
        self.generator, self.error = generator, generator.probability_error(LONGEST_CONTEXT)
        self.docs = np.where(draw.random(questions) < 0.8, RANDOM_DOCS, draw.integers(1, RANDOM_DOCS, questions))
        self.contexts = [
            [draw.integers(3, VOCABULARY, draw.integers(4, LONGEST_CONTEXT)).tolist() for _ in range(n)]
            for n in self.docs
        ]
        shapes = list(PRIORS.values())
        normal = draw.standard_normal((questions, 1, RANDOM_DOCS))
        scores = np.concatenate([shapes[row % len(shapes)](normal[row]) for row in range(questions)])
        scores[np.arange(RANDOM_DOCS) >= self.docs[:, None]] = -np.inf
        self.log_prior = torch.from_numpy(scores.astype(np.float32)).log_softmax(-1)

    def encode(self, pairs: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """States and mask of passages."""
        ids, mask = pad_rows([self.contexts[question][doc] for question, doc in pairs], 0, "cpu")
        return encode(self.generator, ids, mask), mask

    def greedily(self) -> list[Hypothesis]:
        """Answers from all passages."""
        rows = [(row, min(doc, n - 1)) for row, n in enumerate(self.docs.tolist()) for doc in range(RANDOM_DOCS)]
        return greedy(Batch(self.generator, *self.encode(rows), self.log_prior, RULES))

    def lazily(self) -> list[Hypothesis]:
        """Answers from the passages that they need."""
        return LazyGreedy(self.generator, self.encode, self.log_prior, RULES, None, self.error).decode()

    def gap(self, row: int, one: Hypothesis, whole: Hypothesis) -> float:
        """How far the whole mixture's two best tokens lie apart where two answers part; in float64."""
        place = next(n for n, (a, b) in enumerate(zip(one.tokens, whole.tokens, strict=False)) if a != b)
        docs = int(self.docs[row])
        states, mask = self.encode([(row, doc) for doc in range(docs)])
        begun = torch.tensor([[END, *whole.tokens[:place]]] * docs)
        cache = self.generator.start(states, mask, NEW_TOKENS)
        logits = self.generator.logits(self.generator.replay(begun, cache)[:, -1]).double()
        mixture = (self.log_prior[row, :docs, None].double().exp() * logits.softmax(-1)).sum(0)
        first, second = mixture.topk(2).values.tolist()
        return first - second


def retrieved(directory: Path, sizes: Sizes) -> tuple[Path, list[str], list[list[Passage]], np.ndarray]:
    """The demo's reader, its questions, and the 15 passages of the demo's excerpt that its encoder finds for each."""
    ragbeam("chunk", "--input", excerpt(), "--output", directory / "passages", "--num_shards", 1)
    shard = read_manifest(str(directory / "passages"), "chunk").shards[0]
    rows = read_parquet(str(directory / "passages" / shard.path)).slice(0, sizes.passages).to_pylist()
    model = compose(directory, demo.TRAINED)
    asked = [json.loads(line)["question"] for line in Path(demo.QUESTIONS).read_text().splitlines()][: sizes.questions]
    reader = Encoder.load(encoder(), role="context", device="cpu", threads=THREADS)
    vectors, _ = reader.encode([row["title"] for row in rows], [row["text"] for row in rows])
    queries, _ = Encoder.load(str(model), role="question", device="cpu", threads=THREADS).encode(asked)
    scores = queries @ vectors.T
    best = np.argsort(-scores, kind="stable")[:, :DOCS]
    found = [[Passage(rows[n]["id"], rows[n]["title"], rows[n]["text"]) for n in own] for own in best]
    return model, asked, found, np.take_along_axis(scores, best, 1).astype(np.float32)


def speed(
    name: str, sizes: Sizes, model: Path, questions: list[str], passages: list[list[Passage]], scores: np.ndarray
) -> Result:
    """Seconds from all passages over seconds of lazy decoding: medians of rounds that take turns."""
    scale, wanted = WANTED[name]
    settings = {"max_new_tokens": 20, "extractive": True, "score_scale": scale}
    pair = [
        RagTokenGenerator.load(
            str(model), GenerationSettings(**settings, lazy=lazy), device="cpu", threads=THREADS, dtype="float32"
        )
        for lazy in (False, True)
    ]
    found: list[list[Answer]] = [one.answer(questions[:1], passages[:1], scores[:1]) for one in pair]
    seconds: list[list[float]] = [[], []]
    for _ in range(sizes.rounds):
        for place, one in enumerate(pair):
            start = time.perf_counter()
            found[place] = one.answer(questions, passages, scores)
            seconds[place].append(time.perf_counter() - start)
    whole, lazy = map(statistics.median, seconds)
    same = sum(list(a.token_ids) == list(b.token_ids) for a, b in zip(*found, strict=True))
    right = same == len(questions)
    read = sum(one.read for one in found[1]) / len(questions)
    text = (
        f"{len(questions) / lazy:.2f} questions/s, {len(questions) / whole:.2f} from all; {same} of {len(questions)} "
        f"identical; {read:.1f} of {DOCS} passages read; the demo's reader"
    )
    return Result(
        f"lazy / all passages, {name}", whole / lazy, f">= {wanted:.2f}", whole / lazy >= wanted and right, text, right
    )
