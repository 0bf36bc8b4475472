"""Passages in the order of a reranker's scores, with the others behind them."""

import numpy as np

from rag_ops.retrieval.reranking import reordered
from rag_ops.retrieval.topk import TopK

NAN, INF = np.nan, np.inf
HITS = TopK(
    np.array([[9.0, 8.0, 7.5, 4.0, 3.0], [5.0, 2.0, -INF, -INF, -INF], [-INF] * 5], np.float32),
    np.array([[40, 30, 20, 10, 50], [1, 2, -1, -1, -1], [-1] * 5]),
)
SCORES = np.array([[0.5, 2.0, 0.5], [-1.0, 3.0, NAN], [NAN, NAN, NAN]], np.float32)


def test_scored_passages_come_first_and_the_score_never_rises():
    hits, sources = reordered(HITS, {"dense_score": HITS.scores}, SCORES, 4)
    assert hits.rows.tolist() == [[30, 20, 40, 10], [2, 1, -1, -1], [-1] * 4]  # of equal scores the lower row
    # behind: 0.5, the least of the reranker's, less 7.5 - 4.0
    assert hits.scores.tolist() == [[2.0, 0.5, 0.5, -3.0], [3.0, -1.0, -INF, -INF], [-INF] * 4]
    np.testing.assert_array_equal(sources["rerank_score"], np.array([[2, 0.5, 0.5, NAN], [3, -1, NAN, NAN], [NAN] * 4]))
    assert sources["dense_score"][0].tolist() == [8.0, 7.5, 9.0, 4.0]


def test_more_scored_than_kept_leaves_the_best_of_them():
    hits, _ = reordered(HITS, {}, SCORES, 1)
    assert hits.rows.tolist() == [[30], [2], [-1]]
