"""Specs (FAISS factory strings): the memory that an index takes, its training sample, and the spec for a corpus."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from rag_ops import defaults
from rag_ops.errors import InputError
from rag_ops.retrieval import faiss_factory
from rag_ops.retrieval.faiss_factory import Layout
from rag_ops.sizes import parse_size, size

TRAIN_ROWS_PER_CENTROID = 64  # FAISS warns below 39 and ignores rows above 256
MIN_TRAIN_ROWS = 10_000  # for quantisers, which have no list of centroids
FULL_TRAIN_ROWS = 1 << 18  # for code books of more than 256 words, which want some for each
MIN_CODE_WORDS = 256  # MIN_TRAIN_ROWS are enough up to here
EXACT_NUMBERS = 4 << 30  # --spec auto searches exactly up to this many numbers (5.6 million vectors of 768)
EXACT_RECALL = 0.99  # a higher target is met by exact search alone
LIST_ID_BYTES = 8  # the id of each vector in an inverted list
GRAPH_BYTES = 16  # each vector in a graph, besides its links of 4 bytes
SHARD_BYTES = parse_size("--shard_memory", defaults.SHARD_MEMORY)
NUMBER_BYTES = {"float16": 2, "float32": 4}
AUTO, TOLD = "auto", "as told"
DEPTHS = (1, 5, 20, 100)  # k of recall@k


@dataclasses.dataclass(frozen=True)
class IndexChoice:
    """The spec that --spec auto chose, and why, in one line."""

    spec: str
    reason: str


def choose(
    rows: int, dimension: int, bytes_per_number: int, shard_bytes: int, shards: int, recall: float
) -> IndexChoice:
    """The spec for a corpus: exact if a batch search through all of it is cheap, else compressed inverted lists.

    Args:
        rows: number of vectors.
        dimension: numbers of a vector.
        bytes_per_number: bytes of a stored number: 2 or 4.
        shard_bytes: memory for one index shard.
        shards: the most shards that there can be: the embedding shards.
        recall: least recall@k.
    """
    numbers, exact_bytes = rows * dimension, rows * dimension * bytes_per_number
    fits = exact_bytes <= shard_bytes * shards
    about = f"{rows:,} vectors of {dimension}"
    if fits and (numbers <= EXACT_NUMBERS or recall > EXACT_RECALL):
        why = "exact search is cheap" if numbers <= EXACT_NUMBERS else f"a recall of {recall:g} wants exact search"
        return IndexChoice("Flat", f"Flat: for {about} {why}; {size(exact_bytes)} in all")
    lists = 1 << max(6, round(np.log2(4 * np.sqrt(rows))))
    for codes, name in ((dimension, "SQ8"), (_sub_quantisers(dimension), f"PQ{_sub_quantisers(dimension)}")):
        spec = f"IVF{lists},{name}"
        total = rows * (codes + LIST_ID_BYTES)
        if total <= shard_bytes * shards:
            return IndexChoice(spec, f"{spec}: for {about} exact search is long; {size(total)} in all, in lists")
    raise InputError(
        "no index fits --shard_memory",
        value=size(shard_bytes),
        expected=f"at least {size(-(-total // shards))} for {about} in {shards} shards",
        remedy="more --shard_memory, or chunk with more --num_shards",
    )


@dataclasses.dataclass(frozen=True)
class IndexDesign:
    """The index to build.

    Attributes:
        spec: FAISS factory string.
        reason: why this spec, in one line.
        dimension, dtype: dimension and dtype of the vectors.
        num_shards: number of index shards.
        training: whether it must be trained.
        layout: how vectors are stored in it.
    """

    spec: str
    reason: str
    dimension: int
    dtype: str
    num_shards: int
    training: bool
    layout: Layout


def design(
    spec: str,
    rows: int,
    dimension: int,
    dtype: str,
    *,
    normalize: bool,
    files: int,
    num_shards: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    recall: float,
) -> IndexDesign:
    """Designs the index for some vectors, checked against them before any work.

    Args:
        spec: FAISS factory string, or "auto".
        rows: number of vectors.
        dimension: numbers of a vector.
        dtype: dtype of the vectors as stored: "float16" or "float32".
        normalize: whether vectors have length 1.
        files: number of embedding shards.
        num_shards: number of index shards; None for as few as keep each within `shard_bytes`.
        shard_bytes: memory for an index shard.
        recall: recall that "auto" must reach.

    Raises:
        InputError: the spec does not go with the vectors, or no index fits the memory.
    """
    reason = TOLD
    if spec == AUTO:
        choice = choose(rows, dimension, NUMBER_BYTES[dtype], shard_bytes, num_shards or files, recall)
        spec, reason = choice.spec, choice.reason
    layout = faiss_factory.layout(spec, dimension, normalize)
    check(spec, layout.width, rows, metric=layout.metric, normalized=normalize)
    shards = num_shards or default_shards(rows, bytes_per_vector(stored(spec, dtype), layout.width), files, shard_bytes)
    return IndexDesign(spec, reason, dimension, dtype, shards, needs_training(spec, layout.width), layout)


def default_shards(rows: int, bytes_per_vector: int, embedding_shards: int, shard_bytes: int = SHARD_BYTES) -> int:
    """The number of index shards when none is given: as few as keep each within `shard_bytes`."""
    return max(1, min(embedding_shards, -(-rows * bytes_per_vector // shard_bytes)))


def check(
    spec: str, dimension: int, rows: int, *, metric: int = faiss_factory.METRIC, normalized: bool = False
) -> None:
    """Checks a FAISS factory string against the vectors before any work.

    Args:
        spec: such as "Flat", "SQ8", "IVF1024,PQ64" or "HNSW32".
        dimension: numbers of a vector in the index.
        rows: number of vectors.
        metric: metric of FAISS; see `faiss_factory.layout`.
        normalized: whether vectors have length 1.

    Raises:
        InputError: FAISS does not know the string, it does not rank by inner product, or it does not go with the
            dimension or the number of vectors.
    """
    for sub in re.findall(r"(?<![A-Z])PQ(\d+)", spec):
        width = _inner_dimension(spec, dimension)
        if int(sub) == 0 or width % int(sub):
            good = [n for n in range(1, width + 1) if width % n == 0 and n <= int(sub or 1)]
            raise InputError(
                "--spec has sub-quantisers that don't divide the dimension",
                value=spec,
                expected=f"a divisor of {width}",
                remedy="use " + (re.sub(rf"PQ{sub}\b", f"PQ{good[-1]}", spec) if good else "Flat"),
            )
    index = faiss_factory.empty_index(spec, dimension, metric)
    faiss_factory.check_unit_range(index, spec, normalized)
    if lists(spec) > rows:
        raise InputError(
            "--spec wants more centroids than there are vectors",
            value=spec,
            expected=f"at most {rows} lists for {rows} vectors",
            remedy=f"use Flat, or {_with_lists(spec, max(1, rows // TRAIN_ROWS_PER_CENTROID))}",
        )
    for seen, words in _code_books(index, rows):
        if words > seen:
            raise InputError(
                "--spec wants more training vectors than there are",
                value=f"{spec} for {seen} {'vectors' if seen == rows else 'centroids'}",
                expected=f"at least {words}",
                remedy="use Flat" if seen == rows else "leave out what is in parentheses",
            )


def stored(spec: str, dtype: str) -> str:
    """What an index of `spec` over vectors of `dtype` is stored as: Flat in the vectors' own dtype, others as they are.

    >>> stored("Flat", "float16"), stored("Flat", "float32"), stored("SQ8", "float16")
    ('SQfp16', 'Flat', 'SQ8')
    """
    return "SQfp16" if spec == "Flat" and dtype == "float16" else spec


def is_exact(spec: str, dtype: str = "float16") -> bool:
    """Whether a search finds the best by the vectors as they are stored."""
    return spec == "Flat" or (spec == "SQfp16" and dtype == "float16")


def is_reduced_graph(design: IndexDesign, *, normalize: bool) -> bool:
    """Whether an index is a graph of inner products over vectors of different lengths, behind a reduction."""
    return faiss_factory.is_graph(design.spec) and not design.layout.augmented and not normalize


def metric_name(layout: Layout) -> str:
    """The name in a manifest for the order that an index ranks by: augmented vectors stand for inner products."""
    return "inner_product" if layout.augmented or layout.metric == faiss_factory.METRIC else "l2"


def lists(spec: str) -> int:
    """The number of inverted lists; 0 for none.

    >>> lists("OPQ64,IVF4096,PQ64"), lists("IVF2k_HNSW32,Flat"), lists("HNSW32")
    (4096, 2048, 0)
    """
    match = re.search(r"(?:IVF|IMI)(\d+)([kM]?)", spec)
    return int(match[1]) * {"": 1, "k": 1 << 10, "M": 1 << 20}[match[2]] if match else 0


def needs_training(spec: str, dimension: int) -> bool:
    """Whether an index of this kind must see a sample of the vectors before any is added."""
    return not faiss_factory.sketch(spec, dimension).is_trained


def training_rows(spec: str, rows: int, dimension: int) -> np.ndarray:
    """The rows of the training sample: evenly spaced over the corpus, so it is the same in every run.

    Args:
        spec: FAISS factory string.
        rows: number of vectors.
        dimension: numbers of a vector in the index.

    Returns:
        int64, ascending, at most `rows` of them.
    """
    wanted = max(MIN_TRAIN_ROWS, TRAIN_ROWS_PER_CENTROID * lists(spec))
    words = max((words for _, words in _code_books(faiss_factory.sketch(spec, dimension), rows)), default=0)
    if words > MIN_CODE_WORDS:
        wanted = max(wanted, words, min(TRAIN_ROWS_PER_CENTROID * words, FULL_TRAIN_ROWS))
    return np.linspace(0, rows - 1, min(rows, wanted)).astype(np.int64) if rows else np.empty(0, np.int64)


def bytes_per_vector(spec: str, dimension: int) -> int:
    """Bytes of a vector in an index of this kind, on disk and in memory.

    >>> bytes_per_vector("Flat", 768), bytes_per_vector("IVF64,PQ64", 768), bytes_per_vector("HNSW32,SQ8", 768)
    (3072, 72, 1040)
    >>> bytes_per_vector("PQ64,RFlat", 768), bytes_per_vector("IVF64,PQ64,Refine(SQfp16)", 768)
    (3136, 1608)
    """
    return _vector_bytes(faiss_factory.sketch(spec, dimension))


def _vector_bytes(index: Any) -> int:
    part: Any = faiss.downcast_index(index)  # which does not keep `index` alive
    if hasattr(part, "refine_index"):
        return _vector_bytes(part.base_index) + _vector_bytes(part.refine_index)
    if hasattr(part, "chain"):
        return _vector_bytes(part.index)
    if hasattr(part, "invlists"):
        return int(part.code_size) + LIST_ID_BYTES
    if hasattr(part, "hnsw"):
        return _vector_bytes(part.storage) + 4 * faiss_factory.links_of(part) + GRAPH_BYTES
    return int(part.sa_code_size())


def fixed_bytes(spec: str, dimension: int) -> int:
    """Bytes that every shard takes whatever its vectors: centroids, code books, rotations."""
    index = faiss_factory.sketch(spec, dimension)
    parts = list(faiss_factory.parts_of(index))
    transforms = [transform for part in parts for transform in faiss_factory.transforms_of(part)]
    numbers = sum(transform.d_out * transform.d_in for transform in transforms if hasattr(transform, "A"))
    for part in parts:
        numbers += getattr(part, "nlist", 0) * part.d
        for quantiser in _quantisers(part):
            numbers += getattr(quantiser, "total_codebook_size", getattr(quantiser, "ksub", 0)) * quantiser.d
    return 4 * numbers


def _inner_dimension(spec: str, dimension: int) -> int:
    """Numbers of a vector after the transforms that a spec begins with."""
    reduced = re.search(r"(?:PCAW?R?|OPQ\d+_|RR|ITQ)(\d+)", spec)
    return int(reduced[1]) if reduced else dimension


def _sub_quantisers(dimension: int) -> int:
    """About one byte for 8 numbers, as many as divide the dimension."""
    return max(n for n in range(1, max(2, dimension // 8 + 1)) if dimension % n == 0)


def _with_lists(spec: str, count: int) -> str:
    return re.sub(r"(IVF|IMI)\d+K?", rf"\g<1>{count}", spec)


def _quantisers(part: Any) -> list[Any]:
    """The product or additive quantisers of a part of an index."""
    found = (getattr(part, name, None) for name in ("pq", "rq", "lsq", "prq", "plsq"))
    return [quantiser for quantiser in found if quantiser is not None]


def _code_books(index: Any, seen: int) -> Iterator[tuple[int, int]]:
    """For each code book, the number of vectors that it can be learned from, and its words.

    Args:
        index: empty index.
        seen: number of vectors. What finds lists is learned from their centroids.
    """
    part: Any = faiss.downcast_index(index)  # which does not keep `index` alive
    for quantiser in _quantisers(part):
        bits = faiss.vector_to_array(quantiser.nbits) if hasattr(quantiser, "total_codebook_size") else None
        yield seen, int(quantiser.ksub if bits is None else 1 << int(bits.max()))
    for name in ("index", "base_index", "refine_index", "storage", "quantizer"):
        if getattr(part, name, None) is not None:
            yield from _code_books(getattr(part, name), part.nlist if name == "quantizer" else seen)
