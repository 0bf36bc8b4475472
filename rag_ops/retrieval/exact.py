"""Exact top-k by inner product: blocks of questions against blocks of vectors, straight from float16 or float32.

A matrix product in low precision proposes candidates; an error bound shows which can be among the best k; those
alone are scored again, in float64 and in one fixed order. So what comes out does not depend on the matrix library, on
block sizes, on threads or on the device, and equal scores stand in order of row.

The bound: an inner product of d numbers that is summed in float32, in whatever order, is off by at most d u / (1 - d u)
times the product of the two lengths, with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2002,
section 3.1). So a vector whose score is more than twice that below the k-th best score so far is out.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch

from rag_ops.compute.devices import torch_threads
from rag_ops.compute.packed_linear import PackedLinear
from rag_ops.retrieval.topk import TopK

QUESTION_BLOCK = 1024  # questions of one product
BLOCK_ROWS = {"cpu": 1024, "cuda": 65_536}  # vectors of one product: with their scores, what a CPU's caches hold
KEPT_PER_HIT = 16  # candidates for each of the k best, on average over questions, before they are scored again
RESCORED_ROWS = 512  # candidates that are scored again at once: 3 MB at 768 numbers
TRIAL_ROWS, TRIAL_ROUNDS = 1024, 3

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
        device: "cpu" or "cuda".
        threads: torch threads.
        block_rows: vectors of one product; by default what suits the device. Results don't depend on it.

    Returns:
        Scores, float64 rounded to float32, and rows, counted from 0; -1 if there are fewer than k vectors.
    """
    hits = [TopK.empty(0, k)]
    with torch_threads(threads), torch.inference_mode():
        for start in range(0, len(questions), QUESTION_BLOCK):
            asked = np.ascontiguousarray(questions[start : start + QUESTION_BLOCK], np.float32)
            hits.append(_Search(asked, vectors, k, device).run(block_rows or BLOCK_ROWS[device]))
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
class _Candidates:
    """Vectors that may be among the best k of a question: question, row and score of each."""

    questions: np.ndarray
    rows: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def joined(cls, parts: list[_Candidates]) -> _Candidates:
        """Joins several sets of candidates, by question; within one in the order given."""
        fields = ("questions", "rows", "scores")
        whole = cls(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))
        return whole.only(np.argsort(whole.questions, kind="stable"))  # a radix sort, for they are uint16

    def only(self, chosen: np.ndarray) -> _Candidates:
        """The candidates at some places, or under a mask."""
        return _Candidates(self.questions[chosen], self.rows[chosen], self.scores[chosen])

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


class _Search:
    """One block of questions on its way through the vectors."""

    def __init__(self, questions: np.ndarray, vectors: np.ndarray, k: int, device: str):
        self._questions, self._vectors, self._k, self._device = questions, vectors, k, device
        self._product, relative_error = _product(questions, device)
        # Of one question, for a vector of length 1: twice the bound, and a little, for the lengths are rounded too.
        self._margin = 2.001 * relative_error * np.linalg.norm(questions.astype(np.float64), axis=1)
        self._longest = 0.0  # length of the longest vector so far
        self._best = np.full(len(questions), -np.inf)  # the k-th best score so far
        self._kept: list[_Candidates] = []
        self._limit = KEPT_PER_HIT * max(k, 8) * len(questions)

    def run(self, block_rows: int) -> TopK:
        """See `search`."""
        next_thinning = 0
        for start in range(0, len(self._vectors), block_rows):
            self._look_at(start, self._vectors[start : start + block_rows])
            if start >= next_thinning or sum(map(len, self._kept)) > self._limit:
                self._thin_out()
                next_thinning = 2 * (start + block_rows)
        return self._finish()

    def _look_at(self, start: int, vectors: np.ndarray) -> None:
        """Keeps the vectors of a block that can be among the best."""
        block = torch.from_numpy(vectors).to(self._device, torch.float32 if self._device == "cpu" else torch.float16)
        longest = torch.linalg.vector_norm(block, dim=1, dtype=torch.float32).amax()
        self._longest = max(self._longest, float(longest))
        scores = self._product(block)
        best = self._best
        if not start and len(vectors) >= self._k:  # nothing is known yet; the first block shows where to begin
            best = scores.topk(self._k, dim=0, sorted=False).values.amin(0).double().cpu().numpy()
        threshold = np.nextafter((best - self._margin * self._longest).astype(np.float32), np.float32(-np.inf))
        places = _true_places(scores >= torch.from_numpy(threshold).to(scores.device))
        rows, questions = np.divmod(places, len(self._questions))
        found = scores.view(-1)[torch.from_numpy(places).to(scores.device)].double().cpu().numpy()
        self._kept.append(_Candidates(questions.astype(np.uint16), rows + start, found))

    def _thin_out(self) -> None:
        """Drops candidates that are out by now; where too many are left, scores them again and keeps the best k."""
        kept = _Candidates.joined(self._kept)
        self._best = np.maximum(self._best, kept.kth_best(self._k, len(self._questions)))
        kept = kept.only(kept.scores >= (self._best - self._margin * self._longest)[kept.questions])
        if len(kept) > self._limit:
            kept = self._scored(kept)
            kept = kept.only(kept.places(len(self._questions)) < self._k)
            self._best = np.maximum(self._best, kept.kth_best(self._k, len(self._questions)))
        self._kept = [kept]

    def _scored(self, kept: _Candidates) -> _Candidates:
        """The candidates with their exact scores: by question, best first, equal scores in order of row."""
        scores = np.empty(len(kept))
        for start in range(0, len(kept), RESCORED_ROWS):
            part = slice(start, start + RESCORED_ROWS)
            scores[part] = score_pairs(self._questions[kept.questions[part]], self._vectors[kept.rows[part]])
        order = np.lexsort((kept.rows, -scores, kept.questions))
        return _Candidates(kept.questions, kept.rows, scores).only(order)

    def _finish(self) -> TopK:
        if not self._kept:
            return TopK.empty(len(self._questions), self._k)
        self._thin_out()
        kept = self._scored(self._kept[0])
        places = kept.places(len(self._questions))
        kept, places = kept.only(places < self._k), places[places < self._k]
        hits = TopK.empty(len(self._questions), self._k)
        hits.scores[kept.questions, places], hits.rows[kept.questions, places] = kept.scores, kept.rows
        return hits


def _true_places(mask: torch.Tensor) -> np.ndarray:
    """Where a mask is true, as places in its flat form, int64."""
    if mask.device.type == "cpu":
        return np.flatnonzero(mask.numpy())  # four times as fast as torch's
    return mask.view(-1).nonzero()[:, 0].cpu().numpy()


def _product(questions: np.ndarray, device: str) -> tuple[Product, float]:
    """The product of vectors with these questions, and its largest relative error."""
    asked, dimension = torch.from_numpy(questions).to(device), questions.shape[1]
    error = dimension * 2.0**-24 / (1 - dimension * 2.0**-24)
    if device != "cpu":
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        half = asked.half().T
        # Questions are rounded to float16, and so are the scores: each is off by at most 2^-11 of itself.
        return lambda block: block @ half, error + 2 * 2.0**-11 + 2.0**-22
    packed = PackedLinear(asked, None)
    transposed = asked.T.contiguous()
    products: list[Product] = [packed, lambda block: block @ asked.T, lambda block: block @ transposed]
    trial = torch.ones(TRIAL_ROWS, dimension)
    return min(products, key=lambda product: _seconds(product, trial)), error


def _seconds(product: Product, block: torch.Tensor) -> float:
    times = []
    for _ in range(TRIAL_ROUNDS):
        start = time.perf_counter()
        product(block)
        times.append(time.perf_counter() - start)
    return min(times)
