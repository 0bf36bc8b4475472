"""Exact top-k by inner product: blocks of questions against blocks of vectors, straight from float16 or float32.

A matrix product in low precision proposes candidates; an error bound shows which can be among the best k; those
alone are scored again, in float64 and in one fixed order, from the questions as given and the vectors as stored. So
what comes out does not depend on the matrix library, on block sizes, on threads or on the device, and equal scores
stand in order of row.

The bound: an inner product of d numbers that is summed in float32, in whatever order, is off by at most d u / (1 - d u)
times the product of the two lengths, with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2002,
section 3.1). So a vector whose score is more than twice that below the k-th best score so far is out.

On a GPU the product is of float16 numbers, summed in float32. Questions, and vectors stored in float32, are rounded to
float16 for it; by the Cauchy-Schwarz inequality that moves a score by at most the length of what was rounded off, which
is measured, times the other length. Vectors pass through the card once for thousands of questions, block by block: a
thread copies the next block into page-locked memory and from there to the card while the card works on this one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from rag_ops.compute.devices import torch_threads
from rag_ops.compute.packed_linear import PackedLinear
from rag_ops.retrieval.topk import TopK
from rag_ops.retrieval.vector_blocks import PASSES, QUESTION_BLOCK, Block, blocks_of, to_half

if TYPE_CHECKING:
    from typing_extensions import Self

MOST_HITS = 1 << 22  # candidates that one product may give at once: of more, half of its vectors are looked at first
TENSOR_CORES = 4  # how many times float32's error theirs is taken to be: they cut sums off where float32 rounds
KEPT_PER_HIT = 16  # candidates for each of the k best, on average over questions, before they are scored again
RESCORED_ROWS = 512  # candidates that are scored again at once: 3 MB at 768 numbers
TRIAL_ROWS, TRIAL_ROUNDS = 1024, 3

Product = Callable[[torch.Tensor], torch.Tensor]  # vectors (rows, dimension) to float32 scores (rows, questions)


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


class _Search:
    """One block of questions on its way through the vectors."""

    def __init__(self, questions: np.ndarray, vectors: np.ndarray, k: int, device: str):
        self._questions, self._vectors, self._k, self._device = questions, vectors, k, device
        self._product, relative_error = _product(questions, device)
        # Of one question, for a vector of length 1: twice the bound, and a little, for the lengths are rounded too.
        self._error, self._lengths = relative_error, 2.001 * np.linalg.norm(questions.astype(np.float64), axis=1)
        self._longest = self._rounded = 0.0  # of the vectors so far: the greatest length, and length rounded off
        self._best = np.full(len(questions), -np.inf)  # the k-th best score so far
        self._kept: list[Candidates] = []
        self._limit = KEPT_PER_HIT * max(k, 8) * len(questions)
        self._next_thinning = 0

    @property
    def _margin(self) -> np.ndarray:
        """How far below the k-th best score so far a vector may be found and be better, float64 (questions,)."""
        return self._lengths * (self._error * (self._longest + self._rounded) + (1 + self._error) * self._rounded)

    def look_at(self, block: Block) -> None:
        """Keeps the vectors of the next block that can be among the best."""
        self._longest, self._rounded = max(self._longest, block.longest), max(self._rounded, block.rounded)
        scores = self._product(block.vectors)
        if block.factor != 1:
            scores *= block.factor
        best = self._best
        if not block.start and len(scores) >= self._k:  # nothing is known yet; the first block shows where to begin
            best = scores.topk(self._k, dim=0, sorted=False).values.amin(0).double().cpu().numpy()
        self._keep(block.start, scores, best)
        end = block.start + len(scores)
        if block.start >= self._next_thinning or sum(map(len, self._kept)) > self._limit:
            self._thin_out()
            self._next_thinning = 2 * end

    def _keep(self, start: int, scores: torch.Tensor, best: np.ndarray) -> None:
        """Keeps the vectors, from row `start` on, whose scores are not too far below `best`, (questions,)."""
        threshold = np.nextafter((best - self._margin).astype(np.float32), np.float32(-np.inf))
        mask = scores >= torch.from_numpy(threshold).to(scores.device)
        if mask.numel() > MOST_HITS and len(scores) > 1 and int(mask.count_nonzero()) > MOST_HITS:
            half = len(scores) // 2
            self._keep(start, scores[:half], best)
            self._thin_out()
            self._keep(start + half, scores[half:], np.maximum(best, self._best))
            return
        places = _true_places(mask)
        rows, questions = np.divmod(places, len(self._questions))
        found = scores.view(-1)[torch.from_numpy(places).to(scores.device)].double().cpu().numpy()
        self._kept.append(Candidates(questions.astype(np.uint16), rows + start, found))

    def _thin_out(self) -> None:
        """Drops candidates that are out by now; where too many are left, scores them again and keeps the best k."""
        kept = Candidates.joined(self._kept)
        self._best = np.maximum(self._best, kept.kth_best(self._k, len(self._questions)))
        kept = kept.only(kept.scores >= (self._best - self._margin)[kept.questions])
        if len(kept) > self._limit:
            kept = self._scored(kept)
            kept = kept.only(kept.places(len(self._questions)) < self._k)
            self._best = np.maximum(self._best, kept.kth_best(self._k, len(self._questions)))
        self._kept = [kept]

    def _scored(self, kept: Candidates) -> Candidates:
        """The candidates with their exact scores: by question, best first, equal scores in order of row."""
        scores = np.empty(len(kept))
        for start in range(0, len(kept), RESCORED_ROWS):
            part = slice(start, start + RESCORED_ROWS)
            scores[part] = score_pairs(self._questions[kept.questions[part]], self._vectors[kept.rows[part]])
        return Candidates(kept.questions, kept.rows, scores).ranked()

    def finish(self) -> TopK:
        """The best k of all blocks."""
        if not self._kept:
            return TopK.empty(len(self._questions), self._k)
        self._thin_out()
        return self._scored(self._kept[0]).best(self._k, len(self._questions))


def _true_places(mask: torch.Tensor) -> np.ndarray:
    """Where a mask is true, as places in its flat form, int64."""
    if mask.device.type == "cpu":
        return np.flatnonzero(mask.numpy())  # four times as fast as torch's
    return mask.view(-1).nonzero()[:, 0].cpu().numpy()


def _product(questions: np.ndarray, device: str) -> tuple[Product, float | np.ndarray]:
    """The product of vectors with these questions, and its largest relative error, for all or for each question."""
    asked, dimension = torch.from_numpy(questions).to(device), questions.shape[1]
    error = dimension * 2.0**-24 / (1 - dimension * 2.0**-24)
    if PASSES[device].half:
        half, factor = to_half(asked)
        off = np.linalg.norm(questions - half.double().cpu().numpy() * factor, axis=1)
        off /= np.maximum(np.linalg.norm(questions.astype(np.float64), axis=1), np.finfo(np.float64).tiny)
        return lambda block: _scores(block, half.T, factor), off + TENSOR_CORES * error * (1 + off)
    packed = PackedLinear(asked, None)
    transposed = asked.T.contiguous()
    products: list[Product] = [packed, lambda block: block @ asked.T, lambda block: block @ transposed]
    trial = torch.ones(TRIAL_ROWS, dimension)
    return min(products, key=lambda product: least_seconds(lambda: product(trial))), error


def _scores(block: torch.Tensor, questions: torch.Tensor, factor: float) -> torch.Tensor:
    """The product of float16 numbers, summed and given in float32, times `factor`."""
    if block.is_cpu:  # where torch sums float16 in float16
        scores = torch.mm(block.float(), questions.float())
    else:
        scores = torch.mm(block, questions, out_dtype=torch.float32)
    return scores if factor == 1 else scores.mul_(factor)


def least_seconds(call: Callable[[], object], rounds: int = TRIAL_ROUNDS) -> float:
    """The least wall-clock seconds that a call takes."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
