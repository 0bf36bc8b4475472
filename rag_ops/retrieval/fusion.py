"""Fusion of two searches for the same questions: by reciprocal ranks, or by weighted scores."""

from __future__ import annotations

import dataclasses

import numpy as np

from rag_ops import settings
from rag_ops.errors import InputError
from rag_ops.retrieval.topk import TopK
from rag_ops.settings import setting

RRF, WEIGHTED = "rrf", "weighted"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """How the passages of two searches become one list."""

    fusion: str = setting(
        RRF,
        "how --index and --bm25 rank as one: rrf, by the sum of 1 / (--rrf_k + rank); weighted, by the sum of scores, "
        "each search's from 0 (its last candidate, or none) to 1 (its first) within a question",
        group="hits",
        choices=(RRF, WEIGHTED),
    )
    rrf_k: int = setting(60, "with --fusion rrf: the larger, the less the first ranks count", group="hits", at_least=1)
    dense_weight: float = setting(
        0.5,
        "with --fusion weighted: share of the vectors' scores; words have the rest",
        group="hits",
        within=(0.0, 1.0),
    )

    def __post_init__(self) -> None:
        settings.check(self)
        other = {RRF: "dense_weight", WEIGHTED: "rrf_k"}[self.fusion]
        if (value := getattr(self, other)) != _default(other):
            raise InputError(
                f"--{other} has no meaning with --fusion {self.fusion}", value=value, remedy="leave out one of the two"
            )

    def check_unused(self) -> None:
        """Checks, for one search alone, that nothing is said of a fusion.

        Raises:
            InputError: a setting is not as it is by default.
        """
        for field in dataclasses.fields(self):
            if (value := getattr(self, field.name)) != field.default:
                raise InputError(f"--{field.name} is for two searches", value=value, expected="both --index and --bm25")

    def config(self) -> dict[str, object]:
        """What decides the result: the method, and its own number."""
        own = {"rrf_k": self.rrf_k} if self.fusion == RRF else {"dense_weight": self.dense_weight}
        return {"fusion": self.fusion, **own}


def _default(name: str) -> object:
    return next(field.default for field in dataclasses.fields(FusionSettings) if field.name == name)


@dataclasses.dataclass(frozen=True)
class Fused:
    """The passages of two searches as one list, and the scores of either, float32 (questions, k); NaN for none."""

    hits: TopK
    dense: np.ndarray
    bm25: np.ndarray


def fuse(dense: TopK, bm25: TopK, how: FusionSettings, k: int) -> Fused:
    """The best k passages of two searches for the same questions.

    Reciprocal rank fusion is that of Cormack, Clarke and Buettcher (2009): a passage that a search did not find gets
    nothing of it. Sums are in float64, rounded to float32; equal ones stand in order of row.

    >>> dense = TopK(np.array([[0.9, 0.5]], np.float32), np.array([[7, 3]]))
    >>> bm25 = TopK(np.array([[12.0, 4.0]], np.float32), np.array([[3, 5]]))
    >>> fuse(dense, bm25, FusionSettings(), 3).hits.rows.tolist()
    [[3, 7, 5]]
    """
    weights = [shares(one, how) for one in (dense, bm25)]
    if how.fusion == WEIGHTED:
        weights = [how.dense_weight * weights[0], (1 - how.dense_weight) * weights[1]]
    none = np.full((len(dense.rows), k), np.nan, np.float32)
    found = Fused(TopK.empty(len(dense.rows), k), none, none.copy())
    for number, rows in enumerate(zip(dense.rows, bm25.rows, strict=True)):
        both, places = np.unique(np.concatenate(rows), return_inverse=True)
        cut, sums, scores = len(rows[0]), np.zeros(len(both)), np.full((2, len(both)), np.nan, np.float32)
        for side, (here, part) in enumerate(((places[:cut], dense), (places[cut:], bm25))):
            sums[here] += weights[side][number]
            scores[side, here] = part.scores[number]
        both, sums, scores = both[both >= 0], sums[both >= 0].astype(np.float32), scores[:, both >= 0]
        best = np.lexsort((both, -sums))[:k]
        kept = slice(0, len(best))
        found.hits.rows[number, kept], found.hits.scores[number, kept] = both[best], sums[best]
        found.dense[number, kept], found.bm25[number, kept] = scores[:, best]
    return found


def shares(hits: TopK, how: FusionSettings) -> np.ndarray:
    """What each passage of one search adds to its sum, before weights: float64 (questions, k); 0 for no hit."""
    real = hits.rows >= 0
    if how.fusion == RRF:
        ranks = np.arange(1, hits.rows.shape[1] + 1)
        return np.where(real, 1 / (how.rrf_k + ranks), 0.0)
    scores = np.where(real, hits.scores.astype(np.float64), np.nan)
    with np.errstate(all="ignore"):
        low = np.min(np.where(real, scores, np.inf), axis=1, keepdims=True, initial=np.inf)
        high = np.max(np.where(real, scores, -np.inf), axis=1, keepdims=True, initial=-np.inf)
        spread = np.where(high > low, (scores - low) / (high - low), 1.0)
    return np.where(real, spread, 0.0)
