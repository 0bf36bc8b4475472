"""Search from list to list finds what FAISS finds from question to question, whatever the product and the threads."""

import faiss
import numpy as np
import pytest

from rag_ops.retrieval import eight_bits, exact, inverted_lists
from rag_ops.retrieval.faiss_shard import FaissShard
from rag_ops.retrieval.inverted_lists import InvertedLists
from rag_ops.retrieval.topk import TopK

DIMENSION, K = 48, 10


def corpus(kind: str, rows: int = 4000) -> np.ndarray:
    """Vectors that are hard in one way each, float32 (rows, DIMENSION)."""
    generator = np.random.default_rng(3)
    vectors = generator.standard_normal((rows, DIMENSION)).astype(np.float32)
    if kind == "clustered":
        vectors = vectors[generator.integers(0, 60, rows)] + 0.1 * vectors
    elif kind == "of very different lengths":
        vectors *= np.exp(3 * generator.standard_normal((rows, 1))).astype(np.float32)
    elif kind == "often the same":
        vectors = vectors[generator.integers(0, 300, rows)]
    elif kind == "with one large number":
        vectors[:, 7] *= 1000
    elif kind == "of zeros for the most part":
        vectors[: rows - 50] = 0
    return vectors


def build(spec: str, vectors: np.ndarray, nprobe: int = 5) -> faiss.Index:
    index = faiss.index_factory(DIMENSION, spec, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    faiss.extract_index_ivf(index).nprobe = nprobe
    return index


def ask(vectors: np.ndarray, count: int = 300) -> np.ndarray:
    generator = np.random.default_rng(4)
    near = vectors[generator.integers(0, len(vectors), count)]
    return (near + 0.3 * generator.standard_normal(near.shape)).astype(np.float32)


def lists_of(index: faiss.Index) -> InvertedLists:
    ivf = faiss.downcast_index(index)
    assert InvertedLists.can_read(ivf)
    return InvertedLists(ivf)


@pytest.fixture(params=[True, False], ids=["8 bits", "float32"])
def has_8_bits(request, monkeypatch):
    monkeypatch.setattr(eight_bits, "are_faster", lambda: request.param)


KINDS = "plain, clustered, of very different lengths, often the same, with one large number, of zeros for the most part"


@pytest.mark.parametrize("kind", KINDS.split(", "))
@pytest.mark.parametrize("spec", ["IVF32,Flat", "IVF32,SQ8"])
def test_hits_are_faisss_but_for_ties(kind, spec, has_8_bits):
    vectors = corpus(kind)
    index, questions = build(spec, vectors), ask(vectors)
    expected = TopK.sorted(*index.search(questions, K), K)
    found = inverted_lists.search(lists_of(index), questions, K, 2)
    scores = np.where(expected.rows < 0, 0, expected.scores)
    size = np.abs(scores).max(1, keepdims=True)
    np.testing.assert_array_equal(found.rows < 0, expected.rows < 0)
    np.testing.assert_allclose(np.where(found.rows < 0, 0, found.scores) / size, scores / size, atol=1e-5)
    other = found.rows != expected.rows  # only where the scores leave the order open
    gaps = np.minimum(np.abs(np.diff(scores, prepend=np.inf)), np.abs(np.diff(scores, append=scores[:, -1:])))
    assert (gaps[other] <= (1e-5 * np.broadcast_to(size, gaps.shape))[other]).all()
    assert other.mean() < 0.01 or kind in ("often the same", "of zeros for the most part")


@pytest.mark.parametrize("spec", ["IVF32,Flat", "IVF32,SQ8"])
def test_equal_scores_stand_in_order_of_row_and_each_is_that_of_the_decoded_vector(spec):
    vectors = corpus("often the same")
    index, questions = build(spec, vectors), ask(vectors, 50)
    found = inverted_lists.search(lists_of(index), questions, K, 1)
    index.make_direct_map()
    for question, hits in enumerate(found.rows):
        decoded = index.reconstruct_batch(hits)
        asked = np.ascontiguousarray(np.broadcast_to(questions[question], decoded.shape))
        exactly = exact.score_pairs(asked, decoded)
        np.testing.assert_allclose(found.scores[question], exactly, rtol=2e-6)
    tied = np.diff(found.scores) == 0
    assert tied.any()
    assert (np.diff(found.rows)[tied] > 0).all()


@pytest.mark.parametrize("spec", ["IVF32,Flat", "IVF32,SQ8"])
def test_bytes_depend_neither_on_the_product_nor_on_threads_nor_on_cuts(spec, monkeypatch):
    vectors = corpus("clustered")
    index, questions = build(spec, vectors), ask(vectors)
    lists = lists_of(index)
    expected = inverted_lists.search(lists, questions, K, 1).to_bytes()
    for constants, bits, threads in (
        ({"QUESTION_BLOCK": 70, "PRODUCT_SCORES": 999}, True, 3),
        ({"MOST_CANDIDATES": 100, "ROUND_LISTS": 3, "THINNED_QUESTIONS": 7}, True, 2),
        ({"KEPT_PER_HIT": 0, "ROUND_LISTS": 3}, True, 2),
        ({"CUT": 64}, False, 2),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(eight_bits, "are_faster", lambda bits=bits: bits)
            for name, value in constants.items():
                patch.setattr(inverted_lists, name, value)
            assert inverted_lists.search(lists, questions, K, threads).to_bytes() == expected


def test_fewer_vectors_than_asked_for_and_empty_lists_give_no_hits():
    vectors = corpus("plain", 40)
    index = build("IVF8,Flat", vectors, nprobe=1)
    index.reset()
    index.add(vectors[:9])
    questions = ask(vectors, 20)
    scores, rows = index.search(questions, K)
    found = inverted_lists.search(lists_of(index), questions, K, 2)
    expected = TopK.sorted(scores, rows, K)
    np.testing.assert_array_equal(found.rows, expected.rows)
    assert (found.rows == -1).any()
    empty = build("IVF8,SQ8", vectors)
    empty.reset()
    assert (inverted_lists.search(lists_of(empty), questions, K, 1).rows == -1).all()


def test_each_list_is_read_once_for_all_questions_after_their_nearest(monkeypatch):
    vectors = corpus("clustered")
    index = build("IVF32,SQ8", vectors)
    lists = lists_of(index)
    read: list[int] = []
    monkeypatch.setattr(inverted_lists._Low, "of_codes", _noting(read, lists, inverted_lists._Low.of_codes))
    inverted_lists.search(lists, ask(vectors, 2000), K, 1)
    assert len(read) <= 2 * lists.size  # once for the questions to which it is nearest, once for the others


def _noting(read, lists, of_codes):
    def noted(codes: np.ndarray, **how: bool):
        read.append(len(codes))
        return of_codes(codes, **how)

    return noted


@pytest.mark.parametrize("spec", ["PCA16,IVF8,Flat", "IVF8,PQ8", "IVF8,SQ4", "IVF8,SQfp16", "HNSW8", "Flat"])
def test_other_kinds_are_left_to_faiss(spec):
    index = faiss.index_factory(DIMENSION, spec, faiss.METRIC_INNER_PRODUCT)
    assert not InvertedLists.can_read(faiss.downcast_index(index))


def test_a_job_of_many_questions_is_searched_list_by_list_and_one_of_few_by_faiss(tmp_path, monkeypatch):
    vectors = corpus("clustered")
    path = str(tmp_path / "index.faiss")
    faiss.write_index(build("IVF32,SQ8", vectors), path)
    questions = ask(vectors, 40)
    calls: list[int] = []
    whole = inverted_lists.search
    monkeypatch.setattr(inverted_lists, "search", lambda *given: calls.append(1) or whole(*given))
    found = {asked: FaissShard(path, "d", 100, len(vectors), asked=asked, nprobe=5) for asked in (0, 40, 10_000)}
    hits = {asked: shard.search(questions, K) for asked, shard in found.items()}
    assert len(calls) == 1
    assert found[40].questions_at_once < found[10_000].questions_at_once
    np.testing.assert_array_equal(hits[0].rows, hits[10_000].rows)
    np.testing.assert_allclose(hits[0].scores, hits[10_000].scores, rtol=1e-5)
