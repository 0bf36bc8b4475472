"""Recall as counted by hand, by an independent count over real indexes, and the choice of the least effort."""

import numpy as np
import pytest

from rag_ops.errors import InputError, JobError
from rag_ops.retrieval import faiss_index, recall
from rag_ops.retrieval.faiss_kind import Faiss
from rag_ops.retrieval.faiss_shard import FaissShard
from rag_ops.retrieval.index_kind import SearchParams
from rag_ops.retrieval.recall import Recall
from rag_ops.retrieval.topk import TopK


def hits(rows: list[list[int]], scores: list[list[float]] | None = None) -> TopK:
    """Hits with falling scores unless told."""
    array = np.array(rows, np.int64)
    given = np.array(scores, np.float32) if scores else -np.arange(array.shape[1], dtype=np.float32) + 0 * array
    return TopK(np.where(array < 0, -np.inf, given).astype(np.float32), array)


def test_recall_by_hand():
    truth = hits([[3, 1, 4, 15, 9, 2], [6, 5, 35, 8, 97, 93]])
    found = hits([[3, 4, 7, 9, 1, 2], [5, 6, 1, 2, 4, 3]])
    assert recall.measure(found, truth, None) == {1: 0.5, 5: pytest.approx((4 + 2) / 10)}


def test_a_query_does_not_count_itself():
    truth, found = hits([[7, 3, 1, 4, 9, 2]]), hits([[3, 1, 4, 9, 2, 8]])
    assert recall.measure(found, truth, np.array([7])) == {1: 1.0, 5: 1.0}
    assert recall.measure(found, truth, None)[1] == 0.0


def test_what_is_as_good_as_the_kth_best_counts():
    truth = hits([[0, 1, 2, 3, 4, 5]], [[5, 4, 4, 4, 4, 4]])
    found = hits([[0, 5, 4, 3, 2, 9]])
    assert recall.measure(found, truth, None) == {1: 1.0, 5: 1.0}


def test_too_small_a_corpus_for_a_depth_leaves_it_out():
    few = hits([[1, 2, 3, -1, -1, -1, -1]])
    assert recall.measure(few, few, None) == {1: 1.0}


def test_queries_are_spread_and_distinct():
    assert recall.query_rows(100).tolist() == list(range(100))
    for rows in (600, 5000, 40_000, 21_000_000):
        found = recall.query_rows(rows)
        assert len(found) == 512
        assert (np.diff(found) > 0).all()
        assert found[0] == 0
        assert rows - 1000 <= found[-1] < rows
    groups = {int(row) // 1000 for row in recall.query_rows(21_000_000)}
    assert len(groups) <= 64, "queries are read from a few row groups"


@pytest.mark.parametrize("spec", ["IVF32,Flat", "IVF32_HNSW16,SQ8", "HNSW16"])
def test_measured_recall_is_an_independent_count(tmp_path, spec):
    generator = np.random.default_rng(0)
    vectors = (generator.standard_normal((40, 24))[generator.integers(0, 40, 5000)] * 2).astype(np.float32)
    vectors += generator.standard_normal(vectors.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kind = Faiss(spec, 24, normalize=True)
    index = kind.train(vectors, 1)
    faiss_index.fill(index, iter([vectors]), 1)
    with open(tmp_path / "i.faiss", "wb") as file:
        faiss_index.write_index(index, file)
    shard = FaissShard(str(tmp_path / "i.faiss"), "d" * 64, 0, len(vectors))
    rows = recall.query_rows(len(vectors), 100)
    truth = recall.true_hits(vectors[rows], [vectors[:3000], vectors[3000:]], 0, 1)
    tried = kind.search_params(True)
    found = recall.found_hits(shard, vectors[rows], rows, truth, tried)
    assert list(found) == tried[: len(found)]
    curve = []
    for params, top in found.items():
        measured = recall.measure(top, truth, rows)
        for k in (1, 5, 20):
            scores = vectors[rows] @ vectors.T
            scores[np.arange(len(rows)), rows] = -np.inf
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            without_own = [[row for row in line if row != own][:k] for line, own in zip(top.rows, rows, strict=True)]
            share = np.mean([len(set(a) & set(b)) / k for a, b in zip(best.tolist(), without_own, strict=True)])
            assert measured[k] == pytest.approx(share, abs=0.005), (params, k)
        curve.append(measured[20])
    assert curve[-1] > curve[0]
    chosen = recall.choose([Recall(e, 100, recall.measure(t, truth, rows)) for e, t in found.items()], 0.9)
    assert min(chosen.at.values()) >= 0.9
    weaker = [e for e in found if e < chosen.params]
    assert all(min(recall.measure(found[e], truth, rows).values()) < 0.9 for e in weaker)


def test_a_search_that_finds_less_than_faiss_in_the_same_index_is_an_error(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((1000, 16)).astype(np.float32)
    index = Faiss("SQ8", 16).empty()
    index.train(vectors)
    faiss_index.fill(index, iter([vectors]), 1)
    with open(tmp_path / "i.faiss", "wb") as file:
        faiss_index.write_index(index, file)
    shard = FaissShard(str(tmp_path / "i.faiss"), "d" * 64, 50, len(vectors))
    rows = recall.query_rows(len(vectors), 300)
    truth = recall.true_hits(vectors[rows], [vectors], 50, 1)
    found = shard.search(vectors[rows], recall.KEPT)
    recall.check_beside_faiss(shard, vectors[rows], rows + 50, truth, found)
    worst_first = TopK(found.scores, found.rows[:, ::-1])
    with pytest.raises(JobError, match=r"recall@1 of the index is below that of FAISS's own search of it.*0\.0"):
        recall.check_beside_faiss(shard, vectors[rows], rows + 50, truth, worst_first)
    other_layout = TopK(found.scores, np.where(found.rows % 3 == 0, found.rows ^ 1, found.rows))
    with pytest.raises(JobError, match=r"below that of FAISS's own"):
        recall.check_beside_faiss(shard, vectors[rows], None, truth, other_layout)


def test_the_least_effort_on_target_is_chosen_and_a_missed_target_names_the_best():
    curve = [
        Recall(SearchParams("nprobe", n), 10, {1: value, 5: value}) for n, value in ((1, 0.5), (2, 0.9), (4, 0.95))
    ]
    assert recall.choose(curve, 0.9).params.value == 2
    assert recall.choose(curve[:1], None).params.value == 1
    with pytest.raises(JobError, match=r"does not reach --target_recall: 'recall@1 0.950, @5 0.950 at nprobe 4"):
        recall.choose(curve, 0.99)


def test_queries_of_a_file(tmp_path):
    np.save(tmp_path / "q.npy", np.ones((3, 4)))
    assert recall.read_queries(str(tmp_path / "q.npy"), 4).dtype == np.float32
    with pytest.raises(InputError, match=r"shape \(3, 4\)'; expected \(queries, 5\)"):
        recall.read_queries(str(tmp_path / "q.npy"), 5)
    with pytest.raises(InputError, match="of no known kind"):
        recall.read_queries(str(tmp_path / "q.txt"), 4)
