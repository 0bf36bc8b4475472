"""FAISS indexes for inner product: one trained index, cloned and filled shard by shard from row-aligned embeddings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from rag_ops.errors import InputError
from rag_ops.retrieval import faiss_factory

logger = logging.getLogger(__name__)
ADD_NUMBERS = 4 << 20  # of vectors that are added at a time, at least: 16 MB
FEW_PER_CENTROID = 39  # below so many training vectors for each, FAISS warns
CODE_BITS = 8  # bits of each part of a product quantiser whose rotation is learned
WHOLE_CODES = ("IndexFlat", "IndexFlatIP", "IndexScalarQuantizer", "IndexPQ")  # kept in one block, a row after another
DEFAULT_NPROBE = 64
MANY_QUESTIONS = 32  # for a list on average, from which on `inverted_lists` is quicker than FAISS
MANY_NUMBERS = 80 << 20  # of questions' vectors for it at once: 320 MB
DEFAULT_EF_SEARCH = 128


def train(index: Any, sample: np.ndarray) -> None:
    """Trains an index on float32 (rows, dimension): transforms, then what follows; a PCA does not subtract the mean.

    FAISS's own does: it turns q·v into (q - m)·(v - m), which ranks vectors otherwise.
    """
    outer: Any = faiss.downcast_index(index)
    if hasattr(outer, "refine_index"):
        train(outer.base_index, sample)
        outer.refine_index.train(sample)
        outer.is_trained = True
        return
    if not isinstance(outer, faiss.IndexPreTransform):
        _say_if_few(outer, len(sample))
        outer.train(sample)
        return
    chain: Any = outer.chain
    _say_if_few(faiss.downcast_index(outer.index), len(sample))
    for number in range(chain.size()):
        transform = faiss.downcast_VectorTransform(chain.at(number))
        if isinstance(transform, faiss.OPQMatrix):
            # FAISS would make a quantiser of these settings itself, one that warns of each of its parts.
            quantiser = faiss.ProductQuantizer(transform.d_out, transform.M, CODE_BITS)
            quantiser.cp.min_points_per_centroid = 1
            transform.pq = quantiser
        if not transform.is_trained:
            transform.train(sample)
        if isinstance(transform, faiss.OPQMatrix):
            transform.pq = None  # FAISS does not own it
        if isinstance(transform, faiss.PCAMatrix):
            faiss.copy_array_to_vector(np.zeros(transform.d_out, np.float32), transform.b)
        sample = transform.apply(sample)
    outer.index.train(sample)
    outer.is_trained = True


def _say_if_few(index: Any, rows: int) -> None:
    """One line where clusters are learned from few vectors, in place of FAISS's own for each part of each vector."""
    wanted = 0
    for part, centroids in ((index, getattr(index, "nlist", 0)), (getattr(index, "pq", None), None)):
        if part is not None and hasattr(part, "cp"):
            part.cp.min_points_per_centroid = 1
            wanted = max(wanted, FEW_PER_CENTROID * (part.ksub if centroids is None else centroids))
    if rows < wanted:
        logger.warning("training on %s vectors; FAISS recommends %s for good recall", f"{rows:,}", f"{wanted:,}")


def augment(vectors: np.ndarray, longest: float, width: int | None = None) -> np.ndarray:
    """Vectors with one more number, which makes all of them `longest` long, and zeros after it.

    Args:
        vectors: (rows, dimension).
        longest: greatest length among the vectors.
        width: numbers of a vector in the end; dimension + 1 unless it is given.

    Returns:
        float32 (rows, width).
    """
    vectors = np.asarray(vectors, np.float32)
    rows, dimension = vectors.shape
    missing = longest**2 - np.square(vectors, dtype=np.float64).sum(1)
    augmented = np.zeros((rows, width or dimension + 1), np.float32)
    augmented[:, :dimension], augmented[:, dimension] = vectors, np.sqrt(np.maximum(missing, 0))
    return augmented


def longest_vector(batches: Iterator[np.ndarray]) -> float:
    """The greatest length among vectors; 0 for none."""
    lengths = (np.linalg.norm(vectors.astype(np.float32), axis=1) for vectors in batches)
    return max((float(batch.max(initial=0.0)) for batch in lengths), default=0.0)


def fill(
    index: Any, batches: Iterator[np.ndarray], threads: int, longest: float | None = None, rows: int | None = None
) -> int:
    """Adds vectors in order, so that vector i of the index is the i-th row given; returns the number of rows.

    Args:
        index: trained index.
        batches: vectors, (rows, dimension) each.
        threads: number of FAISS's threads.
        longest: length of the longest vector, if vectors are to be augmented.
        rows: number of vectors to come, if known: memory for them is taken at once.
    """
    faiss.omp_set_num_threads(threads)
    if rows is not None:
        _reserve(index, rows)
    for vectors in _merged(batches):
        added = vectors.astype(np.float32) if longest is None else augment(vectors, longest, index.d)
        index.add(np.ascontiguousarray(added))
    return int(index.ntotal)


def _merged(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the same vectors, `ADD_NUMBERS` or more at a time: threads that meet after each few rows wait for long."""
    held: list[np.ndarray] = []
    for vectors in batches:
        held.append(vectors)
        if sum(part.size for part in held) >= ADD_NUMBERS:
            yield np.concatenate(held) if len(held) > 1 else vectors
            held = []
    if held:
        yield np.concatenate(held)


def _reserve(index: Any, rows: int) -> None:
    """Takes memory for the codes of so many vectors; else it is doubled as they come, and copied."""
    inner: Any = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    if faiss_factory.kind_of(inner) in WHOLE_CODES:
        codes = getattr(inner.codes, "owned_data", inner.codes)  # a plain vector in older versions
        codes.resize(rows * inner.code_size)
        codes.resize(0)  # keeps the memory


def write_index(index: Any, file: Any) -> int:
    """Writes an index to an open file, without a copy on local disk; returns the number of its vectors."""
    faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
    return int(index.ntotal)


def read_index(path: str, *, mapped: bool = True) -> Any:
    """Opens an index in a local file; maps what FAISS can leave in the file, unless vectors are to be added.

    Raises:
        InputError: the file is cut, or no FAISS index.
    """
    try:
        return faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise InputError(
            "an index file cannot be read", value=path, expected="a whole FAISS file", remedy="run index again"
        ) from error


def set_search(index: Any, nprobe: int | None = None, ef_search: int | None = None) -> None:
    """Sets how many lists (IVF) or candidates (HNSW) a search visits; FAISS's own defaults lose most of the recall."""
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        ivf.nprobe = min(ivf.nlist, nprobe or DEFAULT_NPROBE)
        quantizer = faiss.downcast_index(ivf.quantizer)
        if hasattr(quantizer, "hnsw"):  # a graph over the centroids, which must find so many of them
            quantizer.hnsw.efSearch = max(DEFAULT_EF_SEARCH, 2 * ivf.nprobe)
    elif (graph := faiss_factory.graph_of(index)) is not None:
        graph.hnsw.efSearch = ef_search or DEFAULT_EF_SEARCH


def matrix_of(index: Any) -> np.ndarray | None:
    """The vectors of an index that stores them as they are, (rows, dimension) float32 or float16, not copied; or None.

    The index must outlive what is given.
    """
    inner: Any = faiss.downcast_index(index)
    if inner.metric_type != faiss_factory.METRIC or not inner.ntotal:
        return None
    dtype: Any = None
    if faiss_factory.kind_of(inner) in ("IndexFlat", "IndexFlatIP"):  # a subclass may lay out its numbers otherwise
        dtype = np.float32
    elif faiss_factory.kind_of(inner) == "IndexScalarQuantizer" and inner.sq.qtype == faiss.ScalarQuantizer.QT_fp16:
        dtype = np.float16
    if dtype is None or inner.sa_code_size() != inner.d * np.dtype(dtype).itemsize:
        return None
    codes = faiss.rev_swig_ptr(inner.codes.data(), inner.ntotal * inner.code_size)
    return codes.view(dtype).reshape(inner.ntotal, inner.d)
