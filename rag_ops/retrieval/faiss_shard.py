"""Top-k search of a FAISS index shard, memory-mapped where FAISS can."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from rag_ops.retrieval import faiss_factory, faiss_index
from rag_ops.retrieval.index_kind import IndexShard
from rag_ops.retrieval.topk import TopK, merge

if TYPE_CHECKING:
    from rag_ops.retrieval.inverted_lists import InvertedLists
    from rag_ops.retrieval.vector_blocks import Lengths

GATHERED_BYTES = 64 << 20  # of the vectors that a filter leaves, at a time
LENGTH_ROWS = 1000  # sample that gives the vectors' common length


class FaissShard(IndexShard):
    """An open FAISS index shard.

    Vectors that it stores as they are (Flat, and SQfp16) are searched by `exact.search`, on a GPU too; inverted lists
    of vectors or of 8-bit codes, for a job of many questions, by `inverted_lists.search`; others by FAISS on the CPU.
    Scores are always inner products, also if the graph is one of distances: of the stored vectors, or, if a graph only
    has codes of them, by way of q·v = (|q|^2 + |v|^2 - |q - v|^2) / 2, as all of its vectors have one length.
    """

    def _open(self, path: str) -> int:
        self._index = faiss_index.read_index(path)
        self._matrix = faiss_index.matrix_of(self._index)
        self._lengths: Lengths = {}  # of the matrix's vectors
        self._ivf: Any = faiss.downcast_index(self._index)  # which does not keep the index alive
        return int(self._index.ntotal)

    def _why_unreadable(self) -> str | None:
        return faiss_factory.why_unreadable(self._index)

    def set_search(self, params: Mapping[str, int | None]) -> None:
        """See `faiss_index.set_search`."""
        self._params = dict(params)
        faiss_index.set_search(self._index, params.get("nprobe"), params.get("ef_search"))

    def search_among(self, questions: np.ndarray, k: int, allowed: np.ndarray) -> TopK:
        """See `IndexShard.search_among`; stored vectors are searched exactly, those allowed alone."""
        if self._matrix is None or not len(allowed):
            return super().search_among(questions, k, allowed)
        at_once = max(1, GATHERED_BYTES // self._matrix[:1].nbytes)
        parts = [TopK.empty(len(questions), k)]
        for start in range(0, len(allowed), at_once):
            places = allowed[start : start + at_once]
            hits = self._search_matrix(questions, self._matrix[places], min(k, len(places)))
            parts.append(TopK(hits.scores, np.where(hits.rows < 0, -1, places[hits.rows])))
        found = merge(parts, k)
        return self._hits(found.scores, found.rows, k)

    @contextlib.contextmanager
    def _searching_all(self) -> Iterator[None]:
        before = self._params
        self.set_search({"nprobe": self._rows, "ef_search": self._rows})
        try:
            yield
        finally:
            self.set_search(before)

    def _search_matrix(self, questions: np.ndarray, matrix: np.ndarray, k: int, lengths: Lengths | None = None) -> TopK:
        from rag_ops.compute.devices import pick_device  # with torch
        from rag_ops.retrieval import exact

        asked = np.ascontiguousarray(questions, np.float32)
        device = pick_device(self._device)
        return exact.search(asked, matrix, k, device=device, threads=self._threads, lengths=lengths)

    @property
    def questions_at_once(self) -> int:
        """See `IndexShard.questions_at_once`: a list is read anew for each search."""
        return super().questions_at_once if self._lists is None else faiss_index.MANY_NUMBERS // self._index.d

    @property
    def _lists(self) -> InvertedLists | None:
        """The inverted lists, if there are questions enough in the job for a search that goes from list to list."""
        if not self._asked or not hasattr(self._ivf, "invlists"):
            return None
        from rag_ops.retrieval.inverted_lists import InvertedLists  # with torch

        lists = InvertedLists(self._ivf) if InvertedLists.can_read(self._ivf) else None
        return lists if lists is not None and lists.is_worth(self._asked) else None

    def _search(self, questions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self._matrix is not None:
            hits = self._search_matrix(questions, self._matrix, k, self._lengths)
            return hits.scores, hits.rows
        if (lists := self._lists) is not None:
            from rag_ops.retrieval import inverted_lists

            hits = inverted_lists.search(lists, questions, k, self._threads)
            return hits.scores, hits.rows
        faiss.omp_set_num_threads(self._threads)
        by_distance = self._index.metric_type != faiss_factory.METRIC
        coded = by_distance and faiss_factory.is_coded(self._index)
        if by_distance and not coded and faiss_factory.is_rough(self._index):
            # As many as the graph's search has anyway, for inner products to choose from.
            k = min(max(k, faiss_factory.graph_of(self._index).hnsw.efSearch), self._rows)
        scores, rows = self._index.search(self._padded(questions), k)
        if coded:
            scores = self._products_of_distances(questions, scores)
        elif by_distance:
            scores = self._products_of_stored(questions, rows)
        return scores, rows

    def search_bare(self, questions: np.ndarray, k: int) -> TopK:
        """What FAISS's own search of the same index finds, in its order; equal scores by row. Scores are places."""
        found = min(k, self._rows)
        scores, rows = self._index.search(self._padded(np.ascontiguousarray(questions, np.float32)), found)
        order = -np.cumsum(np.diff(scores, prepend=scores[:, :1]) != 0, axis=1).astype(np.float32)
        return self._hits(order, rows, k)

    def _padded(self, questions: np.ndarray) -> np.ndarray:
        """Questions as wide as the index, by zeros; see `faiss_factory.layout`."""
        return np.pad(questions, ((0, 0), (0, self._index.d - questions.shape[1])))

    def _products_of_stored(self, questions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Inner products with the stored vectors at places of this shard; -inf if there is none."""
        from rag_ops.retrieval import exact

        dimension = questions.shape[1]
        scores = np.full(rows.shape, -np.inf, np.float32)
        for number, places in enumerate(rows):
            real = places >= 0
            stored = self._index.reconstruct_batch(places[real])[:, :dimension]
            asked = np.broadcast_to(questions[number], stored.shape)
            scores[number, real] = exact.score_pairs(np.ascontiguousarray(asked), np.ascontiguousarray(stored))
        return scores

    def _products_of_distances(self, questions: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Inner products by way of squared distances, which keeps their order; FAISS's infinity for no hit gives -inf.

        A code's own vector is not used: it is shorter than what it stands for, by another length for each, which ranks
        vectors otherwise than their distances do (recall@5 of PQ8 over 4,000 vectors of length 1: 0.21 for 0.43).
        """
        asked = self._padded(questions)
        for transform in faiss_factory.transforms_of(faiss.downcast_index(self._index)):
            asked = transform.apply(asked)
        asked = np.square(asked, dtype=np.float64).sum(1)[:, None]
        return ((asked + self._square_length - distances) / 2).astype(np.float32)

    @functools.cached_property
    def _square_length(self) -> float:
        """The square of the one length of all vectors, as their codes have it: the mean over rows spread evenly."""
        rows = np.linspace(0, self._index.ntotal - 1, min(self._index.ntotal, LENGTH_ROWS)).astype(np.int64)
        return float(np.square(self._index.reconstruct_batch(rows), dtype=np.float64).sum(1).mean())
