"""Puts passages in the order of a reranker's scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rag_ops.retrieval.topk import TopK


def reordered(
    hits: TopK, sources: Mapping[str, np.ndarray], scores: np.ndarray, k: int
) -> tuple[TopK, dict[str, np.ndarray]]:
    """The best k passages of each question: those that were scored, by these scores, and the others behind them.

    Those behind keep their order. That the score never rises from one rank to the next, theirs is the least of the
    reranker's, less what theirs lies below that of the last passage that was scored.

    Args:
        hits: passages of each question, best first.
        sources: other scores in the places of `hits`, by name.
        scores: scores of the first passages of each question, float32 (questions, top); NaN for no passage.
        k: number of passages to keep.

    Returns:
        The hits, and the scores by name, with "rerank_score" among them; NaN for none.
    """
    top = scores.shape[1]
    found, given = hits.scores.copy(), np.full(hits.rows.shape, np.nan, np.float32)
    given[:, :top] = scores
    for number, row in enumerate(scores):
        real = np.flatnonzero(~np.isnan(row))
        if len(real):
            behind = slice(top, None)
            with np.errstate(invalid="ignore"):
                below = hits.scores[number, behind].astype(np.float64) - hits.scores[number, real[-1]]
            found[number, behind] = (row[real].min() + below).astype(np.float32)
            found[number, real] = row[real]
    group = (np.arange(hits.rows.shape[1]) >= top)[None, :] | (hits.rows < 0)
    places = np.broadcast_to(np.arange(hits.rows.shape[1]), hits.rows.shape)
    # Of equal scores the lower row comes first; passages behind stay as they are.
    order = np.lexsort((np.where(group, places, hits.rows), np.where(group, 0, -found), hits.rows < 0, group), axis=1)
    order = order[:, :k]

    def taken(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, order, 1)

    named = {**sources, "rerank_score": given}
    return TopK(taken(found), taken(hits.rows)), {name: taken(values) for name, values in named.items()}
