"""Top-k search over index shards: one shard in memory at a time, memory-mapped where FAISS can."""

from __future__ import annotations

import functools

import faiss
import numpy as np

from rag_ops.errors import InputError
from rag_ops.retrieval import exact, faiss_factory, faiss_index
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store

LENGTH_ROWS = 1000  # sample that gives the vectors' common length


class IndexShard:
    """An open FAISS index shard.

    Vectors that it stores as they are (Flat, and SQfp16) are searched by `exact.search`; others by FAISS. Scores are
    always inner products, also if the graph is one of distances: of the stored vectors, or, if a graph only has
    codes of them, by way of q·v = (|q|^2 + |v|^2 - |q - v|^2) / 2, as all of its vectors have one length.

    Args:
        url: URL of the file; a remote one is copied to the local cache.
        digest: SHA-256 of the file, its name in the cache.
        first_row: row of its first vector in the corpus.
        expected_rows: number of vectors in the manifest.

    Raises:
        InputError: the file cannot be read, holds another number of vectors, or does not rank by inner product.
    """

    def __init__(
        self,
        url: str,
        digest: str,
        first_row: int,
        expected_rows: int,
        *,
        threads: int = 2,
        nprobe: int | None = None,
        ef_search: int | None = None,
    ):
        self._index = faiss_index.read_index(store.local_copy(url, digest))
        self._first_row, self._threads = first_row, threads
        if self._index.ntotal != expected_rows:
            raise InputError(
                "an index shard does not hold what its manifest says",
                value=f"{url} ({self._index.ntotal} vectors)",
                expected=f"{expected_rows} vectors",
                remedy="run index again",
            )
        if reason := faiss_factory.why_unreadable(self._index):
            raise InputError(f"an index shard {reason}", value=url, remedy="run index again")
        self._matrix = faiss_index.matrix_of(self._index)
        self._by_distance = self._index.metric_type != faiss_factory.METRIC
        self._coded = self._by_distance and faiss_factory.is_coded(self._index)
        self._rough = self._by_distance and not self._coded and faiss_factory.is_rough(self._index)
        self.set_search(nprobe, ef_search)

    def set_search(self, nprobe: int | None, ef_search: int | None) -> None:
        """See `faiss_index.set_search`."""
        faiss_index.set_search(self._index, nprobe, ef_search)

    def search(self, questions: np.ndarray, k: int) -> TopK:
        """The best k passages of this shard for each question vector, float32 (questions, dimension)."""
        found = min(k, self._index.ntotal)
        if not len(questions) or not found:
            return TopK.empty(len(questions), k)
        questions = np.ascontiguousarray(questions, np.float32)
        if self._matrix is not None:
            hits = exact.search(questions, self._matrix, k, threads=self._threads)
            return TopK(hits.scores, np.where(hits.rows < 0, -1, hits.rows + self._first_row))
        faiss.omp_set_num_threads(self._threads)
        if self._rough:  # as many as the graph's search has anyway, for inner products to choose from
            found = min(max(found, faiss_factory.graph_of(self._index).hnsw.efSearch), self._index.ntotal)
        scores, rows = self._index.search(self._padded(questions), found)
        if self._coded:
            scores = self._products_of_distances(questions, scores)
        elif self._by_distance:
            scores = self._products_of_stored(questions, rows)
        return TopK.sorted(scores, np.where(rows < 0, -1, rows + self._first_row), k)

    def search_bare(self, questions: np.ndarray, k: int) -> TopK:
        """What FAISS's own search of the same index finds, in its order; equal scores by row. Scores are places."""
        found = min(k, self._index.ntotal)
        scores, rows = self._index.search(self._padded(np.ascontiguousarray(questions, np.float32)), found)
        order = -np.cumsum(np.diff(scores, prepend=scores[:, :1]) != 0, axis=1).astype(np.float32)
        return TopK.sorted(order, np.where(rows < 0, -1, rows + self._first_row), k)

    def _padded(self, questions: np.ndarray) -> np.ndarray:
        """Questions as wide as the index, by zeros; see `faiss_factory.layout`."""
        return np.pad(questions, ((0, 0), (0, self._index.d - questions.shape[1])))

    def _products_of_stored(self, questions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Inner products with the stored vectors at places of this shard; -inf if there is none."""
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
    for start in range(0, len(asked), exact.RESCORED_ROWS):
        part = slice(start, start + exact.RESCORED_ROWS)
        scores[asked[part], places[part]] = exact.score_pairs(questions[asked[part]], vectors[found[part]])
    return TopK.sorted(scores, candidates, k)
