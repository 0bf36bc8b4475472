"""What a kind of index must know: its size, and how it is trained, filled, written, opened and searched.

A new kind is a subclass of `IndexKind` and one of `IndexShard` in a file of their own, and its entry in `kinds.py`.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from rag_ops.errors import InputError
from rag_ops.retrieval.among import search_among
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store

MIN_TRAIN_ROWS = 10_000
QUESTIONS_AT_ONCE = 4096  # whose vectors take 12 MB at 768 numbers
Vectors = Callable[[], Iterator[np.ndarray]]  # gives all from the first: float16 or float32 batches, (rows, dimension)


@dataclasses.dataclass(frozen=True, order=True)
class SearchParams:
    """What a search is tuned by: the name of a field of `kinds.SearchSettings`, and its value; or nothing."""

    name: str | None = None
    value: int = 0

    def __str__(self) -> str:
        return f"{self.name} {self.value}" if self.name else "one setting"

    def settings(self) -> dict[str, int]:
        """The parameters by name."""
        return {self.name: self.value} if self.name else {}


class IndexShard(abc.ABC):
    """An open index shard.

    Args:
        url: URL of the file; a remote one is copied to the local cache.
        digest: SHA-256 of the file, its name in the cache.
        first_row: row of its first vector in the corpus.
        expected_rows: number of vectors in the manifest.
        threads: number of threads of the search.
        device: "auto", "cpu" or "cuda": of a search that can be on a GPU; others are on the CPU.
        asked: number of questions of the whole job: a search for many may be another than one for a few.
        params: see `set_search`.

    Raises:
        InputError: the file cannot be read, holds another number of vectors, or does not rank by inner product.
    """

    def __init__(
        self,
        url: str,
        digest: str,
        first_row: int,
        expected_rows: int,
        *,
        threads: int = 2,
        device: str = "cpu",
        asked: int = 0,
        **params: int | None,
    ):
        self._first_row, self._threads, self._device, self._asked = first_row, threads, device, asked
        self._rows = self._open(store.local_copy(url, digest, sha256=digest))
        if self._rows != expected_rows:
            raise InputError(
                "an index shard does not hold what its manifest says",
                value=f"{url} ({self._rows} vectors)",
                expected=f"{expected_rows} vectors",
                remedy="run index again",
            )
        if reason := self._why_unreadable():
            raise InputError(f"an index shard {reason}", value=url, remedy="run index again")
        self.set_search(params)

    @property
    def questions_at_once(self) -> int:
        """How many questions one search is best given, if there are as many."""
        return QUESTIONS_AT_ONCE

    def search(self, questions: np.ndarray, k: int) -> TopK:
        """The best k passages of this shard for each question vector, float32 (questions, dimension)."""
        found = min(k, self._rows)
        if not len(questions) or not found:
            return TopK.empty(len(questions), k)
        return self._hits(*self._search(np.ascontiguousarray(questions, np.float32), found), k)

    def search_among(self, questions: np.ndarray, k: int, allowed: np.ndarray) -> TopK:
        """The best k passages of this shard among some of them, for each question.

        A search that knows no such thing is asked for more until there are enough; if that is all it gives by its
        parameters, it looks at everything.

        Args:
            questions: as for `search`.
            k: number of passages.
            allowed: places of passages in this shard, int64 ascending.
        """
        whole = (self._first_row, self._rows)
        hits, short = search_among(
            lambda numbers, depth: self.search(questions[numbers], depth), len(questions), k, allowed, *whole
        )
        if len(short):
            with self._searching_all():
                more, _ = search_among(
                    lambda numbers, depth: self.search(questions[short[numbers]], depth), len(short), k, allowed, *whole
                )
            hits.scores[short], hits.rows[short] = more.scores, more.rows
        return hits

    @contextlib.contextmanager
    def _searching_all(self) -> Iterator[None]:
        """Has searches look at every vector within the block; a search that always does has nothing to set."""
        yield

    def search_bare(self, questions: np.ndarray, k: int) -> TopK | None:
        """What the library's own search finds, to compare with; None if `search` is all there is."""
        return None

    @abc.abstractmethod
    def set_search(self, params: Mapping[str, int | None]) -> None:
        """Sets the search parameters by name; None or absent for the default, and those of other kinds are ignored."""

    @abc.abstractmethod
    def _open(self, path: str) -> int:
        """Opens a local file; returns the number of its vectors."""

    @abc.abstractmethod
    def _search(self, questions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (inner products) and places in this shard of k or more hits, in any order; -1 for no hit.

        Args:
            questions: float32 (questions, dimension), at least one and up to thousands: work in blocks.
            k: from 1 to the number of vectors.
        """

    def _why_unreadable(self) -> str | None:
        """Why hits would be no rows ranked by inner product, as the end of a sentence; None if they are."""
        return None

    def _hits(self, scores: np.ndarray, places: np.ndarray, k: int) -> TopK:
        return TopK.sorted(scores, np.where(places < 0, -1, places + self._first_row), k)


@dataclasses.dataclass(frozen=True)
class IndexKind(abc.ABC):
    """An index of some kind for some vectors, before it is built.

    Attributes:
        spec: what --spec says.
        dimension: numbers of a vector.
        dtype: dtype of the vectors as embed stored them: "float16" or "float32".
        normalize: whether vectors have length 1.
    """

    spec: str
    dimension: int
    dtype: str = "float32"
    normalize: bool = False

    shard: ClassVar[type[IndexShard]]  # opens its shards

    @staticmethod
    @abc.abstractmethod
    def takes(spec: str) -> bool:
        """Whether a spec is of this kind."""

    @property
    def training(self) -> bool:
        """Whether it must see a sample of the vectors before any is added."""
        return False

    @property
    def exact(self) -> bool:
        """Whether a search finds the best by the vectors as they are stored; then no recall is measured."""
        return False

    @property
    @abc.abstractmethod
    def bytes_per_vector(self) -> int:
        """Bytes of a vector, on disk and in memory."""

    @property
    def fixed_bytes(self) -> int:
        """Bytes that every shard takes whatever its vectors."""
        return 0

    def search_bytes(self, questions: int) -> int:
        """Bytes that a search takes besides its shard, of a job of so many questions, as far as they are many."""
        return 0

    def searched(self, rows: int, shards: int) -> int:
        """What the time that a search takes for a question grows with: vectors, in all shards together.

        Args:
            rows: number of vectors.
            shards: number of shards.
        """
        return rows

    @abc.abstractmethod
    def check(self, rows: int | None) -> None:
        """Checks the spec against the vectors before any work.

        Args:
            rows: number of vectors; None if it is not known yet.

        Raises:
            InputError: it is no spec, does not rank by inner product, or does not go with the vectors.
        """

    def config(self) -> dict[str, Any]:
        """What decides the index, besides the vectors and the number of shards: part of its fingerprint."""
        return {"spec": self.spec, "metric": "inner_product"}

    def info(self) -> dict[str, Any]:
        """What the manifest says of this kind alone (`IndexInfo` in `schemas/layout.py`)."""
        return {"stored_as": self.spec}

    def training_rows(self, rows: int) -> np.ndarray:
        """The rows of the training sample, int64 ascending: evenly spaced, so it is the same in every run."""
        return np.linspace(0, rows - 1, min(rows, self.sample_size(rows))).astype(np.int64)

    def sample_size(self, rows: int) -> int:
        """The number of vectors to train on, of `rows`; if there are fewer, all."""
        return MIN_TRAIN_ROWS

    def train(self, sample: np.ndarray, threads: int) -> Any:
        """Returns a trained, empty index, trained on float32 (rows, dimension)."""
        raise NotImplementedError

    @abc.abstractmethod
    def build(self, vectors: Vectors, rows: int, threads: int, trained: str | None = None) -> Any:
        """Returns an index of the vectors, in order, with what was learned in the local file `trained`, if anything."""

    @staticmethod
    @abc.abstractmethod
    def write(index: Any, file: Any) -> int:
        """Writes what `train` or `build` returned to an open file; returns the number of its vectors."""

    def search_params(self, tune: bool) -> list[SearchParams]:
        """The search parameters to try, cheapest first; one alone if nothing is to be tuned."""
        return [SearchParams()]
