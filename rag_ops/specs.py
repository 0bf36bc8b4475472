"""FAISS factory strings: what an index takes of memory, what it must be trained on, and which one suits a corpus."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from rag_ops.errors import InputError

METRIC = faiss.METRIC_INNER_PRODUCT  # what DPR and RAG score passages by; FAISS itself defaults to L2
TRAIN_ROWS_PER_CENTROID = 64  # FAISS warns below 39 and ignores rows above 256
MIN_TRAIN_ROWS = 10_000  # for quantisers, which have no list of centroids
CODE_WORDS = 256  # of a product quantiser with 8 bits, which so many training vectors must fill
EXACT_NUMBERS = 4 << 30  # --spec auto searches exactly up to this many numbers (5.6 million vectors of 768)
EXACT_RECALL = 0.99  # a higher target is met by exact search alone
LIST_ID_BYTES = 8  # of each vector in an inverted list
GRAPH_BYTES = 16  # of each vector in a graph, besides its links of 4 bytes
SHARD_BYTES = 2 << 30  # of an index shard, unless told otherwise
NUMBER_BYTES = {"float16": 2, "float32": 4}
AUTO, TOLD = "auto", "as told"
DEPTHS = (1, 5, 20, 100)  # k of recall@k


@dataclasses.dataclass(frozen=True)
class Choice:
    """What --spec auto came to: the factory string, and why, in one line."""

    spec: str
    reason: str


def choose(rows: int, dimension: int, bytes_per_number: int, shard_bytes: int, shards: int, recall: float) -> Choice:
    """The index for a corpus: exact where a batch search through all of it is cheap, else compressed inverted lists.

    Args:
        rows: number of vectors.
        dimension: numbers of a vector.
        bytes_per_number: of the vectors as stored: 2 or 4.
        shard_bytes: memory for one index shard.
        shards: the most shards that there can be: the embedding shards.
        recall: what is wanted of recall@k.
    """
    numbers, exact_bytes = rows * dimension, rows * dimension * bytes_per_number
    fits = exact_bytes <= shard_bytes * shards
    about = f"{rows:,} vectors of {dimension}"
    if fits and (numbers <= EXACT_NUMBERS or recall > EXACT_RECALL):
        why = "exact search is cheap" if numbers <= EXACT_NUMBERS else f"a recall of {recall:g} wants exact search"
        return Choice("Flat", f"Flat: for {about} {why}; {size(exact_bytes)} in all")
    lists = 1 << max(6, round(np.log2(4 * np.sqrt(rows))))
    for codes, name in ((dimension, "SQ8"), (_sub_quantisers(dimension), f"PQ{_sub_quantisers(dimension)}")):
        spec = f"IVF{lists},{name}"
        total = rows * (codes + LIST_ID_BYTES)
        if total <= shard_bytes * shards:
            return Choice(spec, f"{spec}: for {about} exact search is long; {size(total)} in all, in lists")
    raise InputError(
        "no index fits --shard_memory",
        value=size(shard_bytes),
        expected=f"at least {size(-(-total // shards))} for {about} in {shards} shards",
        remedy="more --shard_memory, or chunk with more --num_shards",
    )


@dataclasses.dataclass(frozen=True)
class Design:
    """What index is to be built.

    Attributes:
        spec: FAISS factory string.
        reason: why, in one line.
        dimension, dtype: of the vectors.
        num_shards: index shards.
        training: whether it must be trained.
        augmented: whether vectors get one more number; see `wants_augmented`.
    """

    spec: str
    reason: str
    dimension: int
    dtype: str
    num_shards: int
    training: bool
    augmented: bool


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
) -> Design:
    """The index for some vectors, checked against them before any work.

    Args:
        spec: FAISS factory string, or "auto".
        rows: number of vectors.
        dimension: numbers of a vector.
        dtype: of the vectors as stored: "float16" or "float32".
        normalize: whether vectors have length 1.
        files: embedding shards.
        num_shards: index shards; None for as few as keep each within `shard_bytes`.
        shard_bytes: memory for an index shard.
        recall: what "auto" must reach.

    Raises:
        InputError: the spec does not go with the vectors, or no index fits the memory.
    """
    reason = TOLD
    if spec == AUTO:
        choice = choose(rows, dimension, NUMBER_BYTES[dtype], shard_bytes, num_shards or files, recall)
        spec, reason = choice.spec, choice.reason
    augmented = wants_augmented(spec, normalize)
    width = dimension + augmented
    check(spec, width, rows)
    shards = num_shards or default_shards(rows, bytes_per_vector(stored(spec, dtype), width), files, shard_bytes)
    return Design(spec, reason, dimension, dtype, shards, needs_training(spec, width), augmented)


def default_shards(rows: int, bytes_per_vector: int, embedding_shards: int, shard_bytes: int = SHARD_BYTES) -> int:
    """The number of index shards when none is given: as few as keep each within `shard_bytes`."""
    return max(1, min(embedding_shards, -(-rows * bytes_per_vector // shard_bytes)))


def check(spec: str, dimension: int, rows: int) -> None:
    """Checks a FAISS factory string against the vectors before any work.

    Args:
        spec: such as "Flat", "SQ8", "IVF1024,PQ64" or "HNSW32".
        dimension: numbers of a vector.
        rows: number of vectors.

    Raises:
        InputError: FAISS does not know the string, or it does not go with the dimension or the number of vectors.
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
    empty_index(spec, dimension)
    if lists(spec) > rows:
        raise InputError(
            "--spec wants more centroids than there are vectors",
            value=spec,
            expected=f"at most {rows} lists for {rows} vectors",
            remedy=f"use Flat, or {_with_lists(spec, max(1, rows // TRAIN_ROWS_PER_CENTROID))}",
        )
    if re.search(r"PQ\d+(?!x4)", spec) and rows < CODE_WORDS:
        raise InputError(
            "--spec wants more training vectors than there are",
            value=f"{spec} for {rows} vectors",
            expected=f"at least {CODE_WORDS}",
            remedy="use Flat",
        )


def empty_index(spec: str, dimension: int, metric: int = METRIC) -> Any:
    """An untrained, empty FAISS index, for inner product unless told otherwise.

    A product quantiser is not trained for polysemous codes (Douze et al. 2016), as the factory's own "np" asks: that
    takes seconds of annealing for each of its parts, and only puts its centroids into another order, for a search by
    Hamming distance that ours never is.

    Raises:
        InputError: FAISS does not know the string, or it does not go with the dimension.
    """
    try:
        index = faiss.index_factory(dimension, spec, metric)
    except Exception as error:  # FAISS raises RuntimeError and, for some strings, AssertionError or bare Exception
        reason = str(error).strip().splitlines()[-1][-160:] if str(error).strip() else type(error).__name__
        raise InputError(
            f"--spec is no index for vectors of {dimension} numbers ({reason})",
            value=spec,
            expected="Flat or a FAISS factory string whose parts divide the dimension",
        ) from error
    for part in parts_of(index):
        if hasattr(part, "do_polysemous_training"):
            part.do_polysemous_training = False
    return index


def parts_of(index: Any) -> Iterator[Any]:
    """An index and those that it is made of, each as its own class."""
    index = faiss.downcast_index(index)
    yield index
    for name in ("index", "base_index", "storage", "quantizer"):
        if getattr(index, name, None) is not None:
            yield from parts_of(getattr(index, name))


def stored(spec: str, dtype: str) -> str:
    """What an index of `spec` over vectors of `dtype` is stored as: Flat in the vectors' own dtype, others as they are.

    >>> stored("Flat", "float16"), stored("Flat", "float32"), stored("SQ8", "float16")
    ('SQfp16', 'Flat', 'SQ8')
    """
    return "SQfp16" if spec == "Flat" and dtype == "float16" else spec


def is_exact(spec: str, dtype: str = "float16") -> bool:
    """Whether a search finds the best by the vectors as they are stored."""
    return spec == "Flat" or (spec == "SQfp16" and dtype == "float16")


def wants_augmented(spec: str, normalized: bool) -> bool:
    """Whether vectors get one more number, so that a graph over them is one of distances.

    A graph that links by raw inner product links everything to the longest vectors, and loses recall. With sqrt(phi^2 -
    |v|^2) appended, phi the longest length, inner product and L2 distance give the same order (Karpukhin et al.'s DPR
    code does this for its HNSW index). Vectors of one length need no such thing.
    """
    return "HNSW" in spec and not lists(spec) and not normalized


def lists(spec: str) -> int:
    """The number of inverted lists; 0 for none.

    >>> lists("OPQ64,IVF4096,PQ64"), lists("IVF2K_HNSW32,Flat"), lists("HNSW32")
    (4096, 2048, 0)
    """
    match = re.search(r"(?:IVF|IMI)(\d+)(K?)", spec)
    return int(match[1]) * (1024 if match[2] else 1) if match else 0


def needs_training(spec: str, dimension: int) -> bool:
    """Whether an index of this kind must see a sample of the vectors before any is added."""
    return not empty_index(spec, dimension).is_trained


def training_rows(spec: str, rows: int) -> np.ndarray:
    """The rows of the training sample: evenly spaced over the corpus, so it is the same in every run.

    Returns:
        int64, ascending, at most `rows` of them.
    """
    wanted = min(rows, max(MIN_TRAIN_ROWS, TRAIN_ROWS_PER_CENTROID * lists(spec)))
    return np.linspace(0, rows - 1, wanted).astype(np.int64) if rows else np.empty(0, np.int64)


def bytes_per_vector(spec: str, dimension: int) -> int:
    """What a vector takes in an index of this kind, on disk and in memory.

    >>> bytes_per_vector("Flat", 768), bytes_per_vector("IVF64,PQ64", 768), bytes_per_vector("HNSW32,SQ8", 768)
    (3072, 72, 1040)
    """
    index = empty_index(spec, dimension)
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        return int(ivf.code_size) + LIST_ID_BYTES
    inner: Any = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    if hasattr(inner, "hnsw"):
        links = inner.hnsw.nb_neighbors(0)
        return int(faiss.downcast_index(inner.storage).sa_code_size()) + 4 * links + GRAPH_BYTES
    return int(inner.sa_code_size())


def fixed_bytes(spec: str, dimension: int) -> int:
    """What every shard takes whatever its vectors: centroids, code books, rotations."""
    inner = _inner_dimension(spec, dimension)
    total = 4 * inner * lists(spec)
    if "PQ" in spec:
        total += 4 * inner * CODE_WORDS
    if re.search(r"OPQ|PCA|RR|ITQ", spec):
        total += 4 * dimension * inner
    return total


def size(count: float) -> str:
    """Bytes for people: binary units, three digits.

    >>> size(3 * 2**30), size(1536)
    ('3 GiB', '1.5 KiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def parse_size(flag: str, text: str) -> int:
    """A number of bytes as a person writes it.

    Raises:
        InputError: it is no size.

    >>> parse_size("--shard_memory", "2GiB"), parse_size("--shard_memory", "1.5 mb"), parse_size("--m", "4096")
    (2147483648, 1500000, 4096)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    if not match or (match[3] and not match[2]) or not float(match[1]):
        raise InputError(f"{flag} is no size", value=text, expected="a number of bytes such as 2GiB, 500MB or 4096")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2] or " "))


def _inner_dimension(spec: str, dimension: int) -> int:
    """Numbers of a vector after the transforms that a spec begins with."""
    reduced = re.search(r"(?:PCAW?R?|OPQ\d+_|RR|ITQ)(\d+)", spec)
    return int(reduced[1]) if reduced else dimension


def _sub_quantisers(dimension: int) -> int:
    """About one byte for 8 numbers, as many as divide the dimension."""
    return max(n for n in range(1, max(2, dimension // 8 + 1)) if dimension % n == 0)


def _with_lists(spec: str, count: int) -> str:
    return re.sub(r"(IVF|IMI)\d+K?", rf"\g<1>{count}", spec)
