"""Reads rows of Parquet shards by row group: only groups that are needed, and one in memory at a time."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rag_ops.storage import store
from rag_ops.storage.parquet import open_parquet
from schemas.manifest import Manifest
from schemas.passages import CONTENT_HASH_BYTES

CACHED_GROUPS = 256  # row groups of about 1,000 rows: the whole of a small index, 400 MB of vectors of a large one


def pieces(url: str, columns: Sequence[str], rows: np.ndarray) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Yields the given rows of a shard, a row group at a time; skips groups that hold none of them.

    Args:
        rows: row numbers within the shard, int64, in any order.

    Yields:
        Places in `rows`, int64 ascending, and the rows at these places, in the same order.
    """
    start = 0
    with open_parquet(url) as parquet:
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            places = np.flatnonzero((rows >= start) & (rows < start + count))
            if len(places):
                table = parquet.read_row_group(group, columns=list(columns))
                yield places, table.take(pa.array(rows[places] - start))
            start += count


def take_rows(url: str, columns: Sequence[str], rows: np.ndarray) -> pa.Table:
    """Returns the given rows of a shard; they must be ascending, and at least one."""
    return pa.concat_tables([table for _, table in pieces(url, columns, rows)])


def needed_rows(rows: np.ndarray, starts: Sequence[int]) -> dict[int, np.ndarray]:
    """Groups the rows of some hits by the shard that holds them.

    Args:
        rows: corpus row numbers, int64, any shape; -1 for no hit.
        starts: first row of each shard, then the number of rows (`Manifest.row_starts`).

    Returns:
        Shard number to its distinct corpus rows, int64 ascending.
    """
    distinct = np.unique(rows[rows >= 0])
    shards = np.searchsorted(np.asarray(starts), distinct, side="right") - 1
    return {int(shard): distinct[shards == shard] for shard in np.unique(shards)}


def vector_batches(url: str, rows: int | None = None) -> Iterator[np.ndarray]:
    """The vectors of an embedding shard, a row group at a time, in the stored dtype, (rows, dimension).

    Raises:
        InputError: it holds another number of rows than `rows`.
    """
    with open_parquet(url, rows) as parquet:
        for group in range(parquet.num_row_groups):
            yield as_matrix(parquet.read_row_group(group, columns=["vector"])["vector"])


def read_rows(url: str, rows: np.ndarray) -> np.ndarray:
    """The vectors of the given rows of an embedding shard (ascending, within the shard), float32 (rows, dimension)."""
    found = [as_matrix(table["vector"]).astype(np.float32) for _, table in pieces(url, ["vector"], rows)]
    return np.concatenate(found) if found else np.empty((0, 0), np.float32)


def read_matrix(url: str, rows: int) -> np.ndarray:
    """All vectors of an embedding shard, (rows, dimension) in the stored dtype; held in memory once.

    Raises:
        InputError: it holds another number of rows.
    """
    found, start = None, 0
    for vectors in vector_batches(url, rows):
        if found is None:
            found = np.empty((rows, vectors.shape[1]), vectors.dtype)
        found[start : start + len(vectors)] = vectors
        start += len(vectors)
    return found if found is not None else np.empty((0, 0), np.float32)


def read_corpus_rows(url: str, embeddings: Manifest, rows: np.ndarray) -> np.ndarray:
    """The vectors of the given rows of the corpus (int64, in any order), float32 (rows, dimension)."""
    starts = embeddings.row_starts()
    found = [
        read_rows(store.join(url, embeddings.shards[shard].path), here - starts[shard])
        for shard, here in needed_rows(rows, starts).items()
    ]
    vectors = np.concatenate(found)
    if (np.diff(rows) > 0).all():  # a training sample is large: not copied again
        return vectors
    return vectors[np.unique(rows, return_inverse=True)[1]]


def as_matrix(column: Any) -> np.ndarray:
    """A column of fixed-size lists as a matrix, without a copy if it is one chunk."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    dimension = array.type.list_size
    return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)


def hash_words(column: Any) -> np.ndarray:
    """A column of content hashes as uint64 (rows, 2)."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    words = np.frombuffer(array.buffers()[1] or b"", np.dtype("<u8"))
    start = array.offset * CONTENT_HASH_BYTES // words.itemsize
    return words[start : start + 2 * len(array)].reshape(-1, 2)


class RowReader:
    """Rows of a stage's Parquet shards by their number, with the row groups last used kept in memory."""

    def __init__(self, url: str, manifest: Manifest, columns: Sequence[str]):
        self._url, self._manifest, self._columns = url, manifest, list(columns)
        self._starts = manifest.row_starts()
        self._starts_of = functools.cache(self._read_starts)
        self._group = functools.lru_cache(CACHED_GROUPS)(self._read_group)

    def read(self, rows: np.ndarray, convert: Callable[[pa.Table], Any]) -> Any:
        """Returns `convert` of the table of the given rows, int64 (rows,), in that order."""
        distinct, places = np.unique(rows, return_inverse=True)
        tables = []
        for shard, found in needed_rows(distinct, self._starts).items():
            starts = self._starts_of(shard)
            for group, within in needed_rows(found - self._starts[shard], starts).items():
                tables.append(self._group(shard, group).take(pa.array(within - starts[group])))
        return convert(pa.concat_tables(tables).take(pa.array(places.reshape(-1))))

    def _path(self, shard: int) -> str:
        return store.join(self._url, self._manifest.shards[shard].path)

    def _read_starts(self, shard: int) -> list[int]:
        with open_parquet(self._path(shard)) as file:
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        return list(itertools.accumulate(counts, initial=0))

    def _read_group(self, shard: int, group: int) -> pa.Table:
        with open_parquet(self._path(shard)) as file:
            return file.read_row_group(group, columns=self._columns)
