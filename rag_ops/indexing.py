"""FAISS indexes for inner product: one trained index, cloned and filled shard by shard from row-aligned embeddings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np

from rag_ops import storage
from rag_ops.errors import InputError

METRIC = faiss.METRIC_INNER_PRODUCT  # what DPR and RAG score passages by; FAISS itself defaults to L2
TRAIN_ROWS_PER_CENTROID = 64  # FAISS warns below 39 and ignores rows above 256
MIN_TRAIN_ROWS = 10_000  # for quantisers, which have no list of centroids
DEFAULT_NPROBE = 64
DEFAULT_EF_SEARCH = 128
SEED = 1234


def check_spec(spec: str, dimension: int, rows: int) -> None:
    """Checks a FAISS factory string against the vectors before any work.

    Args:
        spec: such as "Flat", "SQ8", "IVF1024,PQ64" or "HNSW32".
        dimension: numbers of a vector.
        rows: number of vectors.

    Raises:
        InputError: FAISS does not know the string, or it does not go with the dimension or the number of vectors.
    """
    empty_index(spec, dimension)
    if _lists(spec) > rows:
        raise InputError(
            "--spec wants more centroids than there are vectors",
            value=spec,
            expected=f"at most {rows} lists for {rows} vectors",
            remedy="use Flat, or fewer lists",
        )


def empty_index(spec: str, dimension: int) -> Any:
    """An untrained, empty FAISS index for inner product.

    Raises:
        InputError: FAISS does not know the string, or the dimension does not divide into the sub-quantisers.
    """
    try:
        return faiss.index_factory(dimension, spec, METRIC)
    except Exception as error:  # FAISS raises RuntimeError and, for some strings, AssertionError or bare Exception
        reason = str(error).strip().splitlines()[-1][-160:] if str(error).strip() else type(error).__name__
        raise InputError(
            f"--spec is no index for vectors of {dimension} numbers ({reason})",
            value=spec,
            expected="Flat or a FAISS factory string whose parts divide the dimension",
        ) from error


def needs_training(spec: str, dimension: int) -> bool:
    """Whether an index of this kind must see a sample of the vectors before any is added."""
    return not empty_index(spec, dimension).is_trained


def training_rows(spec: str, rows: int) -> np.ndarray:
    """The rows of the training sample: evenly spaced over the corpus, so it is the same in every run.

    Returns:
        int64, ascending, at most `rows` of them.
    """
    wanted = min(rows, max(MIN_TRAIN_ROWS, TRAIN_ROWS_PER_CENTROID * _lists(spec)))
    return np.linspace(0, rows - 1, wanted).astype(np.int64) if rows else np.empty(0, np.int64)


def train(spec: str, sample: np.ndarray, threads: int) -> Any:
    """A trained, empty index.

    Args:
        spec: FAISS factory string.
        sample: float32 (rows, dimension).
        threads: of FAISS.

    Raises:
        InputError: the sample is too small for the spec.
    """
    faiss.omp_set_num_threads(threads)
    index = empty_index(spec, sample.shape[1])
    try:
        index.train(sample)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1][-160:]
        raise InputError(
            f"--spec cannot be trained on {len(sample)} vectors ({reason})",
            value=spec,
            remedy="use Flat, or fewer centroids",
        ) from error
    return index


def fill(index: Any, batches: Iterator[np.ndarray], threads: int) -> int:
    """Adds vectors in order, so that vector i of the index is the i-th row given; returns the number of rows."""
    faiss.omp_set_num_threads(threads)
    for vectors in batches:
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return int(index.ntotal)


def write_index(index: Any, file: Any) -> int:
    """Writes an index to an open file, without a copy on local disk; returns the number of its vectors."""
    faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
    return int(index.ntotal)


def read_index(path: str) -> Any:
    """Reads an index from a local file.

    Raises:
        InputError: it is cut, or not FAISS's.
    """
    try:
        return faiss.read_index(path)
    except RuntimeError as error:
        raise InputError(
            "an index file cannot be read", value=path, expected="a whole FAISS file", remedy="run index again"
        ) from error


def vector_batches(url: str) -> Iterator[np.ndarray]:
    """The vectors of an embedding shard, a row group at a time, in the stored dtype, (rows, dimension)."""
    with storage.open_parquet(url) as parquet:
        for group in range(parquet.num_row_groups):
            yield as_matrix(parquet.read_row_group(group, columns=["vector"])["vector"])


def read_rows(url: str, rows: np.ndarray) -> np.ndarray:
    """The vectors of the given rows of an embedding shard (ascending, within the shard), float32 (rows, dimension).

    Only the row groups that hold one of them are read.
    """
    found = []
    start = 0
    with storage.open_parquet(url) as parquet:
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            here = rows[(rows >= start) & (rows < start + count)] - start
            if len(here):
                found.append(
                    as_matrix(parquet.read_row_group(group, columns=["vector"])["vector"])[here].astype(np.float32)
                )
            start += count
    return np.concatenate(found) if found else np.empty((0, 0), np.float32)


def as_matrix(column: Any) -> np.ndarray:
    """A column of fixed-size lists as a matrix, without a copy where it is one chunk."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    dimension = array.type.list_size
    return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)


def cut_shards(shard_rows: Sequence[int], num_shards: int) -> list[range]:
    """Which embedding shards each index shard covers: consecutive, none empty, as even in rows as the cuts allow.

    Raises:
        InputError: more index shards than embedding shards.

    >>> cut_shards([10, 10, 10, 10], 2)
    [range(0, 2), range(2, 4)]
    """
    if num_shards > len(shard_rows):
        raise InputError(
            "--num_shards is more than there are embedding shards",
            value=num_shards,
            expected=f"1 to {len(shard_rows)}",
            remedy="fewer index shards, or chunk with more --num_shards",
        )
    ends = np.cumsum(shard_rows)
    cuts = [0]
    for number in range(1, num_shards):
        nearest = int(np.searchsorted(ends, ends[-1] * number / num_shards, side="left")) + 1
        cuts.append(min(max(nearest, cuts[-1] + 1), len(shard_rows) - (num_shards - number)))
    cuts.append(len(shard_rows))
    return [range(start, end) for start, end in itertools.pairwise(cuts)]


def default_shards(rows: int, dimension: int, embedding_shards: int, shard_bytes: int = 2 << 30) -> int:
    """The number of index shards when none is given: each at most 2 GiB as float32."""
    return max(1, min(embedding_shards, -(-rows * dimension * 4 // shard_bytes)))


def set_search(index: Any, nprobe: int | None, ef_search: int | None) -> None:
    """Sets how many lists (IVF) or candidates (HNSW) a search visits; FAISS's own defaults lose most of the recall."""
    space = faiss.ParameterSpace()
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        space.set_index_parameter(index, "nprobe", min(ivf.nlist, nprobe or DEFAULT_NPROBE))
    elif "HNSW" in type(faiss.downcast_index(index)).__name__:
        space.set_index_parameter(index, "efSearch", ef_search or DEFAULT_EF_SEARCH)


def _lists(spec: str) -> int:
    match = re.search(r"(?:IVF|IMI)(\d+)(K?)", spec)
    return int(match[1]) * (1024 if match[2] else 1) if match else 0
