"""Search among some passages: exact searches find the best of them, others at least all there are."""

import numpy as np
import pytest

from rag_ops.retrieval import among
from rag_ops.retrieval.among import search_among
from rag_ops.retrieval.faiss_kind import Faiss
from rag_ops.retrieval.topk import TopK

ROWS, FIRST, DIMENSION = 300, 1000, 8


@pytest.mark.parametrize("count", [0, 1, 5, 150, ROWS])
def test_the_best_of_those_that_are_allowed_however_deep_they_lie(count, monkeypatch):
    monkeypatch.setattr(among, "MAX_HITS", 900)  # some questions at a time
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 40, (6, ROWS)).astype(np.float32)
    allowed = np.sort(rng.choice(ROWS, count, replace=False))
    asked: list[int] = []

    def search(numbers: np.ndarray, depth: int) -> TopK:
        asked.append(depth)
        assert len(numbers) * depth <= 900 or len(numbers) == 1
        return TopK.sorted(scores[numbers], np.tile(np.arange(FIRST, FIRST + ROWS), (len(numbers), 1)), depth)

    hits, short = search_among(search, 6, 7, allowed, FIRST, ROWS)
    expected = TopK.sorted(scores[:, allowed], np.tile(allowed + FIRST, (6, 1)), 7)
    assert hits.rows.tolist() == expected.rows.tolist()
    assert hits.scores.tolist() == expected.scores.tolist()
    assert len(short) == 0
    assert max(asked, default=0) <= ROWS


def test_questions_whose_search_gives_no_more_are_named():
    def search(numbers: np.ndarray, depth: int) -> TopK:  # question 1 finds three passages, whatever the depth
        found = TopK.empty(len(numbers), depth)
        for place, number in enumerate(numbers):
            count = 3 if number == 1 else depth
            found.rows[place, :count], found.scores[place, :count] = FIRST + np.arange(count), -np.arange(count)
        return found

    hits, short = search_among(search, 3, 4, np.array([0, 1, 2, 50, 60]), FIRST, ROWS)
    assert short.tolist() == [1]
    assert hits.rows.tolist() == [[1000, 1001, 1002, 1050], [1000, 1001, 1002, -1], [1000, 1001, 1002, 1050]]


@pytest.mark.parametrize("spec", ["Flat", "SQfp16", "IVF16,Flat", "HNSW8", "IVF16,SQ8"])
def test_an_index_finds_all_that_are_allowed_and_the_best_of_them_if_it_is_exact(tmp_path, spec):
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((ROWS, DIMENSION)).astype(np.float16).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    shard = open_shard(tmp_path, spec, vectors)
    questions = rng.standard_normal((9, DIMENSION)).astype(np.float32)
    for allowed in (np.array([7, 8, 250]), np.arange(0, ROWS, 3)):
        hits = shard.search_among(questions, 5, allowed)
        assert ((hits.rows >= 0).sum(1) == min(5, len(allowed))).all()
        assert set((hits.rows[hits.rows >= 0] - FIRST).tolist()) <= set(allowed.tolist())
        if spec in ("Flat", "SQfp16"):
            exact = TopK.sorted(questions @ vectors[allowed].T, np.tile(allowed + FIRST, (9, 1)), 5)
            np.testing.assert_allclose(hits.scores, exact.scores, rtol=2e-3, atol=2e-3)
            assert (hits.rows == exact.rows).mean() > 0.95
    before = shard.search(questions, 5)
    assert shard.search(questions, 5).rows.tolist() == before.rows.tolist()
    if spec == "IVF16,Flat":
        assert shard._index.nprobe == 1  # as it was before all lists were looked at


def open_shard(tmp_path, spec: str, vectors: np.ndarray):
    """A shard of an index over vectors, open, with the narrowest search there is."""
    import faiss

    from rag_ops.storage import store

    kind = Faiss(spec, DIMENSION, "float32", normalize=True)
    kind.check(len(vectors))
    index = faiss.index_factory(DIMENSION, spec, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    path = str(tmp_path / "shard.faiss")
    faiss.write_index(index, path)
    return kind.shard(path, store.sha256_of(path), FIRST, len(vectors), threads=1, nprobe=1, ef_search=1)
