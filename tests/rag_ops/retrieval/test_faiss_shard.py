"""Search over shards against NumPy brute force; merging with ties and without hits."""

import itertools

import numpy as np
import pytest

from rag_ops.errors import InputError
from rag_ops.retrieval import faiss_factory, faiss_index
from rag_ops.retrieval.faiss_shard import FaissShard
from rag_ops.retrieval.topk import TopK, merge
from rag_ops.storage import store


def brute_force(questions: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    scores = questions.astype(np.float64) @ vectors.astype(np.float64).T
    order = np.lexsort((np.broadcast_to(np.arange(len(vectors)), scores.shape), -scores), axis=1)
    return order[:, :k]


def write(tmp_path, vectors: np.ndarray, cuts: list[int], spec: str = "Flat") -> list[FaissShard]:
    shards = []
    for number, (start, end) in enumerate(itertools.pairwise(cuts)):
        index = faiss_factory.empty_index(spec, vectors.shape[1])
        faiss_index.fill(index, iter([vectors[start:end]]), threads=1)
        name = f"index-{number}.faiss"
        with store.atomic_write(str(tmp_path), name) as file:
            assert faiss_index.write_index(index, file) == end - start
        shards.append(FaissShard(str(tmp_path / name), file.sha256, start, end - start))
    return shards


@pytest.mark.parametrize("cuts", [[0, 500], [0, 100, 100, 350, 500], [0, 3, 500]])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_any_number_of_shards_gives_what_brute_force_gives(tmp_path, cuts, dtype):
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((500, 24)).astype(dtype)
    questions = generator.standard_normal((17, 24)).astype(np.float32)
    found = merge([shard.search(questions, 7) for shard in write(tmp_path, vectors, cuts)], 7)
    expected = brute_force(questions, vectors, 7)
    assert found.rows.tolist() == expected.tolist()
    scores = np.take_along_axis(questions @ vectors.astype(np.float32).T, expected, 1)
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)


def test_equal_scores_stand_in_order_of_row_across_shards():
    left = TopK.sorted(np.array([[1.0, 1.0]]), np.array([[8, 4]]), 2)
    right = TopK.sorted(np.array([[1.0, 0.5]]), np.array([[6, 1]]), 2)
    assert merge([left, right], 4).rows.tolist() == [[4, 6, 8, 1]]
    assert merge([right, left], 4).rows.tolist() == [[4, 6, 8, 1]]


def test_fewer_vectors_than_k_are_filled_with_no_hit(tmp_path):
    (shard,) = write(tmp_path, np.eye(3, 8, dtype=np.float32), [0, 3])
    found = shard.search(np.ones((2, 8), np.float32), 5)
    assert found.rows[:, 3:].tolist() == [[-1, -1], [-1, -1]]
    assert np.isneginf(found.scores[:, 3:]).all()


def test_no_hit_never_stands_before_a_hit():
    found = TopK.sorted(np.array([[5.0, -3.0]]), np.array([[-1, 2]]), 2)
    assert found.rows.tolist() == [[2, -1]]


def test_no_questions_and_no_vectors(tmp_path):
    (shard,) = write(tmp_path, np.empty((0, 8), np.float32), [0, 0])
    assert shard.search(np.ones((2, 8), np.float32), 3).rows.tolist() == [[-1] * 3] * 2
    assert shard.search(np.empty((0, 8), np.float32), 3).rows.shape == (0, 3)


def test_bytes_and_back():
    found = TopK.sorted(np.array([[0.25, 0.5], [1, -1]]), np.array([[3, 9], [1 << 40, -1]]), 3)
    back = TopK.from_bytes(found.to_bytes())
    assert back.rows.tolist() == found.rows.tolist()
    assert back.scores.tolist() == found.scores.tolist()


def test_a_cut_index_file_is_named(tmp_path):
    write(tmp_path, np.eye(4, dtype=np.float32), [0, 4])
    path = tmp_path / "index-0.faiss"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"index-0\.faiss"):
        FaissShard(str(path), "x", 0, 4)


def test_an_index_with_other_rows_than_its_manifest_is_refused(tmp_path):
    write(tmp_path, np.eye(4, dtype=np.float32), [0, 4])
    with pytest.raises(InputError, match="4 vectors"):
        FaissShard(str(tmp_path / "index-0.faiss"), "x", 0, 5)
