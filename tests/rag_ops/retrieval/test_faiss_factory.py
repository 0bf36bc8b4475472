"""Fifty factory strings: each is searched as well as bare FAISS searches it, or refused in one line before any work."""

import functools

import faiss
import numpy as np
import pytest

from rag_ops.errors import InputError
from rag_ops.retrieval import faiss_factory, faiss_index, kinds
from rag_ops.retrieval.index_kind import IndexShard

ROWS, DIMENSION, K = 2000, 32, (1, 5, 20)
BELOW, OFF = 0.01, 0.45  # of recall; of the mean inner product of hits, for the coarsest codes

WHOLE = "Flat SQfp16 SQbf16 Pad48,Flat HR,Flat RR32,Flat FlatIPPanorama8 Flat,RFlat IVF16,Flat IVF16_HNSW8,Flat".split()
CODED = "SQ4 SQ6 SQ8 PQ8 PQ8x4 PQ16x4fs OPQ4_16,PQ4 PCA24,Flat PCAR24,SQ8 RR32,SQ8 RaBitQ RaBitQ4".split()
CODED += "RQ4x4 RQ2x8_Nqint8 PRQ2x2x4 RQ4x4fs IVF16,SQ8 IVF16,PQ8 IVF16,PQ8x4fs IVF16,RaBitQ IVF16,RQ2x4".split()
REFINED = "SQ8,Refine(SQfp16) PQ8,RFlat IVF16,PQ8,RFlat PQ8x4fs,RFlat PCA24,SQ8,RFlat".split()
GRAPHS = "HNSW16 HNSW16,Flat HNSW16,SQ8 HNSW16_SQ4 HNSW16_SQfp16 HNSW16_PQ8 HNSW16,PQ16 HNSW16_PQ8,RFlat".split()
GRAPHS += "PCAR24,HNSW16 HNSW16_4+PQ8 HNSW8_FlatPanorama8 HNSW16,RFlat".split()
SEARCHED = [(spec, False) for spec in [*WHOLE, *CODED, *REFINED, *GRAPHS]]
SEARCHED += [(spec, True) for spec in ["Flat", "SQtqmse4", "IVF16,SQtqmse4", *GRAPHS]]

REFUSED = {
    **dict.fromkeys(["IDMap,Flat", "IDMap2,IVF16,Flat", "IDMap,HNSW16"], "leave IDMap out"),
    **dict.fromkeys(["NSG16", "NSG16,SQ8", "IVF128_NSG8,Flat"], "in batches"),
    **dict.fromkeys(["NSG16_PQ8", "IVF16,ITQ32,SH2", "IVF16,ITQ16,SH2"], "--spec"),
    **dict.fromkeys(["HNSW0", "HNSW1,SQ8", "IVF16_HNSW0,Flat"], "fewer than 2 links"),
    **dict.fromkeys(["LSH", "LSHrt", "ITQ16,LSH", "IMI2x4,PQ8", "IVF16,PQ8+8"], "by distance only"),
    **dict.fromkeys(["FlatL2Panorama8"], "by distance only"),
    **dict.fromkeys(["L2norm,Flat", "ITQ32,Flat", "PCAW16,Flat", "PCAWR16,SQ8"], "changes inner products"),
    **dict.fromkeys(["RR16,Flat"], "use PCAR16"),
    **dict.fromkeys(["SQ8_direct", "IVF16,SQ8_direct"], "whole numbers"),
    **dict.fromkeys(["SQ0", "IVF16,SQ0"], "stores nothing"),
    **dict.fromkeys(["SQtqmse4"], "length 1"),
    **dict.fromkeys(["OPQ8_16,HNSW16_PQ8"], "leave the reduction out"),
    **dict.fromkeys(["IVF0,Flat"], "no lists"),
    **dict.fromkeys(["PQ8x12", "RQ2x11"], "more training vectors"),
    **dict.fromkeys(["IVF16(PQ8),Flat"], "16 centroids"),
    **dict.fromkeys(
        ["BIVF16", "Residual16,Flat", "BFlat", "SVSVamana32", "RCQ2x4,Flat", "IVF4K,Flat", "ZnLattice3x10_6", ""],
        "no index",
    ),
}


@functools.cache
def drawn(normalized: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clustered vectors, of length 1 or not; questions near their clusters; the questions' best rows by NumPy."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((60, DIMENSION)) * 2

    def near(count: int) -> np.ndarray:
        found = centres[generator.integers(0, 60, count)] + generator.standard_normal((count, DIMENSION)) * 0.6
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return (found / lengths if normalized else found * generator.uniform(0.5, 1.5, (count, 1))).astype(np.float32)

    vectors, questions = near(ROWS), near(100)
    products = questions.astype(np.float64) @ vectors.T.astype(np.float64)
    return vectors, questions, np.argsort(-products, axis=1, kind="stable")


def is_known(spec: str) -> bool:
    """Whether the FAISS that is installed knows a string: older ones know fewer."""
    try:
        faiss.index_factory(DIMENSION, spec, faiss.METRIC_L2)
    except RuntimeError as error:
        return "could not parse" not in str(error)
    return True


def recall(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Recall at each depth."""
    shared = [
        [len(set(a[:k]) & set(b[:k])) / k for k in K] for a, b in zip(found.tolist(), truth.tolist(), strict=True)
    ]
    return np.mean(shared, axis=0)


def bare(spec: str, vectors: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """Rows that FAISS finds in an index that it has made by itself, at our settings of the search."""
    index = faiss.index_factory(DIMENSION, spec, faiss.METRIC_INNER_PRODUCT)
    for part in faiss_factory.parts_of(index):
        if hasattr(part, "do_polysemous_training"):  # seconds for each, and no other result
            part.do_polysemous_training = False
    index.train(vectors)
    index.add(vectors)
    faiss_index.set_search(index)
    scores, rows = index.search(questions, max(K))
    best_first = scores if (np.diff(scores) <= 0).all() else -scores
    return np.take_along_axis(rows, np.lexsort((rows, -best_first)), 1)  # equal scores by row


def build(directory, spec: str, vectors: np.ndarray, normalized: bool) -> IndexShard:
    """An index shard as the job makes it: designed, trained, filled in batches, written, and opened."""
    kind = kinds.design(
        spec, len(vectors), DIMENSION, "float32", normalize=normalized, files=1, num_shards=1, recall=0.9
    ).kind
    trained = str(directory / "trained.faiss") if kind.training else None
    if trained:
        with open(trained, "wb") as file:
            kind.write(kind.train(vectors, 1), file)
    index = kind.build(lambda: iter(np.array_split(vectors, 3)), len(vectors), 1, trained)
    with open(directory / "index.faiss", "wb") as file:
        kind.write(index, file)
    return kind.shard(str(directory / "index.faiss"), "0" * 64, 0, len(vectors), threads=1)


@pytest.mark.parametrize(("spec", "normalized"), SEARCHED)
def test_recall_is_that_of_bare_faiss_and_scores_are_inner_products(spec, normalized, tmp_path):
    if not is_known(spec):
        pytest.skip("a later FAISS knows it")
    vectors, questions, truth = drawn(normalized)
    shard = build(tmp_path, spec, vectors, normalized)
    hits = shard.search(questions, max(K))
    try:
        theirs = recall(bare(spec, vectors, questions), truth)
    except RuntimeError:  # a graph that the factory makes by distance only
        assert spec in GRAPHS
        theirs = np.full(len(K), 0.8)
    ours = recall(hits.rows, truth)
    products = np.take_along_axis(questions @ vectors.T, hits.rows, 1)
    off = np.abs(hits.scores - products).mean() / np.abs(products).mean()
    assert (ours >= theirs - BELOW).all(), (ours, theirs)
    assert (np.diff(hits.scores) <= 0).all()
    assert off < (1e-3 if spec in WHOLE else OFF)


@pytest.mark.parametrize(("spec", "message"), REFUSED.items())
def test_what_cannot_rank_by_inner_product_is_refused_before_any_work(spec, message):
    with pytest.raises(InputError, match="--spec") as caught:
        kinds.design(spec, ROWS, DIMENSION, "float32", normalize=False, files=1, recall=0.9)
    assert (message if is_known(spec) else "no index") in str(caught.value)
    assert "\n" not in str(caught.value)
