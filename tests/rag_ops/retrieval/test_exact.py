"""Exact search is NumPy's brute force in float64, rows, order and scores, however the work is cut."""

import itertools
import math
from unittest import mock

import numpy as np
import pytest
import torch

from rag_ops.retrieval import exact, vector_blocks
from rag_ops.retrieval.faiss_shard import FaissShard
from rag_ops.retrieval.topk import TopK, merge
from rag_ops.retrieval.vector_blocks import Block, Pass
from tests.rag_ops.compute.peak_bytes import PeakBytes


def brute_force(questions: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows, best first, equal scores in order of row; integers and short sums are exact in float64."""
    scores = questions.astype(np.float64) @ vectors.astype(np.float64).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


def draw(questions: int, rows: int, dimension: int, dtype: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((rows, dimension)).astype(dtype)
    return generator.standard_normal((questions, dimension)).astype(np.float32), vectors


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch):
    """As few questions as there are here are multiplied in bfloat16, where that can be."""
    monkeypatch.setattr(exact, "NARROW_QUESTIONS", 1)


@pytest.fixture(params=["float32", "bfloat16", "stored"])
def product(request, monkeypatch):
    """Which product proposes candidates, however many questions there are and whatever the processor computes."""
    monkeypatch.setattr(exact, "FEW_QUESTIONS", math.inf if request.param == "stored" else 0)
    monkeypatch.setattr(exact, "can_pack", lambda _: request.param == "bfloat16")
    monkeypatch.setattr(exact, "BLOCK_HITS", math.inf)  # so that it is never given up
    monkeypatch.setattr(exact, "NARROW_HITS", math.inf)
    monkeypatch.setattr(exact, "MANY_SCORES", 1)


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("questions", "rows", "dimension", "k"), [(7, 3000, 96, 20), (64, 5000, 768, 5), (3, 50, 1, 50)]
)
def test_rows_order_and_scores_are_brute_forces(dtype, questions, rows, dimension, k):
    asked, vectors = draw(questions, rows, dimension, dtype)
    scores, expected = brute_force(asked, vectors, k)
    found = exact.search(asked, vectors, k)
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6, atol=1e-6)
    assert (found.scores.dtype, found.rows.dtype) == (np.float32, np.int64)


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000, 100_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_bytes_do_not_depend_on_block_size_or_threads(block_rows, threads):
    asked, vectors = draw(9, 900, 48, "float16")
    expected = exact.search(asked, vectors, 10)
    found = exact.search(asked, vectors, 10, block_rows=block_rows, threads=threads)
    assert found.to_bytes() == expected.to_bytes()


def test_bytes_do_not_depend_on_the_product(monkeypatch):
    import torch

    asked, vectors = draw(9, 900, 48, "float32")
    expected = exact.search(asked, vectors, 10).to_bytes()

    def sloppy(questions: np.ndarray, *how) -> list[exact._Product]:
        """A product that is off by up to a thousandth of the lengths, and says so."""
        noise = torch.Generator().manual_seed(1)
        asked = torch.from_numpy(questions)
        lengths = torch.linalg.vector_norm(asked, dim=1)

        def product(block: torch.Tensor) -> torch.Tensor:
            scores, sizes = block @ asked.T, torch.linalg.vector_norm(block, dim=1)[:, None] * lengths
            return scores + (torch.rand(scores.shape, generator=noise) * 2 - 1) * 1e-3 * sizes

        return [exact._Product(product, 1.0, 1.001e-3)]

    monkeypatch.setattr(exact, "_products", sloppy)
    assert exact.search(asked, vectors, 10, block_rows=50).to_bytes() == expected


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards_merge_to_the_whole(shards):
    asked, vectors = draw(8, 1003, 32, "float16")
    whole = exact.search(asked, vectors, 12)
    starts = np.linspace(0, len(vectors), shards + 1).astype(int)
    parts = []
    for start, end in itertools.pairwise(starts):
        part = exact.search(asked, vectors[start:end], 12)
        parts.append(TopK(part.scores, part.rows + start))
    assert merge(parts, 12).to_bytes() == whole.to_bytes()


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_equal_scores_stand_in_order_of_row(dtype):
    generator = np.random.default_rng(3)
    vectors = generator.integers(-1, 2, (4000, 6)).astype(dtype)  # few distinct vectors: nearly all scores are tied
    asked = generator.integers(-2, 3, (20, 6)).astype(np.float32)
    scores, expected = brute_force(asked, vectors, 30)
    found = exact.search(asked, vectors, 30, block_rows=128)
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.scores, scores)


@pytest.mark.usefixtures("product")
def test_a_corpus_of_one_vector_over_and_over_stays_bounded(monkeypatch):
    monkeypatch.setattr(exact, "KEPT_PER_HIT", 1)
    most = 0
    thin_out = exact._Search._thin_out

    def watched(search) -> None:
        nonlocal most
        most = max(most, sum(map(len, search._kept)))
        thin_out(search)

    monkeypatch.setattr(exact._Search, "_thin_out", watched)
    asked, vectors = draw(4, 1, 16, "float16")
    found = exact.search(asked, np.repeat(vectors, 5000, 0), 5, block_rows=100)
    np.testing.assert_array_equal(found.rows, np.tile(np.arange(5), (4, 1)))
    assert most <= 4 * (2 * 100 + 8), "a block's hits on top of what may be kept"


@pytest.mark.usefixtures("product")
def test_more_questions_than_a_block(monkeypatch):
    asked, vectors = draw(50, 300, 24, "float32")
    expected = exact.search(asked, vectors, 4)
    monkeypatch.setattr(exact, "QUESTION_BLOCK", 16)
    assert exact.search(asked, vectors, 4).to_bytes() == expected.to_bytes()


@pytest.mark.usefixtures("product")
def test_fewer_vectors_than_asked_for_and_nothing_at_all():
    asked, vectors = draw(3, 4, 8, "float16")
    found = exact.search(asked, vectors, 6)
    assert (found.rows[:, 4:] == -1).all()
    assert np.isneginf(found.scores[:, 4:]).all()
    assert sorted(found.rows[0, :4].tolist()) == [0, 1, 2, 3]
    assert exact.search(asked, vectors[:0], 2).rows.tolist() == [[-1, -1]] * 3
    assert exact.search(asked[:0], vectors, 2).rows.shape == (0, 2)


def test_vectors_may_lie_in_a_file(tmp_path):
    asked, vectors = draw(5, 700, 32, "float16")
    vectors.tofile(tmp_path / "vectors")
    mapped = np.memmap(tmp_path / "vectors", np.float16, "c").reshape(700, 32)
    assert exact.search(asked, mapped, 3).to_bytes() == exact.search(asked, vectors, 3).to_bytes()


@pytest.mark.usefixtures("product")
def test_zero_vectors_are_vectors():
    asked, vectors = draw(2, 10, 8, "float32")
    vectors[:] = 0
    assert exact.search(asked, vectors, 3).rows.tolist() == [[0, 1, 2]] * 2


def directions(rows: int, dimension: int, generator: np.random.Generator) -> np.ndarray:
    """Vectors of length 1 that mostly lie in few directions, as embeddings of texts do."""
    few = generator.standard_normal((16, dimension))
    vectors = generator.standard_normal((rows, 16)) @ few + generator.standard_normal((rows, dimension))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def corpus(name: str) -> np.ndarray:
    """6,000 vectors of 96 numbers, float16."""
    generator = np.random.default_rng(7)
    vectors = directions(6000, 96, generator)
    if name == "clustered":
        vectors = vectors[generator.integers(0, 60, 6000)] + 0.05 * generator.standard_normal((6000, 96))
    elif name == "duplicates":
        vectors = vectors[generator.integers(0, 300, 6000)]
    elif name == "heavy-tailed":
        vectors = np.clip(generator.standard_t(2, (6000, 96)) * generator.pareto(1.5, (6000, 1)), -60_000, 60_000)
    elif name == "one far longer":
        vectors[17] *= 50_000
    return vectors.astype(np.float16)


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("name", ["directions", "clustered", "duplicates", "heavy-tailed", "one far longer"])
def test_vectors_of_every_kind_are_ranked_as_by_brute_force(name):
    vectors = corpus(name)
    asked = vectors[::100].astype(np.float32) + 0.05 * draw(60, 1, 96, "float32")[0]
    _, expected = brute_force(asked, vectors, 20)
    np.testing.assert_array_equal(exact.search(asked, vectors, 20, block_rows=500).rows, expected)


def narrow_products(monkeypatch) -> list[int]:
    """A list that gets an entry for each product in bfloat16, which is computed on any processor from now on."""
    made, narrow = [], Block.narrow.func
    monkeypatch.setattr(exact, "can_pack", lambda _: True)
    monkeypatch.setattr(Block, "narrow", property(lambda block: made.append(1) or narrow(block)))
    return made


def test_bfloat16_is_given_up_where_it_cannot_tell_scores_apart(monkeypatch):
    asked, vectors = draw(20, 3000, 48, "float32")
    alike = 10 * vectors[:1] + 1e-2 * vectors
    one_longer = vectors * np.where(np.arange(3000) == 17, np.float32(1e4), np.float32(1))[:, None]
    made = narrow_products(monkeypatch)
    sets = {
        "of 15 blocks, all in bfloat16": (vectors, 15),
        "tried in blocks 0, 2, 5 and 10": (alike, 4),
        "good for three, then tried in blocks 3, 5, 8 and 13": (np.concatenate([vectors[:600], alike]), 7),
        "not tried in block 1, for what is in block 0": (one_longer, 14),
    }
    for name, (some, blocks) in sets.items():
        made.clear()
        _, expected = brute_force(asked, some, 5)
        np.testing.assert_array_equal(exact.search(asked, some, 5, block_rows=200).rows, expected)
        assert len(made) == blocks, name
    monkeypatch.setattr(exact, "BLOCK_HITS", math.inf)
    made.clear()
    exact.search(asked, alike, 5, block_rows=200)
    assert len(made) < 15, "candidates of all blocks"


@pytest.mark.parametrize("least", [-1.0, -0.0, 0.0, 1e-40, 0.3, 0.5, 0.5 + 2**-20, 1.0, 2.0**120, np.inf])
def test_scores_in_bfloat16_are_compared_as_numbers(least, monkeypatch):
    monkeypatch.setattr(exact, "MANY_SCORES", 1)
    scores = torch.tensor([-np.inf, -1.0, -0.0, 0.0, 1e-40, 0.298, 0.5, 0.502, 1.0, 2.0**120, np.inf]).bfloat16()
    least = np.array([least, 0.3], np.float32)
    found = exact._reaching(torch.stack([scores, scores], 1), least)
    assert found.tolist() == (scores.double().numpy()[:, None] >= least.astype(np.float64)).tolist()


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 64, 65])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_places_of_a_mask(rows, share, monkeypatch):
    monkeypatch.setattr(exact, "MANY_SCORES", 1)
    mask = torch.from_numpy(np.random.default_rng(rows).random((rows, 9)) < share)
    assert exact._true_places(mask).tolist() == np.flatnonzero(mask.numpy()).tolist()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_few_questions_of_any_length_meet_vectors_as_they_are_stored(scale, monkeypatch):
    monkeypatch.setattr(exact, "PackedLinear", None)
    asked, vectors = draw(exact.FEW_QUESTIONS, 900, 48, "float16")
    asked *= np.array([1e-20, 1e-3, 1.0, 1e9, 0.0], np.float32)[:, None]
    vectors = (vectors * np.float16(scale)).astype(np.float16)
    _, expected = brute_force(asked, vectors, 5)
    np.testing.assert_array_equal(exact.search(asked, vectors, 5, block_rows=300).rows, expected)


def test_float16_is_multiplied_as_stored_only_where_it_is_summed_in_float32(monkeypatch):
    exact._sums_half_in_float32.cache_clear()
    assert exact._sums_half_in_float32()
    exact._sums_half_in_float32.cache_clear()
    multiply = exact.torch.mv
    monkeypatch.setattr(exact.torch, "mv", lambda matrix, vector: multiply(matrix, vector) - 32)
    assert not exact._sums_half_in_float32()
    exact._sums_half_in_float32.cache_clear()


@pytest.mark.parametrize("count", [1, 30])
def test_lengths_are_found_once_for_many_searches(count, monkeypatch):
    asked, vectors = draw(count, 900, 48, "float16")
    lengths = {}
    first = exact.search(asked, vectors, 5, block_rows=400, lengths=lengths)
    assert [place[:2] for place in sorted(lengths)] == [(0, 400), (400, 400), (800, 100)]
    true = np.linalg.norm(vectors.astype(np.float64), axis=1)
    assert all(1.0005 * found.max() >= true[start : start + rows].max() for (start, rows, _), found in lengths.items())
    found_again(lengths, monkeypatch)
    again = exact.search(asked, vectors, 5, block_rows=400, lengths=lengths)
    assert again.to_bytes() == first.to_bytes()


def found_again(lengths: vector_blocks.Lengths, monkeypatch) -> None:
    """Makes it an error to look for what is known."""
    for _, _, name in list(lengths):
        find = mock.Mock(side_effect=AssertionError("known already"), __name__=name)
        monkeypatch.setattr(vector_blocks, name, find)


@pytest.mark.parametrize("name", ["heavy-tailed", "one far longer"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("count", [1, exact.FEW_QUESTIONS, 30])
def test_few_candidates_are_scored_again_whatever_the_lengths_of_vectors(name, dtype, count, monkeypatch):
    vectors, lengths, scored = corpus(name).astype(dtype), {}, []
    real = exact.score_pairs
    monkeypatch.setattr(exact, "score_pairs", lambda *pairs: scored.append(len(pairs[0])) or real(*pairs))
    asked = draw(count, 1, 96, "float32")[0]
    _, expected = brute_force(asked, vectors, 5)
    np.testing.assert_array_equal(exact.search(asked, vectors, 5, block_rows=1500, lengths=lengths).rows, expected)
    assert sum(scored) <= 10 * 5 * count, "of 6,000 vectors"
    found_again(lengths, monkeypatch)
    np.testing.assert_array_equal(exact.search(asked, vectors, 5, block_rows=1500, lengths=lengths).rows, expected)


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 384, 769])
def test_pairs_are_scored_as_exact_sums_would_be(dimension):
    asked, vectors = draw(20, 20, dimension, "float16")
    for score, question, vector in zip(exact.score_pairs(asked, vectors), asked, vectors, strict=True):
        expected = math.fsum(float(a) * float(b) for a, b in zip(question, vector, strict=True))
        assert score == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """A GPU's way through the vectors, on the CPU: float16 products, small blocks that another thread carries."""
    monkeypatch.setitem(exact.PASSES, "cpu", Pass(64, 40, True))
    monkeypatch.setattr(exact, "QUESTION_BLOCK", 16)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("scale", [1.0, 3e-6, 2e4])
def test_a_gpus_way_gives_brute_forces_rows_and_the_bytes_of_a_cpu(dtype, scale, monkeypatch, request):
    asked, vectors = draw(100, 1003, 96, "float32")
    asked[:2] *= 1e-4  # far shorter than the others
    asked[2] = 0
    asked, vectors = asked * np.float32(scale), (vectors * scale if dtype == "float32" else vectors).astype(dtype)
    on_cpu = exact.search(asked, vectors, 20)
    scores, expected = brute_force(asked, vectors, 20)
    request.getfixturevalue("as_on_a_gpu")
    found = exact.search(asked, vectors, 20)
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
    assert found.to_bytes() == on_cpu.to_bytes()


def test_vectors_that_float16_cannot_tell_apart_are_ranked_by_what_is_stored(as_on_a_gpu):
    generator = np.random.default_rng(5)
    vectors = (1 + generator.standard_normal((500, 32)) * 1e-5).astype(np.float32)
    asked = generator.standard_normal((6, 32)).astype(np.float32)
    assert len(np.unique(vectors.astype(np.float16), axis=0)) < 500
    _, expected = brute_force(asked, vectors, 10)
    np.testing.assert_array_equal(exact.search(asked, vectors, 10).rows, expected)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_gpus_way_with_ties_and_with_nothing(monkeypatch):
    monkeypatch.setattr(exact, "MOST_HITS", 50)  # one product gives more: its halves are looked at one by one
    monkeypatch.setattr(exact, "KEPT_PER_HIT", 1)
    vectors = np.random.default_rng(3).integers(-1, 2, (1000, 6)).astype(np.float16)
    asked = np.random.default_rng(4).integers(-2, 3, (20, 6)).astype(np.float32)
    scores, expected = brute_force(asked, vectors, 30)
    found = exact.search(asked, vectors, 30)
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.scores, scores)
    assert exact.search(asked, vectors[:0], 2).rows.tolist() == [[-1, -1]] * 20
    assert exact.search(asked[:0], vectors, 2).rows.shape == (0, 2)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_vector_that_cannot_be_read_ends_the_search_with_its_error():
    class Broken(np.ndarray):
        def __getitem__(self, key):
            if isinstance(key, slice) and key.start and key.start >= 128:
                raise OSError("the disk failed")
            return super().__getitem__(key)

    asked, vectors = draw(5, 500, 16, "float16")
    with pytest.raises(OSError, match="the disk failed"):
        exact.search(asked, vectors.view(Broken), 3)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_gpu_holds_some_blocks_and_scores_however_many_vectors_there_are(dtype, monkeypatch):
    rows, questions, dimension, number = 256, 32, 96, np.dtype(dtype).itemsize
    monkeypatch.setitem(exact.PASSES, "cpu", Pass(rows, 4 * questions, True))
    monkeypatch.setattr(exact, "QUESTION_BLOCK", questions)

    def bound(rows: int, questions: int, dimension: int) -> int:
        """Blocks on their way, as float16 and as rounded; a pass of questions; scores, a mask, and a copy of scores."""
        blocks = rows * dimension * (3 * number + 2 + (0 if dtype == "float16" else 12))
        return blocks + 4 * questions * dimension * 6 + rows * questions * (4 + 4 + 1)

    peaks = []
    for count in (2_000, 8_000):
        asked, vectors = draw(4 * questions, count, dimension, dtype)
        with PeakBytes() as memory:
            exact.search(asked, vectors, 3)
        peaks.append(memory.peak)
    cpu_only = rows * dimension * 4  # the float32 copy that a CPU multiplies, where a GPU takes float16
    assert peaks[1] <= peaks[0] * 1.1 <= 1.1 * (bound(rows, questions, dimension) + cpu_only)
    whole = vector_blocks.PASSES["cuda"]
    assert bound(whole.block_rows, vector_blocks.QUESTION_BLOCK, 768) < 2e9


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_shard_of_vectors_is_searched_on_the_device(device, monkeypatch):
    asked, vectors = draw(4, 60, 16, "float16")
    shard, used = FaissShard.__new__(FaissShard), []
    shard._matrix, shard._lengths, shard._threads, shard._device = vectors, {}, 1, device
    monkeypatch.setattr("rag_ops.compute.devices.torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(exact, "search", lambda *_, device, **how: used.append(device) or TopK.empty(4, 5))
    shard._search(asked, 5)
    assert used == ["cuda" if device == "auto" else "cpu"]


def test_memory_is_given_back_between_blocks(monkeypatch):
    given = []
    monkeypatch.setattr(exact, "TRIM_BLOCKS", 3)
    monkeypatch.setattr(exact.heap, "trim", lambda: given.append(None))
    chance = np.random.default_rng(3)
    vectors, questions = (chance.standard_normal((rows, 8)).astype(np.float32) for rows in (1000, 20))
    exact.search(questions, vectors, 5, block_rows=100)
    assert len(given) == 3  # after the third, sixth and ninth of ten
