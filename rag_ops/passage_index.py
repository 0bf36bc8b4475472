"""A ragbeam index opened for use in one process: search all shards, and read vectors and texts of what was found."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rag_ops import indexing, storage
from rag_ops.contexts import Passage
from rag_ops.errors import InputError
from rag_ops.search import IndexShard
from rag_ops.stages import check_passages, read_manifest
from rag_ops.topk import TopK, merge
from schemas.manifest import Manifest

CACHED_GROUPS = 256  # row groups of about 1,000 rows: the whole of a small index, 400 MB of vectors of a large one


class PassageIndex:
    """An index with its passages and vectors. Shards are opened at the first search and stay in memory.

    Args:
        url: output directory of `ragbeam index`.
        threads: of the search.

    Attributes:
        rows: number of passages.
        dimension: numbers of a vector.

    Raises:
        InputError: one of the three is missing, or they do not belong together.
    """

    def __init__(self, url: str, *, threads: int = 2):
        self.url, self._threads = url, threads
        self.manifest = read_manifest(url, "index")
        self.passages_url = storage.resolve_url(self.manifest.inputs["passages"], url)
        self.embeddings_url = storage.resolve_url(self.manifest.inputs["embeddings"], url)
        passages = check_passages(self.manifest, self.passages_url)
        self.rows, self.dimension = self.manifest.rows, int(self.manifest.info["dimension"])
        self._passages = RowReader(self.passages_url, passages, ["id", "title", "text"])

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
        starts, effort = self.manifest.row_starts(), self.manifest.info.get("search", {})
        return [
            IndexShard(
                storage.join(self.url, shard.path), shard.sha256, start, shard.rows, threads=self._threads, **effort
            )
            for shard, start in zip(self.manifest.shards, starts, strict=False)
        ]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The stored vectors of rows, int64 of any shape, as float32 (*shape, dimension); zeros for -1."""
        flat = rows.reshape(-1)
        found = np.zeros((len(flat), self.dimension), np.float32)
        real = flat >= 0
        if real.any():
            found[real] = self._embeddings.read(flat[real], lambda table: indexing.as_matrix(table["vector"]))
        return found.reshape(*rows.shape, self.dimension)

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """The passages at rows, in that order."""
        table = self._passages.read(np.asarray(rows, np.int64), lambda found: found.to_pylist())
        return [Passage(row["id"], row["title"], row["text"]) for row in table]

    @functools.cached_property
    def _embeddings(self) -> RowReader:
        return RowReader(self.embeddings_url, read_manifest(self.embeddings_url, "embed"), ["vector"])


class RowReader:
    """Rows of a stage's Parquet shards by their number, with the row groups last used kept in memory.

    Args:
        url: the stage's directory.
        manifest: its manifest.
        columns: what to read.
    """

    def __init__(self, url: str, manifest: Manifest, columns: Sequence[str]):
        self._url, self._manifest, self._columns = url, manifest, list(columns)
        self._starts = np.asarray(manifest.row_starts())
        self._group_starts: dict[int, np.ndarray] = {}
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    def read(self, rows: np.ndarray, convert: Callable[[pa.Table], Any]) -> Any:
        """`convert` of the table of the given rows, int64 (rows,), in that order."""
        distinct, places = np.unique(rows, return_inverse=True)
        shards = np.searchsorted(self._starts, distinct, side="right") - 1
        tables = []
        for shard in np.unique(shards):
            within = distinct[shards == shard] - self._starts[shard]
            groups = np.searchsorted(self._starts_of(int(shard)), within, side="right") - 1
            for group in np.unique(groups):
                first = self._starts_of(int(shard))[group]
                tables.append(self._group(int(shard), int(group)).take(pa.array(within[groups == group] - first)))
        return convert(pa.concat_tables(tables).take(pa.array(places.reshape(-1))))

    def _path(self, shard: int) -> str:
        return storage.join(self._url, self._manifest.shards[shard].path)

    def _starts_of(self, shard: int) -> np.ndarray:
        if shard not in self._group_starts:
            with storage.open_parquet(self._path(shard)) as file:
                counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            self._group_starts[shard] = np.cumsum([0, *counts])
        return self._group_starts[shard]

    def _group(self, shard: int, group: int) -> pa.Table:
        key = (shard, group)
        if key not in self._groups:
            with storage.open_parquet(self._path(shard)) as file:
                self._groups[key] = file.read_row_group(group, columns=self._columns)
            if len(self._groups) > CACHED_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]
