"""A ragbeam index opened for use in one process: search all shards, and read vectors and texts of what was found."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from rag_ops.errors import InputError
from rag_ops.retrieval.index_kind import IndexShard
from rag_ops.retrieval.kinds import kind_of
from rag_ops.retrieval.topk import TopK, merge
from rag_ops.storage import store
from rag_ops.storage.manifests import check_passages, read_manifest, reads_sections
from rag_ops.storage.rows import RowReader, as_matrix
from schemas.passages import Passage


class PassageIndex:
    """An index with its passages and vectors. Shards are opened at the first search and stay in memory.

    Args:
        url: output directory of `ragbeam index`.
        threads: number of threads of the search.

    Attributes:
        rows: number of passages.
        dimension: numbers of a vector.

    Raises:
        InputError: one of the three is missing, or they do not belong together.
    """

    def __init__(self, url: str, *, threads: int = 2):
        self.url, self._threads = url, threads
        self.manifest = read_manifest(url, "index")
        self.passages_url = store.resolve_url(self.manifest.inputs["passages"], url)
        self.embeddings_url = store.resolve_url(self.manifest.inputs["embeddings"], url)
        passages = check_passages(self.manifest, self.passages_url)
        self.rows, self.dimension = self.manifest.rows, int(self.manifest.info["dimension"])
        sections = ["section"] if reads_sections(self.manifest) else []
        self._passages = RowReader(self.passages_url, passages, ["id", "title", "text", *sections])

    def search(self, questions: np.ndarray, k: int) -> TopK:
        """The best k passages of all shards for each question vector, float32 (questions, dimension).

        Raises:
            InputError: the vectors are of another dimension, or there are fewer than k passages.
        """
        if questions.shape[1] != self.dimension:
            raise InputError(
                "the question encoder does not go with the index",
                value=f"vectors of {questions.shape[1]} numbers",
                expected=f"{self.dimension}, as in {self.url}",
            )
        if k > self.rows:
            raise InputError("more passages are asked for than there are", value=k, expected=f"at most {self.rows}")
        return merge([shard.search(questions, k) for shard in self.shards], k)

    @functools.cached_property
    def shards(self) -> list[IndexShard]:
        """The index shards, open."""
        starts, params = self.manifest.row_starts(), self.manifest.info.get("search", {})
        opened = kind_of(self.manifest.info["spec"]).shard
        return [
            opened(store.join(self.url, shard.path), shard.sha256, start, shard.rows, threads=self._threads, **params)
            for shard, start in zip(self.manifest.shards, starts, strict=False)
        ]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The stored vectors of rows, int64 of any shape, as float32 (*shape, dimension); zeros for -1."""
        flat = rows.reshape(-1)
        found = np.zeros((len(flat), self.dimension), np.float32)
        real = flat >= 0
        if real.any():
            found[real] = self._embeddings.read(flat[real], lambda table: as_matrix(table["vector"]))
        return found.reshape(*rows.shape, self.dimension)

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """The passages at rows, in that order."""
        table = self._passages.read(np.asarray(rows, np.int64), lambda found: found.to_pylist())
        return [Passage(row["id"], row["title"], row["text"], row.get("section", "")) for row in table]

    @functools.cached_property
    def _embeddings(self) -> RowReader:
        return RowReader(self.embeddings_url, read_manifest(self.embeddings_url, "embed"), ["vector"])
