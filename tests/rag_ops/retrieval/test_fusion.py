"""Fusion against its formulas, passage by passage."""

import math

import numpy as np
import pytest

from rag_ops.errors import InputError
from rag_ops.retrieval.fusion import FusionSettings, fuse
from rag_ops.retrieval.topk import TopK


def random_hits(rng, questions: int, k: int, rows: int) -> TopK:
    """Hits with equal scores among them, and questions with fewer than k, or none."""
    found = TopK.empty(questions, k)
    for number in range(questions):
        count = rng.integers(0, k + 1)
        found.rows[number, :count] = rng.choice(rows, count, replace=False)
        found.scores[number, :count] = rng.integers(0, 6, count) / 4
    return TopK.sorted(found.scores, found.rows, k)


def by_hand(dense: list, bm25: list, how: FusionSettings, k: int) -> list[tuple[int, float]]:
    """Row and sum of the best k, from the (row, score) of either search."""
    sums: dict[int, float] = {}
    for share, side in ((how.dense_weight, dense), (1 - how.dense_weight, bm25)):
        scores = [score for _, score in side]
        for rank, (row, score) in enumerate(side, 1):
            if how.fusion == "rrf":
                part = 1 / (how.rrf_k + rank)
            else:
                low, high = min(scores), max(scores)
                part = share * ((score - low) / (high - low) if high > low else 1.0)
            sums[row] = sums.get(row, 0.0) + part
    return sorted(((row, float(np.float32(total))) for row, total in sums.items()), key=lambda one: (-one[1], one[0]))[
        :k
    ]


@pytest.mark.parametrize(
    "how",
    [
        FusionSettings(),
        FusionSettings(rrf_k=1),
        FusionSettings(fusion="weighted"),
        FusionSettings(fusion="weighted", dense_weight=0.9),
        FusionSettings(fusion="weighted", dense_weight=1.0),
    ],
    ids=str,
)
def test_sums_are_those_of_the_formula(how):
    rng = np.random.default_rng(1)
    dense, bm25 = random_hits(rng, 40, 6, 12), random_hits(rng, 40, 9, 12)
    fused = fuse(dense, bm25, how, 8)
    sides = [
        [
            [(row, score) for row, score in zip(rows, scores, strict=True) if row >= 0]
            for rows, scores in zip(one.rows.tolist(), one.scores.tolist(), strict=True)
        ]
        for one in (dense, bm25)
    ]
    for number in range(40):
        expected = by_hand(sides[0][number], sides[1][number], how, 8)
        assert fused.hits.rows[number, : len(expected)].tolist() == [row for row, _ in expected]
        assert fused.hits.scores[number, : len(expected)].tolist() == [score for _, score in expected]
        assert set(fused.hits.rows[number, len(expected) :].tolist()) <= {-1}
        for side, scores in ((sides[0], fused.dense), (sides[1], fused.bm25)):
            given = dict(side[number])
            for row, score in zip(fused.hits.rows[number].tolist(), scores[number].tolist(), strict=True):
                assert score == given[row] if row in given else math.isnan(score)


def test_a_weight_of_one_side_alone_gives_its_order():
    rng = np.random.default_rng(2)
    dense = TopK.sorted(rng.random((5, 7)).astype(np.float32), np.argsort(rng.random((5, 20)))[:, :7], 7)
    bm25 = TopK.sorted(rng.random((5, 7)).astype(np.float32), np.argsort(rng.random((5, 20)))[:, :7], 7)
    fused = fuse(dense, bm25, FusionSettings(fusion="weighted", dense_weight=1.0), 5)
    assert fused.hits.rows.tolist() == dense.rows[:, :5].tolist()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"fusion": "sum"}, {"rrf_k": 0}, {"dense_weight": 1.5}, {"dense_weight": 0.0}),
        *({"dense_weight": 0.3}, {"rrf_k": 5, "fusion": "weighted"}),  # of the other way
    ],
)
def test_settings_out_of_range_or_of_no_use_are_refused(wrong):
    with pytest.raises(InputError, match=f"--{next(iter(wrong))}"):
        FusionSettings(**wrong)
