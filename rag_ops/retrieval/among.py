"""Search among some passages of a shard alone, by searches that know no such thing: deeper until there are enough."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rag_ops.retrieval.topk import TopK

DEEPER = 4  # times as many candidates for the questions that have too few
MAX_HITS = 4 << 20  # candidates at once: 50 MB

Search = Callable[[np.ndarray, int], TopK]  # numbers of questions and depth to their hits, of all passages of the shard


def search_among(
    search: Search, questions: int, k: int, allowed: np.ndarray, first_row: int, rows: int
) -> tuple[TopK, np.ndarray]:
    """The best k of some passages of a shard for each question.

    Args:
        search: search of the whole shard, deeper at each call, for fewer questions.
        questions: number of questions.
        k: number of passages to find.
        allowed: their places in the shard, ascending.
        first_row: row of the shard's first passage.
        rows: number of passages of the shard.

    Returns:
        The hits; and the numbers of the questions that have fewer than there are, though the search gave all it had.
    """
    found, wanted = TopK.empty(questions, k), min(k, len(allowed))
    left, spent = np.arange(questions if wanted else 0), []
    mask = np.zeros(rows + 1, bool)  # the last one is for no hit
    mask[allowed] = True
    depth = min(rows, max(k, -(-2 * k * rows // max(1, len(allowed)))))
    while len(left):
        still = []
        at_once = max(1, MAX_HITS // depth)
        for start in range(0, len(left), at_once):
            numbers = left[start : start + at_once]
            hits = search(numbers, depth)
            passes = mask[np.where(hits.rows < 0, rows, hits.rows - first_row)]
            best = TopK.sorted(hits.scores, np.where(passes, hits.rows, -1), k)
            found.scores[numbers], found.rows[numbers] = best.scores, best.rows
            short = (best.rows >= 0).sum(1) < wanted
            whole = ((hits.rows >= 0).sum(1) < depth) | (depth >= rows)
            spent.append(numbers[short & whole])
            still.append(numbers[short & ~whole])
        left, depth = np.concatenate(still), min(rows, DEEPER * depth)
    return found, np.concatenate(spent) if spent else np.empty(0, np.int64)
