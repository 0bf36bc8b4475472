"""Top-k: the best passages of each question of a block, and the merge of what several index shards found."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

HIT = np.dtype([("question", "<i4"), ("score", "<f4"), ("row", "<i8")])  # one that is sent: 16 bytes


@dataclasses.dataclass(frozen=True)
class TopK:
    """The best k passages of each question of a block.

    Attributes:
        scores: inner products, float32 (questions, k), best first; -inf if there is no hit.
        rows: passages' rows in the corpus, int64 (questions, k); -1 if there is no hit. Equal scores stand in order
            of row.
    """

    scores: np.ndarray
    rows: np.ndarray

    @classmethod
    def empty(cls, questions: int, k: int) -> TopK:
        """A TopK with no hit for any question."""
        return cls(np.full((questions, k), -np.inf, np.float32), np.full((questions, k), -1, np.int64))

    @classmethod
    def sorted(cls, scores: np.ndarray, rows: np.ndarray, k: int) -> TopK:
        """The best k of candidates in any order, (questions, candidates); too few are filled up with no hit."""
        missing = max(0, k - scores.shape[1])
        scores = np.pad(scores.astype(np.float32), ((0, 0), (0, missing)), constant_values=-np.inf)
        rows = np.pad(rows.astype(np.int64), ((0, 0), (0, missing)), constant_values=-1)
        scores = np.where(rows < 0, np.float32(-np.inf), scores)
        order = np.lexsort((np.where(rows < 0, np.iinfo(np.int64).max, rows), -scores), axis=1)[:, :k]
        return cls(np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1))

    def within(self, first: int, end: int) -> TopK:
        """The hits whose rows are from `first` to before `end`, in the same places; the others are no hit."""
        here = (self.rows >= first) & (self.rows < end)
        return TopK(np.where(here, self.scores, np.float32(-np.inf)), np.where(here, self.rows, -1))

    def to_bytes(self) -> bytes:
        """Serializes the shape and the hits; a place without a hit takes no bytes."""
        places = np.nonzero(self.rows >= 0)
        hits = np.empty(len(places[0]), HIT)
        hits["question"], hits["score"], hits["row"] = places[0], self.scores[places], self.rows[places]
        return np.array(self.rows.shape, "<i8").tobytes() + hits.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> TopK:
        """The inverse of `to_bytes`, but that each question's hits come first."""
        found, hits = cls.empty(*np.frombuffer(data, "<i8", 2)), np.frombuffer(data, HIT, offset=16)
        places = hits["question"], np.arange(len(hits)) - np.searchsorted(hits["question"], hits["question"])
        found.scores[places], found.rows[places] = hits["score"], hits["row"]
        return found


def merge(parts: Iterable[TopK], k: int) -> TopK:
    """The best k of several shards' hits for the same questions.

    >>> a = TopK(np.array([[2.0, 1.0]], np.float32), np.array([[7, 9]]))
    >>> b = TopK(np.array([[2.0, -np.inf]], np.float32), np.array([[3, -1]]))
    >>> merge([a, b], 2).rows.tolist()
    [[3, 7]]
    """
    parts = list(parts)
    return TopK.sorted(np.concatenate([p.scores for p in parts], 1), np.concatenate([p.rows for p in parts], 1), k)
