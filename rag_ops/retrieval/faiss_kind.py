"""FAISS as a kind of index: memory, training sample and search parameters follow from the spec, a factory string."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from rag_ops.errors import InputError
from rag_ops.retrieval import faiss_factory, faiss_index
from rag_ops.retrieval.faiss_factory import Layout
from rag_ops.retrieval.faiss_shard import FaissShard
from rag_ops.retrieval.index_kind import MIN_TRAIN_ROWS, IndexKind, SearchParams, Vectors
from rag_ops.sizes import size

TRAIN_ROWS_PER_CENTROID = 64  # FAISS warns below 39 and ignores rows above 256
FULL_TRAIN_ROWS = 1 << 18  # for code books of more than 256 words, which want some for each
MIN_CODE_WORDS = 256  # MIN_TRAIN_ROWS are enough up to here
EXACT_NUMBERS = 4 << 30  # --spec auto searches exactly up to this many numbers (5.6 million vectors of 768)
EXACT_RECALL = 0.99  # a higher target is met by exact search alone
LIST_ID_BYTES = 8  # the id of each vector in an inverted list
GRAPH_BYTES = 16  # each vector in a graph, besides its links of 4 bytes
LISTS_READ = re.compile(r"IVF\d+[kM]?(_HNSW\d*)?,(Flat|SQ8)")  # those that `inverted_lists` can read
# of its search, at most: of a number of a question's vector, and of a question's candidates
SEARCH_NUMBER_BYTES, SEARCH_QUESTION_BYTES, MOST_CANDIDATE_BYTES = 13, 8000, 400_000_000
LIST_NUMBERS = 200_000  # of vectors, whose products take as long as all else for a list and those who ask for it
PLAIN = {"float16": "SQfp16", "float32": "Flat"}  # what keeps vectors of a dtype as they are
NPROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)
EF_SEARCHES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)


class Faiss(IndexKind):
    """An index of FAISS's, by inner product, or by distance if that gives the same order. Flat is exact search.

    >>> Faiss("Flat", 768).bytes_per_vector, Faiss("IVF64,PQ64", 768).bytes_per_vector
    (3072, 72)
    >>> Faiss("HNSW32,SQ8", 768, normalize=True).bytes_per_vector, Faiss("PQ64,RFlat", 768).bytes_per_vector
    (1040, 3136)
    """

    shard = FaissShard

    @staticmethod
    def takes(spec: str) -> bool:
        """Any: FAISS says what is no factory string."""
        return True

    @functools.cached_property
    def layout(self) -> Layout:
        """How vectors are stored in it."""
        return faiss_factory.layout(self.spec, self.dimension, self.normalize)

    @property
    def stored_as(self) -> str:
        """The spec that it is stored as: Flat in the vectors' own dtype, others as they are.

        >>> Faiss("Flat", 8, "float16").stored_as, Faiss("Flat", 8, "float32").stored_as, Faiss("SQ8", 8).stored_as
        ('SQfp16', 'Flat', 'SQ8')
        """
        return PLAIN[self.dtype] if self.spec == "Flat" else self.spec

    @functools.cached_property
    def training(self) -> bool:
        """See `IndexKind.training`."""
        return not self._sketch().is_trained

    @property
    def exact(self) -> bool:
        """See `IndexKind.exact`."""
        return self.stored_as == PLAIN[self.dtype]

    @property
    def bytes_per_vector(self) -> int:
        """See `IndexKind.bytes_per_vector`."""
        return _vector_bytes(self._sketch())

    @property
    def fixed_bytes(self) -> int:
        """Bytes that every shard takes whatever its vectors: centroids, code books, rotations."""
        index = self._sketch()
        parts = list(faiss_factory.parts_of(index))
        transforms = [transform for part in parts for transform in faiss_factory.transforms_of(part)]
        numbers = sum(transform.d_out * transform.d_in for transform in transforms if hasattr(transform, "A"))
        for part in parts:
            numbers += getattr(part, "nlist", 0) * part.d
            for quantiser in _quantisers(part):
                numbers += getattr(quantiser, "total_codebook_size", getattr(quantiser, "ksub", 0)) * quantiser.d
        return 4 * numbers

    def search_bytes(self, questions: int) -> int:
        """See `IndexKind.search_bytes`: of a search that goes from list to list.

        >>> Faiss("IVF64,SQ8", 768).search_bytes(100_000) > 10**9, Faiss("IVF64,PQ64", 768).search_bytes(100_000)
        (True, 0)
        """
        if not LISTS_READ.fullmatch(self.spec):
            return 0
        numbers = min(questions * self.dimension, faiss_index.MANY_NUMBERS)
        return SEARCH_NUMBER_BYTES * numbers + min(SEARCH_QUESTION_BYTES * questions, MOST_CANDIDATE_BYTES)

    def searched(self, rows: int, shards: int) -> int:
        """See `IndexKind.searched`: each list counts as some vectors more, for what its visit takes.

        >>> Faiss("Flat", 64).searched(1000, 2), Faiss("IVF64,SQ8", 64).searched(1000, 2) > 1000
        (1000, True)
        """
        if not LISTS_READ.fullmatch(self.spec):
            return rows
        lists = max(getattr(part, "nlist", 0) for part in faiss_factory.parts_of(self._sketch()))
        return rows + shards * lists * LIST_NUMBERS // self.dimension

    def config(self) -> dict[str, Any]:
        """See `IndexKind.config`; augmented vectors stand for inner products."""
        by_product = self.layout.augmented or self.layout.metric == faiss_factory.METRIC
        config: dict[str, Any] = {"spec": self.spec, "metric": "inner_product" if by_product else "l2"}
        if faiss_factory.is_graph(self.spec) and not self.layout.augmented and not self.normalize:
            config["augmented"] = False  # a graph of inner products behind a reduction
        return config

    def info(self) -> dict[str, Any]:
        """See `IndexKind.info`."""
        return {"stored_as": self.stored_as, "augmented": self.layout.augmented}

    def check(self, rows: int | None) -> None:
        """Checks the factory string against the vectors before any work; see `IndexKind.check`.

        Raises:
            InputError: FAISS does not know the string, it does not rank by inner product, or it does not go with the
                dimension or the number of vectors.
        """
        spec = self.spec
        for sub in re.findall(r"(?<![A-Z])PQ(\d+)", spec):
            width = _inner_dimension(spec, self.layout.width)
            if int(sub) == 0 or width % int(sub):
                good = [n for n in range(1, width + 1) if width % n == 0 and n <= int(sub or 1)]
                raise InputError(
                    "--spec has sub-quantisers that don't divide the dimension",
                    value=spec,
                    expected=f"a divisor of {width}",
                    remedy="use " + (re.sub(rf"PQ{sub}\b", f"PQ{good[-1]}", spec) if good else "Flat"),
                )
        index = self.empty()
        faiss_factory.check_unit_range(index, spec, self.normalize)
        if rows is None:
            return
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

    def sample_size(self, rows: int) -> int:
        """See `IndexKind.sample_size`."""
        wanted = max(MIN_TRAIN_ROWS, TRAIN_ROWS_PER_CENTROID * lists(self.spec))
        words = max((words for _, words in _code_books(self._sketch(), rows)), default=0)
        if words <= MIN_CODE_WORDS:
            return wanted
        return max(wanted, words, min(TRAIN_ROWS_PER_CENTROID * words, FULL_TRAIN_ROWS))

    def train(self, sample: np.ndarray, threads: int) -> Any:
        """See `IndexKind.train`.

        Raises:
            InputError: the sample is too small for the spec.
        """
        faiss.omp_set_num_threads(threads)
        index = self.empty()
        if self.layout.augmented:
            sample = faiss_index.augment(sample, faiss_index.longest_vector(iter([sample])), self.layout.width)
        try:
            faiss_index.train(index, sample)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][-160:]
            raise InputError(
                f"--spec cannot be trained on {len(sample)} vectors ({reason})",
                value=self.spec,
                remedy="use Flat, or fewer centroids",
            ) from error
        return index

    def build(self, vectors: Vectors, rows: int, threads: int, trained: str | None = None) -> Any:
        """See `IndexKind.build`."""
        index = self.empty() if trained is None else faiss_index.read_index(trained, mapped=False)
        longest = faiss_index.longest_vector(vectors()) if self.layout.augmented else None
        faiss_index.fill(index, vectors(), threads, longest, rows)
        return index

    write = staticmethod(faiss_index.write_index)

    def search_params(self, tune: bool) -> list[SearchParams]:
        """See `IndexKind.search_params`: nprobe for inverted lists, efSearch for a graph, or none."""
        if wanted := lists(self.spec):
            tried = sorted({min(n, wanted) for n in NPROBES if n <= 2 * wanted} | {wanted})
            return [SearchParams("nprobe", n) for n in (tried if tune else [min(wanted, faiss_index.DEFAULT_NPROBE)])]
        if "HNSW" in self.spec:
            return [SearchParams("ef_search", n) for n in (EF_SEARCHES if tune else [faiss_index.DEFAULT_EF_SEARCH])]
        return [SearchParams()]

    def empty(self) -> Any:
        """An empty index, not trained."""
        return faiss_factory.empty_index(self.stored_as, self.layout.width, self.layout.metric)

    def _sketch(self) -> Any:
        return faiss_factory.sketch(self.stored_as, self.layout.width)


def choose(
    rows: int, dimension: int, bytes_per_number: int, shard_bytes: int, shards: int, recall: float
) -> tuple[str, str]:
    """The spec for --spec auto, and why: exact if a batch search is cheap, else compressed inverted lists.

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
        return "Flat", f"Flat: for {about} {why}; {size(exact_bytes)} in all"
    lists = 1 << max(6, round(np.log2(4 * np.sqrt(rows))))
    for codes, name in ((dimension, "SQ8"), (_sub_quantisers(dimension), f"PQ{_sub_quantisers(dimension)}")):
        spec = f"IVF{lists},{name}"
        total = rows * (codes + LIST_ID_BYTES)
        if total <= shard_bytes * shards:
            return spec, f"{spec}: for {about} exact search is long; {size(total)} in all, in lists"
    raise InputError(
        "no index fits --shard_memory",
        value=size(shard_bytes),
        expected=f"at least {size(-(-total // shards))} for {about} in {shards} shards",
        remedy="more --shard_memory, or chunk with more --num_shards",
    )


def lists(spec: str) -> int:
    """The number of inverted lists; 0 for none.

    >>> lists("OPQ64,IVF4096,PQ64"), lists("IVF2k_HNSW32,Flat"), lists("HNSW32")
    (4096, 2048, 0)
    """
    match = re.search(r"(?:IVF|IMI)(\d+)([kM]?)", spec)
    return int(match[1]) * {"": 1, "k": 1 << 10, "M": 1 << 20}[match[2]] if match else 0


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
