"""Building a FAISS index: specs, training samples."""

import faiss
import numpy as np
import pyarrow as pa
import pytest

from rag_ops.errors import InputError
from rag_ops.retrieval import faiss_index
from rag_ops.retrieval.faiss_kind import Faiss
from rag_ops.storage import store
from rag_ops.storage.parquet import write_parquet
from rag_ops.storage.rows import read_rows, vector_batches
from schemas import embeddings


@pytest.mark.parametrize(
    "spec", ["Flat", "SQ8", "SQfp16", "IVF4,Flat", "IVF4_HNSW32,Flat", "PQ4x4", "HNSW16", "PCA8,Flat"]
)
def test_every_spec_is_inner_product_and_finds_most_of_what_is_nearest(spec):
    vectors = np.random.default_rng(0).standard_normal((1200, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kind = Faiss(spec, 16, normalize=True)
    kind.check(len(vectors))
    index = kind.train(vectors, threads=1) if kind.training else kind.empty()
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert faiss_index.fill(index, iter(np.array_split(vectors, 3)), threads=1) == 1200
    faiss_index.set_search(index)
    _, rows = index.search(vectors[:50], 10)
    exact = np.argsort(-(vectors[:50] @ vectors.T), axis=1)[:, :10]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, exact, strict=True)])
    assert recall > (0.25 if spec in ("PQ4x4", "PCA8,Flat") else 0.9)


def test_small_batches_of_vectors_are_added_together_in_order(monkeypatch):
    class Recorder:
        ntotal, added = 0, []

        def add(self, vectors):
            self.added.append(vectors)
            self.ntotal += len(vectors)

    monkeypatch.setattr(faiss_index, "ADD_NUMBERS", 100)
    vectors = np.arange(400, dtype=np.float16).reshape(100, 4)
    index = Recorder()
    assert faiss_index.fill(index, iter(np.array_split(vectors, 10)), threads=1) == 100
    assert [len(batch) for batch in index.added] == [30, 30, 30, 10]
    assert np.array_equal(np.concatenate(index.added), vectors.astype(np.float32))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("Flatt", "no index"),
        ("PQ7", "a divisor of 16; use PQ4"),
        ("IVF5000,Flat", "at most 100 lists for 100 vectors; use Flat, or IVF1,Flat"),
        ("", "no index"),
    ],
)
def test_bad_specs_are_refused_before_any_work(spec, message):
    with pytest.raises(InputError, match=message):
        Faiss(spec, 16).check(100)


def test_too_small_a_sample_is_refused():
    with pytest.raises(InputError, match="cannot be trained on 20 vectors"):
        Faiss("IVF4,PQ4x8", 16).train(np.zeros((20, 16), np.float32), threads=1)


@pytest.mark.parametrize("spec", ["PQ4", "OPQ4,PQ4", "IVF16,Flat", "OPQ4,IVF4,PQ4"])
def test_few_training_vectors_are_told_in_one_line(spec, capfd, caplog):
    vectors = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
    Faiss(spec, 16).train(vectors, threads=1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith("training on 400 vectors; FAISS recommends ")
    assert "clustering" not in "".join(capfd.readouterr())


def test_the_training_sample_is_spread_and_the_same_each_time():
    rows = Faiss("IVF1000,Flat", 8).training_rows(1_000_000)
    assert len(rows) == 64_000
    assert rows[0] == 0
    assert rows[-1] == 999_999
    assert (np.diff(rows) > 0).all()
    assert Faiss("IVF4,Flat", 8).training_rows(50).tolist() == list(range(50))


def test_chosen_rows_are_read_without_the_others(tmp_path):
    vectors = np.arange(2500 * 4, dtype=np.float16).reshape(2500, 4) % 1000
    schema = embeddings.schema(4, "float16")
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 4)
    table = pa.table([pa.array([b"h" * 16] * 2500, pa.binary(16)), column], schema=schema)
    with store.atomic_write(str(tmp_path), "e.parquet") as file:
        write_parquet(file, iter([table]), schema)
    url = str(tmp_path / "e.parquet")
    assert np.concatenate(list(vector_batches(url))).tolist() == vectors.tolist()
    rows = np.array([0, 999, 1000, 2499])
    assert read_rows(url, rows).tolist() == vectors[rows].astype(np.float32).tolist()
