"""Top-k search over index shards: one shard in memory at a time."""

from __future__ import annotations

import faiss
import numpy as np

from rag_ops import indexing, storage
from rag_ops.errors import InputError
from rag_ops.topk import TopK


class IndexShard:
    """One FAISS index shard in memory.

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
        indexing.set_search(self._index, nprobe, ef_search)

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return int(self._index.d)

    def search(self, questions: np.ndarray, k: int) -> TopK:
        """The best k passages of this shard for each question vector, float32 (questions, dimension)."""
        if not len(questions) or not self._index.ntotal:
            return TopK.empty(len(questions), k)
        faiss.omp_set_num_threads(self._threads)
        scores, rows = self._index.search(np.ascontiguousarray(questions, np.float32), min(k, self._index.ntotal))
        return TopK.sorted(scores, np.where(rows < 0, -1, rows + self._first_row), k)
