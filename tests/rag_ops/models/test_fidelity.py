"""Fidelity against a search by hand."""

import numpy as np
import pytest

from rag_ops.models.fidelity import Sample, fidelity


def test_recall_and_cosine_are_those_of_a_search_by_hand():
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((90, 8)).astype(np.float32)
    narrow = exact + 0.3 * rng.standard_normal(exact.shape).astype(np.float32)
    found = fidelity(exact, narrow, queries=40)
    hits = 0
    for query in range(40):
        nearest = [
            set(sorted((n for n in range(90) if n != query), key=lambda n, v=vectors: -v[query] @ v[n])[:20])
            for vectors in (exact, narrow)
        ]
        hits += len(nearest[0] & nearest[1])
    assert found["recall_at_20"] == pytest.approx(hits / 800, abs=1e-4)
    assert 0.5 < found["recall_at_20"] < 0.95
    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(exact, narrow, strict=True)]
    assert found["cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert (found["queries"], found["among"]) == (40, 90)


def test_passages_that_are_as_near_are_as_good():
    exact = np.repeat(np.eye(2, dtype=np.float32), 30, axis=0)
    narrow = exact + 1e-3 * np.random.default_rng(1).standard_normal(exact.shape).astype(np.float32)
    assert fidelity(exact, narrow, queries=60)["recall_at_20"] == 1


@pytest.mark.parametrize(("rows", "recall"), [(1, 1.0), (5, 1.0)])
def test_few_passages_are_all_neighbours(rows, recall):
    vectors = np.random.default_rng(2).standard_normal((rows, 4)).astype(np.float32)
    assert fidelity(vectors, -vectors, queries=rows)["recall_at_20"] == recall


def test_the_sample_grows_with_the_corpus():
    assert [Sample.of(rows) for rows in (0, 60, 600, 1_000_000, 3_000_000)] == [
        *(Sample(0, 0), Sample(50, 60), Sample(50, 500), Sample(1000, 10_000), Sample(2000, 20_000)),
    ]
