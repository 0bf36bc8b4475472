"""Search of a FAISS index's inverted lists for many questions: each list is read once, for all that probe it.

FAISS takes question after question through the lists that each probes, and reads every list again for each of them.
Here a list meets all of its questions in one matrix product, of 8-bit numbers where the processor has instructions for
them and of float32 elsewhere. The product proposes candidates; an error bound shows which of them can be among the best
k; those alone are scored again, from the questions as given and the vectors as FAISS decodes them, in one fixed order.
So what comes out depends neither on the product nor on threads, nor on how many questions are asked at once.

The bound: with q = s a + e, where a is the question in 8 bits, s its step and e what was rounded off, and v = t b + f
likewise, q·v differs from s t a·b by e·t b + q·f, so by the Cauchy-Schwarz inequality by at most |e| |t b| + |q| |f|.
The lengths are measured, not estimated. Of float32 numbers the product itself is off by at most d u / (1 - d u) times
the two lengths, with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import torch

from rag_ops.compute.devices import torch_threads
from rag_ops.retrieval import eight_bits, exact
from rag_ops.retrieval.exact import Bounded, Candidates
from rag_ops.retrieval.faiss_index import MANY_QUESTIONS
from rag_ops.retrieval.topk import TopK

QUESTION_BLOCK = 1 << 16  # questions whose numbers fit into 16 bits
PRODUCT_SCORES = 1 << 20  # of one product: 4 MB
ROUND_LISTS = 64  # lists between two looks at how many candidates there are
PLACE_BITS = 32  # low bits of a candidate's row: its place in its list; the list is above them
# Candidates of a block of questions, before those that are out by now are dropped: for each of the k best, and at most
KEPT_PER_HIT, MOST_CANDIDATES = 32, 1 << 23
THINNED_QUESTIONS = 2048  # whose candidates are compared at once
CUT = 4096  # vectors that are in float64 at once
SLACK = 2.0**-20  # relative, for the rounding of bounds and of what is added to a product


class InvertedLists:
    """The lists of an index that stores its vectors as they are (IVF, Flat) or in 8 bits a number (IVF, SQ8).

    Args:
        ivf: a FAISS index for which `can_read` is true; it must outlive this object.
    """

    def __init__(self, ivf: Any):
        self._ivf, self.dimension, self.size = ivf, int(ivf.d), int(ivf.nlist)
        self._residual = isinstance(ivf, faiss.IndexIVFScalarQuantizer) and bool(ivf.by_residual)
        self.scale: np.ndarray | None = None  # of one step of a code, (dimension,); None for vectors as they are
        if isinstance(ivf, faiss.IndexIVFScalarQuantizer):
            least, range_of = faiss.vector_to_array(ivf.sq.trained).reshape(2, self.dimension)
            self.scale = range_of / np.float32(255)
            self.middle = least + (np.float32(128.5)) * self.scale  # what the code 128 stands for
            self._least, self._range = least, range_of

    @staticmethod
    def can_read(index: Any) -> bool:
        """Whether an index is of a kind whose lists are read here, and ranks by inner product."""
        kind = type(index)
        coded = kind is faiss.IndexIVFScalarQuantizer and index.sq.qtype == faiss.ScalarQuantizer.QT_8bit
        return (
            (coded or kind is faiss.IndexIVFFlat)
            and index.metric_type == faiss.METRIC_INNER_PRODUCT
            and index.quantizer.metric_type == faiss.METRIC_INNER_PRODUCT
            and index.d <= eight_bits.MAX_DIMENSION
        )

    def is_worth(self, questions: int) -> bool:
        """Whether the hits of so many questions are found quicker here than by FAISS."""
        return questions * min(self._ivf.nprobe, self.size) >= MANY_QUESTIONS * self.size

    def added(self, questions: np.ndarray) -> np.ndarray:
        """What a product with codes less 128 lacks, apart from the centroid, float64 (questions,)."""
        if self.scale is None:
            return np.zeros(len(questions))
        middle = self.middle.astype(np.float64)
        return np.concatenate([questions[cut : cut + CUT] @ middle for cut in range(0, len(questions), CUT)])

    def probed(self, questions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lists that each question probes, nearest first, and its inner products with their centroids.

        Returns:
            float32 and int64 (questions, nprobe); a list of -1 is none.
        """
        scores, lists = self._ivf.quantizer.search(questions, self._ivf.nprobe)
        return scores if self._residual else np.zeros_like(scores), lists

    def rows(self, number: int) -> np.ndarray:
        """The rows of a list's vectors, int64 (vectors,)."""
        return np.asarray(faiss.rev_swig_ptr(self._ivf.invlists.get_ids(number), self._length(number)))

    def codes(self, number: int) -> np.ndarray:
        """A list's vectors as they are stored: float32, or uint8 codes, (vectors, dimension)."""
        count, width = self._length(number), self._ivf.code_size
        codes = faiss.rev_swig_ptr(self._ivf.invlists.get_codes(number), count * width).reshape(count, width)
        return codes if self.scale is not None else codes.view(np.float32)

    def decoded(self, number: int, places: np.ndarray) -> np.ndarray:
        """The vectors at some places of a list, as FAISS decodes them, float32 (places, dimension)."""
        codes = self.codes(number)[places]
        if self.scale is None:
            return codes
        vectors = codes.astype(np.float32)
        vectors += np.float32(0.5)
        vectors *= self._range / np.float32(255)
        vectors += self._least + self._centroid(number)
        return vectors

    def _centroid(self, number: int) -> np.ndarray | float:
        return np.asarray(self._ivf.quantizer.reconstruct(number)) if self._residual else 0.0

    def _length(self, number: int) -> int:
        return int(self._ivf.invlists.list_size(number))


def search(lists: InvertedLists, questions: np.ndarray, k: int, threads: int) -> TopK:
    """Finds the best k vectors of the lists that each question probes.

    Args:
        lists: the index.
        questions: float32 (questions, dimension).
        k: number of vectors to find.
        threads: number of threads, each with lists of its own.

    Returns:
        Scores, inner products with the vectors as FAISS decodes them, and rows; -1 if the lists have fewer than k.
    """
    cuts = range(0, len(questions), QUESTION_BLOCK)
    faiss.omp_set_num_threads(threads)
    with torch_threads(1), torch.inference_mode(), ThreadPoolExecutor(threads) as pool:
        searches = [_Search(lists, questions[cut : cut + QUESTION_BLOCK], k) for cut in cuts]
        for nearest in (True, False):  # the nearest lists show what a vector of another must reach
            for first in range(0, lists.size, ROUND_LISTS):
                numbers = range(first, min(first + ROUND_LISTS, lists.size))
                list(pool.map(functools.partial(_visit, lists, searches, nearest), numbers))
                for one in searches:
                    one.thin_out()
        found = [one.finish(pool) for one in searches]
    return TopK(np.concatenate([part.scores for part in found]), np.concatenate([part.rows for part in found]))


def _visit(lists: InvertedLists, searches: Sequence[_Search], nearest: bool, number: int) -> None:
    """Takes a list through all of its questions."""
    with torch.inference_mode():  # which holds for a thread
        asked = [one.asking(number, nearest) for one in searches]
        if any(len(places) for places in asked) and len(codes := lists.codes(number)):
            block = _Low.of_codes(codes, coded=lists.scale is not None)
            for one, places in zip(searches, asked, strict=True):
                if len(places):
                    one.look_at(number, block, places)


@dataclasses.dataclass
class _Low:
    """Vectors in few bits, and how far off they are.

    Attributes:
        numbers: int8 or float32 (vectors, dimension).
        step: what a number stands for is it times this, (vectors, 1), or one for all.
        lengths: of what the numbers stand for, (vectors,).
        rounded: lengths of what was rounded off, (vectors,).
    """

    numbers: torch.Tensor
    step: np.ndarray
    lengths: np.ndarray
    rounded: np.ndarray

    @classmethod
    def of_codes(cls, codes: np.ndarray, *, coded: bool) -> _Low:
        """A list's vectors: codes of 8 bits are taken as they are, less 128; others have one step in common."""
        if not coded:
            vectors = torch.from_numpy(codes)
            return cls.rounded_to(vectors, vectors.abs().amax().reshape(1, 1))
        numbers = torch.from_numpy((codes ^ np.uint8(128)).view(np.int8))
        lengths = numbers.float().square_().sum(1).sqrt_().double().numpy()
        numbers = numbers if eight_bits.are_faster() else numbers.float()
        return cls(numbers, np.ones((1, 1)), lengths, np.zeros(len(codes)))

    @classmethod
    def rounded_to(cls, vectors: torch.Tensor, largest: torch.Tensor) -> _Low:
        """Vectors, float32, as multiples of steps by their largest numbers, (vectors, 1) or (1, 1)."""
        if not eight_bits.are_faster():
            return cls(vectors, np.ones(largest.shape, np.float32), _lengths(vectors), np.zeros(len(vectors)))
        parts, step = [], eight_bits.steps_of(largest)
        for cut in range(0, len(vectors), CUT):
            part, steps = vectors[cut : cut + CUT], step if len(step) == 1 else step[cut : cut + CUT]
            numbers = eight_bits.to_8_bits(part, steps)
            off = (part.double() - numbers.double() * steps).norm(dim=1)
            parts.append((numbers.to(torch.int8), (numbers * steps).double().norm(dim=1), off))
        numbers, lengths, rounded = map(torch.cat, zip(*parts, strict=True))
        return cls(numbers, step.numpy(), lengths.numpy(), rounded.numpy())


class _Search:
    """A block of questions on its way through the lists."""

    def __init__(self, lists: InvertedLists, questions: np.ndarray, k: int):
        self._lists, self._questions, self._k = lists, questions, k
        folded = torch.from_numpy(questions if lists.scale is None else questions * lists.scale)
        self._low = _Low.rounded_to(folded, folded.abs().amax(1, keepdim=True))
        self._lengths = _lengths(folded)
        self._added = lists.added(questions)
        self._relative = lists.dimension * 2.0**-24 / (1 - lists.dimension * 2.0**-24)
        self._best = np.full(len(questions), -np.inf)  # no more than the k-th best score
        centroid_scores, probed = lists.probed(questions)
        self._nprobe, self._products = probed.shape[1], centroid_scores.ravel()
        self._order = np.argsort(probed.ravel(), kind="stable")  # by list, then by question
        self._starts = np.searchsorted(probed.ravel()[self._order], np.arange(lists.size + 1))
        self._kept: list[Bounded] = []
        self._limit = min(KEPT_PER_HIT * max(k, 8) * len(questions), MOST_CANDIDATES)

    def asking(self, number: int, nearest: bool) -> np.ndarray:
        """The places in `probed` of the questions that probe a list, as their nearest or as a further one."""
        places = self._order[self._starts[number] : self._starts[number + 1]]
        return places[(places % self._nprobe == 0) == nearest]

    def look_at(self, number: int, block: _Low, places: np.ndarray) -> None:
        """Keeps the vectors of a list that can be among the best of the questions at some places in `probed`."""
        at_once = max(1, PRODUCT_SCORES // len(block.numbers))
        for cut in range(0, len(places), at_once):
            part = places[cut : cut + at_once]
            self._keep(number, block, part // self._nprobe, self._products[part])

    def _keep(self, number: int, block: _Low, asked: np.ndarray, products: np.ndarray) -> None:
        scores = eight_bits.product(self._low.numbers[torch.from_numpy(asked)], block.numbers)
        step = (self._low.step[asked, 0] * block.step[0, 0]).astype(np.float64)
        added, error = self._added[asked] + products, self._error(asked, block, products)
        new = np.flatnonzero(np.isinf(self._best[asked]))
        if len(new) and scores.shape[1] >= self._k:
            least = scores[torch.from_numpy(new)].topk(self._k, dim=1, sorted=False).values.amin(1).double().numpy()
            self._best[asked[new]] = least * step[new] + added[new] - error[new]
        needed = (self._best[asked] - added - error) / step
        if scores.dtype == torch.int32:
            least_scores = np.ceil(np.clip(needed, -(2.0**31), 2.0**31 - 1)).astype(np.int32)
        else:
            least_scores = np.nextafter(needed.astype(np.float32), np.float32(-np.inf))
        found = np.flatnonzero((scores >= torch.from_numpy(least_scores)[:, None]).numpy())
        if len(found):
            which, places = np.divmod(found, scores.shape[1])
            about = scores.view(-1).numpy()[found] * step[which] + added[which]
            bounds = ((about + sign * error[which]).astype(np.float32) for sign in (-1, 1))
            lower, upper = (
                np.nextafter(bound, np.float32(to)) for bound, to in zip(bounds, (-np.inf, np.inf), strict=True)
            )
            self._kept.append(Bounded(asked[which].astype(np.uint16), (number << PLACE_BITS) + places, lower, upper))

    def _error(self, asked: np.ndarray, block: _Low, products: np.ndarray) -> np.ndarray:
        """How far a score may be off for each question, float64 (questions,)."""
        longest, rounded = block.lengths.max(), block.rounded.max()
        lengths = self._lengths[asked]
        error = self._low.rounded[asked] * longest + lengths * rounded
        if self._low.numbers.dtype != torch.int8:
            error = self._relative * lengths * longest
        size = lengths * longest + np.abs(self._added[asked]) + np.abs(products)
        return (1 + SLACK) * error + (SLACK + self._relative) * size

    def thin_out(self) -> None:
        """Drops candidates that are out by now, if there are many; twice as many as are left are the next time."""
        if sum(map(len, self._kept)) > self._limit:
            self._drop_out()
            self._limit = max(self._limit, min(2 * len(self._kept[0]), MOST_CANDIDATES))

    def _drop_out(self) -> None:
        kept = Bounded.joined(self._kept)
        for first in range(0, len(self._questions), THINNED_QUESTIONS):
            asked = min(THINNED_QUESTIONS, len(self._questions) - first)
            part = kept.only(slice(*np.searchsorted(kept.questions, [first, first + asked])))
            part.questions = part.questions - np.uint16(first)
            best = self._best[first : first + asked]
            np.maximum(best, part.kth_best(self._k, asked), out=best)
        self._kept = [kept.only(kept.upper >= self._best[kept.questions])]

    def finish(self, pool: ThreadPoolExecutor) -> TopK:
        """The best k of all lists, scored from the vectors as FAISS decodes them."""
        if not self._kept:
            return TopK.empty(len(self._questions), self._k)
        self._drop_out()
        kept = self._kept.pop()
        kept = kept.only(np.argsort((kept.rows >> PLACE_BITS).astype(np.uint32), kind="stable"))
        starts = np.flatnonzero(np.diff(kept.rows >> PLACE_BITS, prepend=-1)).tolist()
        parts = [kept.only(slice(*cut)) for cut in itertools.pairwise([*starts, len(kept)])]
        return Candidates.joined(list(pool.map(self._scored, parts))).ranked().best(self._k, len(self._questions))

    def _scored(self, kept: Bounded) -> Candidates:
        """The candidates of one list with their rows and scores."""
        number = int(kept.rows[0]) >> PLACE_BITS
        places, scores = kept.rows - (number << PLACE_BITS), np.empty(len(kept), np.float32)
        for first in range(0, len(kept), exact.RESCORED_ROWS):
            part = slice(first, first + exact.RESCORED_ROWS)
            vectors = self._lists.decoded(number, places[part])
            scores[part] = exact.score_pairs(self._questions[kept.questions[part]], vectors)
        return Candidates(kept.questions, self._lists.rows(number)[places], scores)


def _lengths(vectors: torch.Tensor) -> np.ndarray:
    """Lengths of vectors, float64 (vectors,)."""
    return np.concatenate([part.double().norm(dim=1).numpy() for part in vectors.split(CUT)])
