"""Top-k search over index shards: one shard in memory at a time, memory-mapped where FAISS can."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from rag_ops import exact, indexing, storage
from rag_ops.errors import InputError
from rag_ops.topk import TopK


class IndexShard:
    """One FAISS index shard, open.

    Vectors that it stores as they are (Flat, and SQfp16) are searched by `exact.search`; others by FAISS. Scores are
    always inner products, also where the graph is one of distances.

    Args:
        url: of the file; a remote one is copied to the local cache.
        digest: its SHA-256, the name in the cache.
        first_row: row of its first vector in the corpus.
        expected_rows: what the manifest says it holds.

    Raises:
        InputError: the file cannot be read or holds another number of vectors.
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
        self._index = indexing.read_index(storage.local_copy(url, digest))
        self._first_row, self._threads = first_row, threads
        if self._index.ntotal != expected_rows:
            raise InputError(
                "an index shard does not hold what its manifest says",
                value=f"{url} ({self._index.ntotal} vectors)",
                expected=f"{expected_rows} vectors",
                remedy="run index again",
            )
        self._matrix = indexing.matrix_of(self._index)
        self.set_search(nprobe, ef_search)

    def set_search(self, nprobe: int | None, ef_search: int | None) -> None:
        """See `indexing.set_search`."""
        indexing.set_search(self._index, nprobe, ef_search)

    @property
    def index(self) -> Any:
        """FAISS's own."""
        return self._index

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
        if self._index.d == questions.shape[1] + 1:
            scores, rows = self._search_graph(questions, found)
        else:
            scores, rows = self._index.search(questions, found)
        return TopK.sorted(scores, np.where(rows < 0, -1, rows + self._first_row), k)

    def _search_graph(self, questions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Inner products and places of what a graph of distances finds; see `specs.wants_augmented`."""
        dimension = questions.shape[1]
        _, rows = self._index.search(np.pad(questions, ((0, 0), (0, 1))), k)
        scores = np.full(rows.shape, -np.inf, np.float32)
        for number, places in enumerate(rows):
            real = places >= 0
            stored = self._index.reconstruct_batch(places[real])[:, :dimension]
            asked = np.broadcast_to(questions[number], stored.shape)
            scores[number, real] = exact.score_pairs(np.ascontiguousarray(asked), np.ascontiguousarray(stored))
        return scores, rows


def rescore(questions: np.ndarray, candidates: np.ndarray, rows: np.ndarray, vectors: np.ndarray, k: int) -> TopK:
    """The best k of candidates by their stored vectors.

    Args:
        questions: float32 (questions, dimension).
        candidates: rows of the corpus, int64 (questions, candidates); -1 for none.
        rows: of the corpus, int64 ascending; all that stand in `candidates`.
        vectors: of these rows, (rows, dimension).
        k: how many to give.
    """
    asked, places = np.nonzero(candidates >= 0)
    scores = np.full(candidates.shape, -np.inf, np.float32)
    found = np.searchsorted(rows, candidates[asked, places])
    for start in range(0, len(asked), exact.RESCORED_ROWS):
        part = slice(start, start + exact.RESCORED_ROWS)
        scores[asked[part], places[part]] = exact.score_pairs(questions[asked[part]], vectors[found[part]])
    return TopK.sorted(scores, candidates, k)
