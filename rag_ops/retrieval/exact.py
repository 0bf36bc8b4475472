"""Exact top-k by inner product: blocks of questions against blocks of vectors, straight from float16 or float32.

A matrix product in low precision proposes candidates; an error bound shows which can be among the best k; those
alone are scored again, in float64 and in one fixed order, from the questions as given and the vectors as stored. So
what comes out does not depend on the matrix library, on block sizes, on threads or on the device, and equal scores
stand in order of row.

The bound: an inner product of d numbers that is summed in float32, in whatever order, is off by at most d u / (1 - d u)
times the product of the two lengths, with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2002,
section 3.1). So each candidate has a score that it reaches at least and one that it reaches at most, and is out when
its most is less than the least of k others.

Where a CPU has instructions for products of 8-bit numbers, questions and vectors are rounded to multiples of a step of
their own for them: such a product is exact, and several times as fast as one of float32. By the Cauchy-Schwarz
inequality rounding moves a score by at most the length of what was rounded off, which is measured, times the other
length. More vectors can then be among the best, some ten for each that is; where there are many more (lengths or
numbers of very different sizes), float32 is used after all.

On a GPU the product is of float16 numbers, summed in float32, to which questions, and vectors stored in float32, are
rounded, with the same bound. Vectors pass through the card once for thousands of questions, block by block: a thread
copies the next block into page-locked memory and from there to the card while the card works on this one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from rag_ops.compute.devices import torch_threads
from rag_ops.compute.packed_linear import PackedLinear
from rag_ops.retrieval.topk import TopK
from rag_ops.retrieval.vector_blocks import (
    MAX_LOW_DIMENSION,
    PASSES,
    QUESTION_BLOCK,
    Block,
    blocks_of,
    steps_of,
    to_8_bits,
    to_half,
)

if TYPE_CHECKING:
    from typing_extensions import Self

MOST_HITS = 1 << 22  # candidates that one product may give at once: of more, half of its vectors are looked at first
TENSOR_CORES = 4  # how many times float32's error theirs is taken to be: they cut sums off where float32 rounds
KEPT_PER_HIT = 16  # candidates for each of the k best, on average over questions, before they are scored again
RESCORED_ROWS = 512  # candidates that are scored again at once: 3 MB at 768 numbers
TRIAL_ROWS, TRIAL_ROUNDS = 1024, 3
REFINED_PER_HIT = 3  # for each of the k best, from which on the exact scores of the k that look best are worth having
LOW_SHARE = 0.8  # of a float32 product's time: what 8 bits may take, with the rounding, to be tried
# Numbers of vectors, of questions and of a vector from which on 8 bits are tried: of fewer, the trial costs more than a
# filter saves (`tests/benchmarks/bench_exact.py`).
LOW_ROWS, LOW_QUESTIONS, LOW_DIMENSION = 100_000, 64, 512
PAIR_SECS, HIT_SECS = 2e-6, 1e-6  # that an exact score takes, and a candidate
LOW_HITS = 12  # candidates for each of the k best among the first vectors, on average, up to which 8 bits pay

Product = Callable[[torch.Tensor], torch.Tensor]  # vectors (rows, dimension) to scores (rows, questions)


def search(
    questions: np.ndarray,
    vectors: np.ndarray,
    k: int,
    *,
    device: str = "cpu",
    threads: int = 2,
    block_rows: int | None = None,
) -> TopK:
    """Finds the best k vectors for each question.

    Args:
        questions: float32 (questions, dimension).
        vectors: float16 or float32 (rows, dimension); may be memory-mapped: it is read block by block, in order.
        k: number of vectors to find.
        device: "cpu" or "cuda"; results don't depend on it.
        threads: torch threads.
        block_rows: vectors of one product; by default what suits the device. Results don't depend on it.

    Returns:
        Scores, float64 rounded to float32, and rows, counted from 0; -1 if there are fewer than k vectors.
    """
    hits, how = [TopK.empty(0, k)], PASSES[device]
    with torch_threads(threads), torch.inference_mode():
        for first in range(0, len(questions), how.questions):
            asked = np.ascontiguousarray(questions[first : first + how.questions], np.float32)
            cuts = range(0, len(asked), QUESTION_BLOCK)
            searches = [_Search(asked[cut : cut + QUESTION_BLOCK], vectors, k, device) for cut in cuts]
            with contextlib.closing(blocks_of(vectors, block_rows or how.block_rows, device, threads)) as blocks:
                for block in blocks:
                    for one in searches:
                        one.look_at(block)
            hits += [one.finish() for one in searches]
    return TopK(np.concatenate([part.scores for part in hits]), np.concatenate([part.rows for part in hits]))


def score_pairs(questions: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Inner products of pairs, float64 (pairs,), the same on every machine.

    A product of two float32 is exact in float64; products are added up by halves, in an order that the dimension alone
    decides.

    Args:
        questions: float32 (pairs, dimension).
        vectors: float16 or float32 (pairs, dimension).
    """
    if not len(questions):
        return np.empty(0, np.float64)
    products = torch.from_numpy(vectors).double().mul_(torch.from_numpy(questions))
    width = products.shape[1]
    while width > 1:
        half = width // 2
        products[:, :half] += products[:, width - half : width]
        width -= half
    return products[:, 0].numpy()


def rescore(questions: np.ndarray, candidates: np.ndarray, rows: np.ndarray, vectors: np.ndarray, k: int) -> TopK:
    """The best k of candidates by their stored vectors.

    Args:
        questions: float32 (questions, dimension).
        candidates: rows of the corpus, int64 (questions, candidates); -1 for none.
        rows: the distinct rows in `candidates`, int64 ascending.
        vectors: the vectors of `rows`, (rows, dimension).
        k: number of passages to return.
    """
    asked, places = np.nonzero(candidates >= 0)
    scores = np.full(candidates.shape, -np.inf, np.float32)
    found = np.searchsorted(rows, candidates[asked, places])
    for start in range(0, len(asked), RESCORED_ROWS):
        part = slice(start, start + RESCORED_ROWS)
        scores[asked[part], places[part]] = score_pairs(questions[asked[part]], vectors[found[part]])
    return TopK.sorted(scores, candidates, k)


@dataclasses.dataclass
class Candidates:
    """Vectors that may be among the best k of a question.

    Attributes:
        questions: the question of each, uint16.
        rows: int64.
        scores: float32 or float64.
    """

    questions: np.ndarray
    rows: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Joins several sets of candidates, by question; within one in the order given."""
        names = [field.name for field in dataclasses.fields(cls)]
        whole = cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
        return whole.only(np.argsort(whole.questions, kind="stable"))  # a radix sort, for they are uint16

    def only(self, chosen: np.ndarray | slice) -> Self:
        """The candidates at some places, or under a mask."""
        return type(self)(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    def places(self, questions: int) -> np.ndarray:
        """The place of each within its question, from 0; they must stand by question."""
        counts = np.bincount(self.questions, minlength=questions)
        return np.arange(len(self)) - np.repeat(np.cumsum(counts) - counts, counts)

    def kth_best(self, k: int, questions: int) -> np.ndarray:
        """The k-th best score of each question, float64 (questions,); -inf if there are fewer."""
        places = self.places(questions)
        table = np.full((questions, max(k, int(places.max(initial=-1)) + 1)), -np.inf)
        table[self.questions, places] = self.scores
        return torch.from_numpy(table).topk(k, dim=1, sorted=False).values.amin(1).numpy()

    def ranked(self) -> Self:
        """The candidates by question, best first; equal scores in order of row."""
        return self.only(np.lexsort((self.rows, -self.scores, self.questions)))

    def best(self, k: int, questions: int) -> TopK:
        """The best k of each of so many questions by their scores; they must be ranked."""
        places, hits = self.places(questions), TopK.empty(questions, k)
        kept, places = self.only(places < k), places[places < k]
        hits.scores[kept.questions, places], hits.rows[kept.questions, places] = kept.scores, kept.rows
        return hits


@dataclasses.dataclass
class Bounded(Candidates):
    """Candidates whose scores are no more than the true ones, and `upper` no less."""

    upper: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Product:
    """How scores are found for a block of vectors.

    Attributes:
        product: of the vectors; int32 or float32.
        scale: what a product is to be multiplied by, beside the block's own factor: (questions,), or 1.
        error: its largest relative error, for each question or for all.
        low: whether it takes the block in 8 bits.
        seconds: that it took for TRIAL_ROWS vectors.
    """

    product: Product
    scale: np.ndarray | float
    error: np.ndarray | float
    low: bool = False
    seconds: float = 0.0


class _Search:
    """One block of questions on its way through the vectors."""

    def __init__(self, questions: np.ndarray, vectors: np.ndarray, k: int, device: str):
        self._questions, self._vectors, self._k, self._device = questions, vectors, k, device
        self._products = _products(questions, device, len(vectors))  # of which the first is used
        # A little more than the lengths, for they are rounded too, as is what is computed from them.
        self._lengths = 1.0005 * np.linalg.norm(questions.astype(np.float64), axis=1)
        self._best = np.full(len(questions), -np.inf)  # no more than the k-th best score
        self._kept: list[Bounded] = []
        # Seconds that the first product saves in all, if exact scores take none.
        self._saved = (self._products[-1].seconds - self._products[0].seconds) * len(vectors) / TRIAL_ROWS
        self._limit = KEPT_PER_HIT * max(k, 8) * len(questions)
        self._seen = self._next_thinning = 0

    def look_at(self, block: Block) -> None:
        """Keeps the vectors of the next block that can be among the best."""
        scores, scale, error = self._scores(block)
        best = self._best
        if not block.start and len(scores) >= self._k:  # nothing is known yet; the first block shows where to begin
            best = self._first_best(scores) * scale - error
            if self._products[0].low and self._hits(scores, (best - error) / scale) > LOW_HITS * self._k:
                del self._products[0]
                self.look_at(block)
                return
        self._keep(block.start, scores, scale, error, best)
        end = block.start + len(scores)
        if block.start >= self._next_thinning or sum(map(len, self._kept)) > self._limit:
            self._thin_out()
            self._next_thinning = 2 * end

    def _scores(self, block: Block) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Products with a block; what they are to be multiplied by, and how far they may be off then, (questions,)."""
        one = self._products[0]
        block = block.low if one.low else block
        error = self._lengths * (one.error * (block.longest + block.rounded) + (1 + one.error) * block.rounded)
        return one.product(block.vectors), np.broadcast_to(one.scale * block.factor, error.shape), error

    def _first_best(self, scores: torch.Tensor) -> np.ndarray:
        return scores.topk(self._k, dim=0, sorted=False).values.amin(0).double().cpu().numpy()

    def _hits(self, scores: torch.Tensor, least: np.ndarray) -> float:
        """How many scores are no less than the least that a question wants, on average over questions."""
        return int((scores >= self._thresholds(scores, least)).count_nonzero()) / len(self._questions)

    def _thresholds(self, scores: torch.Tensor, least: np.ndarray) -> torch.Tensor:
        """The same as numbers of the scores' type, rounded down."""
        if scores.dtype == torch.int32:
            rounded = np.floor(np.clip(least, -(2.0**31), 2.0**31 - 1)).astype(np.int32)
        else:
            rounded = np.nextafter(least.astype(np.float32), np.float32(-np.inf))
        return torch.from_numpy(rounded).to(scores.device)

    def _keep(self, start: int, scores: torch.Tensor, scale: np.ndarray, error: np.ndarray, best: np.ndarray) -> None:
        """Keeps the vectors, from row `start` on, whose scores are not too far below `best`, (questions,)."""
        mask = scores >= self._thresholds(scores, (best - error) / scale)
        if mask.numel() > MOST_HITS and len(scores) > 1 and int(mask.count_nonzero()) > MOST_HITS:
            half = len(scores) // 2
            self._keep(start, scores[:half], scale, error, best)
            self._thin_out()
            self._keep(start + half, scores[half:], scale, error, np.maximum(best, self._best))
            return
        places = _true_places(mask)
        rows, questions = np.divmod(places, len(self._questions))
        found = scores.view(-1)[torch.from_numpy(places).to(scores.device)].double().cpu().numpy()
        found *= scale[questions]
        off = error[questions]
        upper = np.nextafter(found + off, np.inf)  # only an exact score has itself as its upper bound
        self._kept.append(Bounded(questions.astype(np.uint16), rows + start, found - off, upper))
        self._seen += len(found)

    def _thin_out(self) -> None:
        """Drops candidates that are out by now; where too many are left, scores them again and keeps the best k."""
        kept = self._still_in(Bounded.joined(self._kept))
        if len(kept) > REFINED_PER_HIT * self._k * len(self._questions):
            kept = self._refined(kept)
        too_many = len(kept) > self._limit
        if too_many:
            kept = self._exact(kept)
            kept = kept.only(kept.places(len(self._questions)) < self._k)
            self._best = np.maximum(self._best, kept.kth_best(self._k, len(self._questions)))
        spent = self._seen * HIT_SECS + len(kept) * PAIR_SECS
        if self._products[0].low and self._next_thinning and (too_many or spent > self._saved / 4):
            del self._products[0]
        self._kept = [kept]

    def _still_in(self, kept: Bounded) -> Bounded:
        self._best = np.maximum(self._best, kept.kth_best(self._k, len(self._questions)))
        return kept.only(kept.upper >= self._best[kept.questions])

    def _refined(self, kept: Bounded) -> Bounded:
        """The candidates less those that the exact scores of the k that look best rule out."""
        first = kept.scores >= kept.kth_best(self._k, len(self._questions))[kept.questions]
        return self._still_in(Bounded.joined([self._exact(kept.only(first)), kept.only(~first)]))

    def _exact(self, kept: Bounded) -> Bounded:
        """The candidates with their exact scores: by question, best first, equal scores in order of row."""
        unsure = kept.only(kept.upper > kept.scores)
        scores = np.empty(len(unsure))
        for start in range(0, len(unsure), RESCORED_ROWS):
            part = slice(start, start + RESCORED_ROWS)
            scores[part] = score_pairs(self._questions[unsure.questions[part]], self._vectors[unsure.rows[part]])
        unsure = Bounded(unsure.questions, unsure.rows, scores, scores)
        return Bounded.joined([kept.only(kept.upper == kept.scores), unsure]).ranked()

    def finish(self) -> TopK:
        """The best k of all blocks."""
        if not self._kept:
            return TopK.empty(len(self._questions), self._k)
        self._thin_out()
        return self._exact(self._kept[0]).best(self._k, len(self._questions))


def _true_places(mask: torch.Tensor) -> np.ndarray:
    """Where a mask is true, as places in its flat form, int64."""
    if mask.device.type == "cpu":
        return np.flatnonzero(mask.numpy())  # four times as fast as torch's
    return mask.view(-1).nonzero()[:, 0].cpu().numpy()


def _products(questions: np.ndarray, device: str, rows: int) -> list[_Product]:
    """The ways to find scores of so many vectors for these questions that seem to be quick, quickest first."""
    asked, dimension = torch.from_numpy(questions).to(device), questions.shape[1]
    error = dimension * 2.0**-24 / (1 - dimension * 2.0**-24)
    if PASSES[device].half:
        half, factor = to_half(asked)
        off = _relative_lengths(half.double().cpu().numpy() * factor - questions, questions)
        halves = functools.partial(_half_scores, questions=half.T)
        return [_Product(halves, factor, off + TENSOR_CORES * error * (1 + off))]
    packed = PackedLinear(asked, None)
    transposed = asked.T.contiguous()
    products: list[Product] = [packed, lambda block: block @ asked.T, lambda block: block @ transposed]
    trial = Block.of(0, torch.ones(TRIAL_ROWS, dimension))
    seconds = [least_seconds(functools.partial(product, trial.vectors)) for product in products]
    found = [_Product(products[seconds.index(min(seconds))], 1.0, error, seconds=min(seconds))]
    worth_trying = rows >= LOW_ROWS and len(questions) >= LOW_QUESTIONS and dimension >= LOW_DIMENSION
    if worth_trying and dimension <= MAX_LOW_DIMENSION:
        steps = steps_of(asked.abs().amax(1, keepdim=True))
        wide, scale = to_8_bits(asked, steps), steps[:, 0].double().numpy()
        numbers = wide.to(torch.int8)
        off = _relative_lengths(wide.double().numpy() * scale[:, None] - questions, questions)

        def product(block: torch.Tensor) -> torch.Tensor:
            return torch._int_mm(block, numbers.T)

        low_seconds = least_seconds(lambda: product(trial.in_8_bits().vectors))
        if low_seconds < LOW_SHARE * min(seconds):
            found.insert(0, _Product(product, scale, off, low=True, seconds=low_seconds))
    return found


def _relative_lengths(off: np.ndarray, questions: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(questions.astype(np.float64), axis=1)
    return np.linalg.norm(off, axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)


def _half_scores(block: torch.Tensor, questions: torch.Tensor) -> torch.Tensor:
    """The product of float16 numbers, summed and given in float32."""
    if block.is_cpu:  # where torch sums float16 in float16
        return torch.mm(block.float(), questions.float())
    return torch.mm(block, questions, out_dtype=torch.float32)


def least_seconds(call: Callable[[], object], rounds: int = TRIAL_ROUNDS) -> float:
    """The least wall-clock seconds that a call takes."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
