"""Exact top-k by inner product: blocks of questions against blocks of vectors, straight from float16 or float32.

A matrix product in low precision proposes candidates; an error bound shows which can be among the best k; those
alone are scored again, in float64 and in one fixed order, from the questions as given and the vectors as stored. So
what comes out does not depend on the matrix library, on block sizes, on threads or on the device, and equal scores
stand in order of row.

The bound: an inner product of d numbers that is summed in float32, in whatever order, is off by at most d u / (1 - d u)
times the product of the two lengths, with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2002,
section 3.1). So each candidate has a score that it reaches at least and one that it reaches at most, and is out when
its most is less than the least of k others.

Where a CPU has instructions for products of bfloat16, summed in float32, many questions and the vectors are rounded to
it: that is twice as fast as float32. By the Cauchy-Schwarz inequality rounding moves a score by at most the length of
what was rounded off times the other length. Some three vectors for each of the best can then be among them; a block in
which there are many more (one vector is far longer than the others, or scores differ by little) is multiplied in
float32, as are the next ones: twice as many each time, until bfloat16 does.

One question, or a few, take as long as the vectors take to be read: they are multiplied as they are stored, float16 too
(summed in float32, the scores rounded to float16), and what is known of the vectors' lengths is that no number is
greater than the largest.

On a CPU the length of each vector of a block is found where the greatest leaves too many: some are far longer than
most.

On a GPU the product is of float16 numbers, summed in float32, to which questions, and vectors stored in float32, are
rounded, with the same bound. Vectors pass through the card once for thousands of questions, block by block: a thread
copies the next block into page-locked memory and from there to the card while the card works on this one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from rag_ops import heap
from rag_ops.compute.devices import torch_threads
from rag_ops.compute.packed_linear import PackedLinear, can_pack
from rag_ops.retrieval.topk import TopK
from rag_ops.retrieval.vector_blocks import (
    PASSES,
    QUESTION_BLOCK,
    TINY,
    Block,
    Lengths,
    Pass,
    blocks_of,
    to_half,
)

if TYPE_CHECKING:
    from typing_extensions import Self

MOST_HITS = 1 << 22  # candidates that one product may give at once: of more, half of its vectors are looked at first
TENSOR_CORES = 4  # how many times float32's error theirs is taken to be: they cut sums off where float32 rounds
KEPT_PER_HIT = 16  # candidates for each of the k best, on average over questions, before they are scored again
RESCORED_ROWS = 512  # candidates that are scored again at once: 3 MB at 768 numbers
REFINED_PER_HIT = 3  # for each of the k best, from which on the exact scores of the k that look best are worth having
# Candidates for each of the k best, on average, up to which bfloat16, or one bound for a whole block, pays: of a block,
# and of all blocks.
BLOCK_HITS, NARROW_HITS = 4, 12
# Between which what malloc keeps is given back: candidates and lengths, which stay, lie among the scores of a block,
# which do not, and the heap would grow by half a megabyte a block.
TRIM_BLOCKS = 128
NARROW_QUESTIONS = 64  # from which on bfloat16 saves more than it takes to round the vectors to it
MANY_SCORES = 1 << 16  # of a block, from which on fewer bytes tell more than more calls
EIGHT = 8  # bytes of an integer, and truths in it
GROUPS = 6  # of the first block, for each of the k best
UNLIKE = 4  # times the mean length that the greatest must be for each one's length to tell more
FEW_QUESTIONS = 5  # up to which vectors are multiplied as they are stored: five times as is as quick as once converted

Product = Callable[[torch.Tensor], torch.Tensor]  # vectors (rows, dimension) to scores (rows, questions)


def search(
    questions: np.ndarray,
    vectors: np.ndarray,
    k: int,
    *,
    device: str = "cpu",
    threads: int = 2,
    block_rows: int | None = None,
    lengths: Lengths | None = None,
) -> TopK:
    """Finds the best k vectors for each question.

    Args:
        questions: float32 (questions, dimension).
        vectors: float16 or float32 (rows, dimension); may be memory-mapped: it is read block by block, in order.
        k: number of vectors to find.
        device: "cpu" or "cuda"; results don't depend on it.
        threads: torch threads.
        block_rows: vectors of one product; by default what suits the device. Results don't depend on it.
        lengths: what searches of the same vectors have found out about their lengths; this one adds to it. A second
            search for a single question takes half as long with it.

    Returns:
        Scores, float64 rounded to float32, and rows, counted from 0; -1 if there are fewer than k vectors.
    """
    hits, how = [TopK.empty(0, k)], PASSES[device]
    if not how.half and len(questions) <= FEW_QUESTIONS and (vectors.dtype == np.float32 or _sums_half_in_float32()):
        how = PASSES["few"]
    # In a training in bfloat16 the caller's autocast would round the products that candidates are proved by
    with torch_threads(threads), torch.inference_mode(), torch.autocast(device, enabled=False):
        for first in range(0, len(questions), how.questions):
            asked = np.ascontiguousarray(questions[first : first + how.questions], np.float32)
            cuts = range(0, len(asked), QUESTION_BLOCK)
            searches = [_Search(asked[cut : cut + QUESTION_BLOCK], vectors, k, device, how) for cut in cuts]
            blocks = blocks_of(vectors, block_rows or how.block_rows, device, threads, how, lengths)
            with contextlib.closing(blocks):
                for number, block in enumerate(blocks, 1):
                    for one in searches:
                        one.look_at(block)
                    if not number % TRIM_BLOCKS:
                        heap.trim()
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
    # By way of float32, from which alone torch converts many numbers at once: a quarter of the time less
    products = torch.from_numpy(vectors).float().double().mul_(torch.from_numpy(questions))
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
        product: of the vectors; float32, or what converts to it.
        scale: what a product is to be multiplied by, beside the block's own factor: (questions,), or 1.
        error: its largest error, relative to the product of the two lengths, for each question or for all.
        rounding: largest relative error of rounding what was summed.
        least: what such rounding may be off by at least, in units of the product.
        narrow: whether it takes the block in bfloat16.
    """

    product: Product
    scale: np.ndarray | float
    error: np.ndarray | float
    rounding: float = 0.0
    least: float = 0.0
    narrow: bool = False


class _Search:
    """One block of questions on its way through the vectors."""

    def __init__(self, questions: np.ndarray, vectors: np.ndarray, k: int, device: str, how: Pass):
        self._questions, self._vectors, self._k = questions, vectors, k
        self._products = _products(questions, vectors.dtype, device, how)  # of which the first is used
        # A little more than the lengths, for they are rounded too, as is what is computed from them.
        self._lengths = 1.0005 * np.linalg.norm(questions.astype(np.float64), axis=1)
        self._best = np.full(len(questions), -np.inf)  # no more than the k-th best score
        self._kept: list[Bounded] = []
        self._limit = KEPT_PER_HIT * max(k, 8) * len(questions)
        self._next_thinning = 0
        # Blocks looked at, from which on bfloat16 is tried, and how many it waits when it has told too little again.
        self._blocks = self._next_narrow = 0
        self._wait = 1

    def look_at(self, block: Block) -> None:
        """Keeps the vectors of the next block that can be among the best."""
        one = self._products[0 if self._blocks >= self._next_narrow else -1]
        self._blocks += 1
        if not self._keep_of(block, one):
            self._keep_of(block, self._products[-1])
            self._next_narrow, self._wait = self._blocks + self._wait, 2 * self._wait
        elif one.narrow:
            self._wait = 1
        if block.start >= self._next_thinning or sum(map(len, self._kept)) > self._limit:
            self._thin_out()
            self._next_thinning = 2 * (block.start + len(block.vectors))

    def _keep_of(self, block: Block, one: _Product) -> bool:
        """Keeps vectors of a block by a product, unless that is in bfloat16 and leaves too many; whether it did."""
        block = block.narrow if one.narrow else block
        scores = one.product(block.vectors)
        few = BLOCK_HITS * self._k * len(self._questions) if scores.is_cpu else math.inf
        if self._keep(block, block.longest, scores, one, few):
            return True
        if one.narrow:
            return False
        lengths = block.lengths().double().numpy()[:, None]
        vary = UNLIKE * lengths.mean() < block.longest
        return self._keep(block, lengths if vary else block.longest, scores, one, math.inf)

    def _keep(
        self, block: Block, longest: float | np.ndarray, scores: torch.Tensor, one: _Product, most: float
    ) -> bool:
        """Keeps the vectors of a block whose scores are not too far below the best; whether they were few enough.

        Args:
            block: some vectors.
            longest: their greatest length, or the length of each, (rows, 1).
            scores: their products with the questions, (rows, questions).
            one: how those were found.
            most: how many to keep at most, or none.
        """
        scale = np.broadcast_to(one.scale * block.factor, self._lengths.shape)
        error = self._lengths * (one.error * (longest + block.rounded) + (1 + one.error) * block.rounded)
        error = error + one.least * scale + TINY
        best = self._best
        if not block.start and len(scores) >= self._k:  # nothing is known yet; the first block shows where to begin
            best = self._first_best(scores, scale, error, one.rounding)
        return self._keep_reaching(best, block.start, scores, one, scale, error, most)

    def _first_best(self, scores: torch.Tensor, scale: np.ndarray, error: np.ndarray, rounding: float) -> np.ndarray:
        """What the k-th best score is at least, (questions,)."""
        if error.ndim == 1:
            # The greatest scores of some groups of vectors: k groups have k vectors that reach the k-th of those. The
            # k-th of all scores is hardly greater, and takes eight times as long to find.
            group = max(1, len(scores) // (GROUPS * self._k))
            whole = len(scores) // group * group
            greatest = scores[:whole].float().unflatten(0, (-1, group)).amax(1)
            best = greatest.topk(self._k, dim=0, sorted=False).values.amin(0).double().cpu().numpy() * scale
            return best - error - rounding * np.abs(best)
        found = scores.double().numpy() * scale
        least = found - error - rounding * np.abs(found)
        return torch.from_numpy(least).topk(self._k, dim=0, sorted=False).values.amin(0).numpy()

    def _keep_reaching(
        self,
        best: np.ndarray,
        start: int,
        scores: torch.Tensor,
        one: _Product,
        scale: np.ndarray,
        error: np.ndarray,
        most: float,
    ) -> bool:
        """Keeps the vectors, from row `start` on, whose scores can reach `best`, (questions,), if they are few enough.

        Args:
            best: no more than the k-th best score.
            start: row of the first vector.
            scores: see `_keep`.
            one: how those were found.
            scale: what they are to be multiplied by, (questions,).
            error: how far they may be off then, (questions,) or (rows, questions).
            most: see `_keep`.
        """
        least = (best - error) / scale
        least *= 1 - one.rounding * np.sign(least)
        mask = _reaching(scores, np.nextafter(least.astype(np.float32), np.float32(-np.inf)))
        if most < math.inf and np.count_nonzero(mask.numpy()) > most:
            return False
        error = np.broadcast_to(error, scores.shape)
        if mask.numel() > MOST_HITS and len(scores) > 1 and int(mask.count_nonzero()) > MOST_HITS:
            half = len(scores) // 2
            self._keep_reaching(best, start, scores[:half], one, scale, error[:half], most)
            self._thin_out()
            best = np.maximum(best, self._best)
            return self._keep_reaching(best, start + half, scores[half:], one, scale, error[half:], most)
        places = _true_places(mask)
        rows, questions = np.divmod(places, len(self._questions))
        found = scores.view(-1)[torch.from_numpy(places).to(scores.device)].double().cpu().numpy()
        found *= scale[questions]
        off = error[rows, questions] + one.rounding * np.abs(found)
        upper = np.nextafter(found + off, np.inf)  # only an exact score has itself as its upper bound
        self._kept.append(Bounded(questions.astype(np.uint16), rows + start, found - off, upper))
        return True

    def _thin_out(self) -> None:
        """Drops candidates that are out by now; where too many are left, scores them again and keeps the best k."""
        kept = self._still_in(Bounded.joined(self._kept))
        if self._next_thinning and len(kept) > NARROW_HITS * self._k * len(self._questions):
            self._products = self._products[-1:]
        if len(kept) > REFINED_PER_HIT * self._k * len(self._questions):
            kept = self._refined(kept)
        if len(kept) > self._limit:
            kept = self._exact(kept)
            kept = kept.only(kept.places(len(self._questions)) < self._k)
            self._best = np.maximum(self._best, kept.kth_best(self._k, len(self._questions)))
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


def _reaching(scores: torch.Tensor, least: np.ndarray) -> torch.Tensor:
    """Where scores (rows, questions) are no less than a least for each question, bool of the same shape.

    Args:
        scores: float32, float16 or bfloat16.
        least: float32 (questions,).
    """
    if not scores.is_cpu:
        return scores >= torch.from_numpy(least).to(scores.device)
    # NumPy compares three times as fast as torch, but knows no bfloat16: of two numbers, if one is positive, that is
    # the greater whose bits are the greater integer.
    if scores.dtype == torch.bfloat16 and scores.numel() >= MANY_SCORES and np.all(least > 0):
        bits = (least.view(np.int32) + 0xFFFF) >> 16  # rounded up
        return torch.from_numpy(scores.view(torch.int16).numpy() >= bits.astype(np.int16))
    return torch.from_numpy(scores.float().numpy() >= least)


def _true_places(mask: torch.Tensor) -> np.ndarray:
    """Where a mask is true, as places in its flat form, int64."""
    if not mask.is_cpu:
        return mask.view(-1).nonzero()[:, 0].cpu().numpy()
    flat = mask.view(-1).numpy()  # of which NumPy finds the true ones four times as fast as torch
    if len(flat) < MANY_SCORES or len(flat) % EIGHT:
        return np.flatnonzero(flat)
    # Few are true: eight are looked at as one number first
    found = np.flatnonzero(flat.view(np.uint64) != 0)
    inside = np.flatnonzero(flat.reshape(-1, EIGHT)[found])
    return found[inside // EIGHT] * EIGHT + inside % EIGHT


def _products(questions: np.ndarray, stored: np.dtype, device: str, how: Pass) -> list[_Product]:
    """The ways to find scores for these questions: the quickest, and the one that is left if it tells too little."""
    asked, dimension = torch.from_numpy(questions).to(device), questions.shape[1]
    error = dimension * 2.0**-24 / (1 - dimension * 2.0**-24)
    if how.half:
        half, factor = to_half(asked)
        off = _relative_lengths(half.double().cpu().numpy() * factor - questions, questions)
        halves = functools.partial(_half_scores, questions=half.T)
        return [_Product(halves, factor, off + TENSOR_CORES * error * (1 + off))]
    if how.stored:
        if stored == np.float32:
            return [_Product(lambda block: block @ asked.T, 1.0, error)]
        return [_few_halves(questions, error)]
    wide = _Product(PackedLinear(asked, None), 1.0, error)
    if len(questions) < NARROW_QUESTIONS or not can_pack(asked.bfloat16()):
        return [wide]
    narrow = asked.bfloat16()
    off = _relative_lengths(narrow.double().numpy() - questions, questions)
    error = off + TENSOR_CORES * error * (1 + off)
    return [_Product(PackedLinear(narrow, None), 1.0, error, rounding=1.01 * 2.0**-8, narrow=True), wide]


def _few_halves(questions: np.ndarray, error: float) -> _Product:
    """Products with vectors of float16, one question at a time: torch has a kernel for that which converts nothing.

    Questions are made so short that no score exceeds float16.
    """
    lengths = np.linalg.norm(questions.astype(np.float64), axis=1)
    scale = 2.0 ** (1 + np.frexp(lengths * math.sqrt(questions.shape[1]))[1])
    halves = torch.from_numpy(questions / scale[:, None]).half()
    off = _relative_lengths(halves.double().numpy() * scale[:, None] - questions, questions)

    def product(block: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.mv(block, half) for half in halves], 1)

    return _Product(product, scale, off + error * (1 + off), rounding=1.01 * 2.0**-11, least=2.0**-24)


@functools.cache
def _sums_half_in_float32() -> bool:
    """Whether torch sums a product of a float16 matrix and vector in float32, as its kernels for CPUs do by default."""
    numbers = torch.full((1, 1 << 13), 0.25, dtype=torch.float16)
    numbers[:, :1024], numbers[:, -1024:] = 1024, -1024  # between which sums in float16 lose the small ones
    return float(torch.mv(numbers, torch.ones(1 << 13, dtype=torch.float16))) == 0.25 * (1 << 13) - 512


def _relative_lengths(off: np.ndarray, questions: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(questions.astype(np.float64), axis=1)
    return np.linalg.norm(off, axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)


def _half_scores(block: torch.Tensor, questions: torch.Tensor) -> torch.Tensor:
    """The product of float16 numbers, summed and given in float32."""
    if block.is_cpu:  # where torch sums float16 in float16
        return torch.mm(block.float(), questions.float())
    return torch.mm(block, questions, out_dtype=torch.float32)
