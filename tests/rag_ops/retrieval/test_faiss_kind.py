"""FAISS factory strings: memory, choice, and what is refused."""

import os

import faiss
import numpy as np
import pytest

from rag_ops.errors import InputError
from rag_ops.retrieval import faiss_factory, faiss_index
from rag_ops.retrieval.faiss_kind import Faiss, choose
from tests.rag_ops.retrieval.test_faiss_factory import is_known

GIB = 1 << 30
SPECS = ["Flat", "SQ8", "SQfp16", "PQ8", "OPQ8,PQ8", "PCAR8,SQ8", "IVF16,Flat", "IVF16,SQ8", "IVF16_HNSW16,PQ8"]
SPECS += ["OPQ8_16,IVF16,PQ8", "HNSW16", "HNSW16,SQ8", "HNSW8_PQ8"]
SPECS += ["PQ8x4,RFlat", "IVF16,PQ8x4,RFlat", "HNSW8_PQ8x4,RFlat", "PQ8x4fs", "Pad48,SQ8", "RaBitQ", "RQ2x4"]


@pytest.mark.parametrize("spec", [spec for spec in SPECS if is_known(spec)])
def test_memory_of_an_index_is_foretold(spec, tmp_path):
    rows, trained_on = 12_000, 1000 if "OPQ" in spec else 4000  # a rotation takes seconds to learn
    vectors = np.random.default_rng(0).standard_normal((rows, 32)).astype(np.float32)
    kind = Faiss(spec, 32, normalize=True)
    index = kind.train(vectors[:trained_on], 2)
    faiss_index.fill(index, iter([vectors]), 2)
    faiss.write_index(index, str(tmp_path / "index"))
    foretold = rows * kind.bytes_per_vector + kind.fixed_bytes
    assert os.path.getsize(tmp_path / "index") == pytest.approx(foretold, rel=0.05)


@pytest.mark.parametrize("spec", ["PQ4x4", "IVF4,PQ4x4", "PQ4x4,RFlat"])
def test_no_quantiser_is_trained_for_a_search_that_is_not_ours(spec):
    vectors = np.random.default_rng(0).standard_normal((1000, 16)).astype(np.float32)
    ours, theirs = faiss_factory.empty_index(spec, 16), faiss.index_factory(16, spec, faiss.METRIC_INNER_PRODUCT)
    flags = [
        [
            part.do_polysemous_training
            for part in faiss_factory.parts_of(index)
            if hasattr(part, "do_polysemous_training")
        ]
        for index in (ours, theirs)
    ]
    assert not any(flags[0])
    assert all(flags[1])
    assert flags[1]
    for index in (ours, theirs):
        index.train(vectors)
        index.add(vectors)
    np.testing.assert_allclose(ours.search(vectors[:50], 5)[0], theirs.search(vectors[:50], 5)[0], rtol=1e-4)


def test_auto_is_exact_where_that_is_cheap_or_wanted():
    assert choose(1_000_000, 768, 2, 2 * GIB, 64, 0.95)[0] == "Flat"
    assert choose(21_000_000, 768, 2, 2 * GIB, 64, 0.999)[0] == "Flat"
    assert choose(100, 384, 4, GIB, 1, 0.95)[0] == "Flat"


def test_auto_compresses_as_far_as_memory_wants():
    spec, reason = choose(21_000_000, 768, 2, 2 * GIB, 64, 0.95)
    assert spec == "IVF16384,SQ8"
    assert "21,000,000 vectors of 768" in reason
    tight, _ = choose(21_000_000, 768, 2, 100 << 20, 64, 0.95)
    assert tight == "IVF16384,PQ96"
    Faiss(tight, 768).check(21_000_000)
    with pytest.raises(InputError, match=r"no index fits --shard_memory: '10 MiB'; expected at least"):
        choose(21_000_000, 768, 2, 10 << 20, 64, 0.95)


@pytest.mark.parametrize(
    ("spec", "dimension", "rows", "remedy"),
    [
        ("PQ64", 100, 9999, "use PQ50"),
        ("OPQ64,PQ64", 100, 9999, "use OPQ50,PQ50"),
        ("PCAR30,PQ8", 100, 9999, "a divisor of 30"),
        ("HNSW32_PQ64", 769, 9999, "a divisor of 769"),
        ("IVF16,PQ8x12", 64, 1000, "at least 4096; use Flat"),
        ("IVF4096,SQ8", 64, 1000, "IVF15,SQ8"),
        ("PQ8", 64, 100, "at least 256; use Flat"),
        ("Flat,Flat", 64, 100, "a FAISS factory string"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_to_use(spec, dimension, rows, remedy):
    with pytest.raises(InputError, match=remedy):
        Faiss(spec, dimension, normalize=True).check(rows)


def test_only_graphs_over_vectors_of_different_length_are_augmented():
    for spec, width in (("HNSW32", 769), ("HNSW32_SQ8", 769), ("HNSW32_PQ96", 864), ("OPQ48,HNSW32_PQ48", 816)):
        assert faiss_factory.layout(spec, 768, normalized=False) == faiss_factory.Layout(width, True, faiss.METRIC_L2)
    for spec in ("Flat", "IVF64_HNSW32,Flat", "PCAR64,HNSW32"):
        assert faiss_factory.layout(spec, 768, normalized=False) == faiss_factory.Layout(768, False)
    assert faiss_factory.layout("HNSW32", 768, normalized=True) == faiss_factory.Layout(768, False)
    assert faiss_factory.layout("HNSW32_PQ96", 768, normalized=True) == faiss_factory.Layout(
        768, False, faiss.METRIC_L2
    )


def test_large_code_books_are_trained_on_more_vectors():
    assert len(Faiss("PQ8", 64).training_rows(10**7)) == 10_000
    assert len(Faiss("PQ8x12", 64).training_rows(10**7)) == 1 << 18
    assert len(Faiss("PQ8x16", 64).training_rows(10**7)) >= 1 << 16
    assert len(Faiss("PQ8x16", 64).training_rows(70_000)) == 70_000
