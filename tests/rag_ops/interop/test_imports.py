"""Tests of rag_ops.interop.imports: DPR's own files and recipe, pickles that would run code, wiki_dpr's Parquet."""

import pickle

import faiss
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_ops.errors import InputError
from rag_ops.interop import imports
from rag_ops.retrieval.passage_index import PassageIndex
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import fails, ragbeam

ROWS, DIMENSION = 700, 16


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Of different length."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((ROWS, DIMENSION)).astype(np.float32) * generator.uniform(1, 2, (ROWS, 1))


@pytest.fixture
def dpr_files(tmp_path, vectors):
    """What DPR's dense_retriever saves: HNSW with SQ8 over augmented vectors, ids, and passages, in another order."""
    phi = np.square(vectors, dtype=np.float64).sum(1).max()
    extra = np.sqrt(phi - np.square(vectors, dtype=np.float64).sum(1))[:, None]
    index = faiss.IndexHNSWSQ(DIMENSION + 1, faiss.ScalarQuantizer.QT_8bit, 64)
    index.hnsw.efConstruction = 200
    hnsw_vectors = np.hstack([vectors, extra]).astype(np.float32)
    index.train(hnsw_vectors)
    index.add(hnsw_vectors)
    index.hnsw.efSearch = 128
    faiss.write_index(index, str(tmp_path / "small.index.dpr"))
    ids = [str(1000 + n) for n in np.random.default_rng(1).permutation(ROWS)]
    (tmp_path / "small.index_meta.dpr").write_bytes(pickle.dumps(ids))
    texts = {name: (f"text of {name}", f"title of {name}") for name in sorted(ids)}
    (tmp_path / "psgs_w100.tsv.pkl").write_bytes(pickle.dumps(texts))
    lines = [f'{name}\t"{text}"\t{title}' for name, (text, title) in texts.items()]
    (tmp_path / "psgs_w100.tsv").write_text("id\ttext\ttitle\n" + "\n".join(lines) + "\n")
    return tmp_path, index, ids


@pytest.mark.parametrize("passages", ["psgs_w100.tsv.pkl", "psgs_w100.tsv"])
def test_an_imported_dpr_index_searches_as_dprs_recipe_does(dpr_files, passages, capsys):
    directory, index, ids = dpr_files
    output = directory / "imported"
    ragbeam(
        *("import", "--index", directory / "small.index.dpr", "--passages", directory / passages),
        *("--output", output),
    )
    assert "import: 700 passages" in capsys.readouterr().out
    questions = np.random.default_rng(2).standard_normal((40, DIMENSION)).astype(np.float32)
    _, places = index.search(np.hstack([questions, np.zeros((40, 1), np.float32)]), 10)  # DPR's recipe
    opened = PassageIndex(str(output / "index"))
    hits = opened.search(questions, 10)
    for number in range(40):
        assert set(hits.rows[number].tolist()) == set(places[number].tolist())
        stored = np.array([index.reconstruct(int(place)) for place in hits.rows[number]])[:, :DIMENSION]
        np.testing.assert_allclose(hits.scores[number], stored @ questions[number], atol=1e-4)
        assert (np.diff(hits.scores[number]) <= 0).all()
        found = opened.passages(hits.rows[number])
        assert [passage.passage_id for passage in found] == [ids[row] for row in hits.rows[number]]
        assert found[0].text == f"text of {found[0].passage_id}"
        assert found[0].title == f"title of {found[0].passage_id}"


def save(directory, index, ids, index_name: str) -> None:
    """An index and its list of ids as DPR's DenseIndexer.serialize leaves them, and passages 1 to len(ids)."""
    directory.mkdir(exist_ok=True)
    faiss.write_index(index, str(directory / index_name))
    (directory / index_name.replace("index.dpr", "index_meta.dpr")).write_bytes(pickle.dumps(ids))
    rows = "".join(f"{n}\tbody {n}\thead {n}\n" for n in range(1, len(ids) + 1))
    (directory / "psgs.tsv").write_text("id\ttext\ttitle\n" + rows)


def flat(vectors: np.ndarray, metric: int = faiss.METRIC_INNER_PRODUCT):
    index = faiss.IndexFlat(vectors.shape[1], metric)
    index.add(vectors)
    return index


def imported(directory, index: str) -> PassageIndex:
    imports.import_dpr(str(directory / index), str(directory / "psgs.tsv"), str(directory / "out"), "e")
    return PassageIndex(str(directory / "out" / "index"), threads=1)


@pytest.mark.parametrize("given", ["nq", "nq/index.dpr", "nq/index_meta.dpr", "nq/"])
def test_a_directory_that_dpr_wrote_is_taken(tmp_path, vectors, given):
    rows = vectors[:40].astype(np.float32)
    save(tmp_path / "nq", flat(rows), [str(n) for n in range(1, 41)], "index.dpr")
    (tmp_path / "nq" / "psgs.tsv").rename(tmp_path / "psgs.tsv")
    opened = imported(tmp_path, given)
    np.testing.assert_array_equal(opened.vectors(np.arange(40)), rows)
    assert opened.search(rows[:5], 3).rows.tolist() == np.argsort(-(rows[:5] @ rows.T), 1)[:, :3].tolist()


def test_a_remote_index_that_was_replaced_is_read_anew(tmp_path, vectors, monkeypatch):
    monkeypatch.setenv("RAGBEAM_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    for number in range(2):
        rows = vectors[number * 40 :][:40].astype(np.float32)
        save(tmp_path / "nq", flat(rows), [str(n) for n in range(1, 41)], "index.dpr")
        memory.put(f"{tmp_path}/nq/", "/nq/", recursive=True)
        monkeypatch.setattr(store, "_checked_copies", set())  # as in another process
        imports.import_dpr("memory://nq/index.dpr", "memory://nq/psgs.tsv", str(tmp_path / f"{number}"), "e")
        opened = PassageIndex(str(tmp_path / f"{number}" / "index"), threads=1)
        np.testing.assert_array_equal(opened.vectors(np.arange(40)), rows)
    memory.store.clear()


@pytest.mark.parametrize("order", [1, -1])
def test_ids_are_joined_without_the_prefix_of_dprs_sources(tmp_path, vectors, order):
    numbers = list(range(1, 31))[::order]
    save(tmp_path, flat(vectors[:30].astype(np.float32)), [f"wiki:{n}" for n in numbers], "p.index.dpr")
    found = imported(tmp_path, "p").passages(range(30))
    assert [passage.passage_id for passage in found] == [str(n) for n in numbers]
    assert [passage.text for passage in found] == [f"body {n}" for n in numbers]


def test_an_id_of_another_source_is_named_before_anything_is_written(tmp_path, vectors):
    ids = [*(f"wiki:{n}" for n in range(1, 30)), "news:30"]
    save(tmp_path, flat(vectors[:30].astype(np.float32)), ids, "p.index.dpr")
    with pytest.raises(InputError, match="is not among the passages: 'news:30'"):
        imported(tmp_path, "p")
    assert not (tmp_path / "out").exists()


def other_indexes(vectors: np.ndarray) -> dict:
    """Kinds of index that DPR does not write, over the same vectors; and what is said of each."""
    width = vectors.shape[1]
    with_ids = faiss.IndexIDMap(faiss.IndexFlatIP(width))
    with_ids.add_with_ids(vectors, np.arange(1, len(vectors) + 1))
    graph = faiss.IndexHNSWFlat(width, 16)
    graph.add(vectors)
    hashes = faiss.IndexLSH(width, 64)
    hashes.train(vectors)
    hashes.add(vectors)
    return {
        "l2": (flat(vectors, faiss.METRIC_L2), "ranks by L2 distance (IndexFlatL2), not by inner product"),
        "ids": (with_ids, "has ids of its own (IndexIDMap)"),
        "graph": (graph, "ranks by L2 distance vectors of different lengths"),
        "hashes": (hashes, "ranks by L2 distance (IndexLSH)"),
    }


@pytest.mark.parametrize("kind", ["l2", "ids", "graph", "hashes"])
def test_an_index_that_does_not_rank_rows_by_inner_product_is_refused_in_one_line(tmp_path, vectors, capsys, kind):
    index, message = other_indexes(vectors[:300].astype(np.float32))[kind]
    save(tmp_path, index, [str(n) for n in range(1, 301)], "x.index.dpr")
    code, line = fails(
        *(capsys, "import", "--index", tmp_path / "x", "--passages", tmp_path / "psgs.tsv"),
        *("--output", tmp_path / "out"),
    )
    assert code == 2
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_graph_of_distances_over_vectors_of_one_length_keeps_all_their_numbers(tmp_path, vectors):
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    graph = faiss.IndexHNSWFlat(DIMENSION, 32)
    graph.hnsw.efConstruction = 200
    graph.add(unit)
    save(tmp_path, graph, [str(n) for n in range(1, ROWS + 1)], "u.index.dpr")
    opened = imported(tmp_path, "u.index.dpr")
    np.testing.assert_array_equal(opened.vectors(np.arange(ROWS)), unit)
    hits = opened.search(unit[:50], 5)
    assert hits.rows.tolist() == np.argsort(-(unit[:50] @ unit.T), 1, kind="stable")[:, :5].tolist()
    np.testing.assert_allclose(hits.scores, np.take_along_axis(unit[:50] @ unit.T, hits.rows, 1), atol=1e-5)


def test_lists_give_their_vectors_back(tmp_path, vectors):
    rows = vectors[:300].astype(np.float32)
    index = faiss.index_factory(DIMENSION, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    save(tmp_path, index, [str(n) for n in range(1, 301)], "i.index.dpr")
    np.testing.assert_array_equal(imported(tmp_path, "i").vectors(np.arange(300)), rows)


class Attack:
    """Runs a command when it is unpickled by an unpickler that lets it."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return (open, (str(self._path), "w"))


@pytest.mark.parametrize("file", ["small.index_meta.dpr", "psgs_w100.tsv.pkl"])
def test_a_hostile_pickle_is_refused_and_runs_nothing(dpr_files, capsys, file):
    directory, _, _ = dpr_files
    trace = directory / "ran"
    (directory / file).write_bytes(pickle.dumps([Attack(trace)]))
    code, line = fails(
        *(capsys, "import", "--index", directory / "small", "--passages", directory / "psgs_w100.tsv.pkl"),
        *("--output", directory / "imported"),
    )
    assert code == 2
    assert "the pickle is refused (it names " in line
    assert "open" in line
    assert not trace.exists()
    pickle.loads(pickle.dumps(Attack(trace)))  # noqa: S301 - the attack does work on an unpickler that lets it
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the pickle is refused"),
        (b"\x80\x04garbage", "the pickle is refused"),
        (pickle.dumps({"a": 1}), "the pickle holds something else"),
        (pickle.dumps([np.float32(1)]), "it names numpy"),
        (pickle.dumps(["1"]), "the index and its list of ids do not go together: '700 vectors'; expected 1"),
        (pickle.dumps(["nowhere"] * ROWS), "is not among the passages: 'nowhere'"),
    ],
)
def test_a_bad_list_of_ids_is_one_line(dpr_files, content, message):
    directory, _, _ = dpr_files
    (directory / "small.index_meta.dpr").write_bytes(content)
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        imports.import_dpr(
            str(directory / "small"),
            str(directory / "psgs_w100.tsv.pkl"),
            str(directory / "out"),
            "e",
        )


def test_plain_data_is_read(tmp_path):
    plain = {"a": [1, 2.5, "x", None, True, (3, 4)], "b": {"c": b"d"}}
    (tmp_path / "plain").write_bytes(pickle.dumps(plain))
    assert imports.read_pickle(str(tmp_path / "plain"), dict) == plain


def test_wiki_dprs_parquet_becomes_passages_and_embeddings(tmp_path, vectors, monkeypatch):
    monkeypatch.setattr(imports, "SHARD_ROWS", 300)
    for number, part in enumerate(np.array_split(np.arange(ROWS), 3)):
        table = {
            "id": [str(row + 1) for row in part],
            "title": [f"title {row}" for row in part],
            "text": [f"text {row}" for row in part],
            "embeddings": [vectors[row].tolist() for row in part],
        }
        pq.write_table(pa.table(table), tmp_path / f"train-{number}.parquet")
    ragbeam(
        *("import", "--format", "wiki_dpr", "--input", tmp_path / "train-*.parquet", "--output", tmp_path / "ws"),
        *("--dtype", "float32"),
    )
    ragbeam("index", "--embeddings", tmp_path / "ws" / "embeddings", "--output", tmp_path / "ws" / "index")
    assert [shard.rows for shard in read_manifest(str(tmp_path / "ws" / "passages"), "chunk").shards] == [300, 300, 100]
    opened = PassageIndex(str(tmp_path / "ws" / "index"))
    np.testing.assert_array_equal(opened.vectors(np.arange(ROWS)), vectors.astype(np.float32))
    passage = opened.passages(np.array([456]))[0]
    assert (passage.passage_id, passage.title, passage.text) == ("457", "title 456", "text 456")


def test_parquet_without_the_column_is_named(tmp_path, capsys):
    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "x.parquet")
    code, line = fails(
        *(capsys, "import", "--format", "wiki_dpr", "--input", tmp_path / "x.parquet", "--output", tmp_path / "ws")
    )
    assert code == 2
    assert "no column 'title'" in line


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--format", "x"], "--format is unknown: 'x'"),
        (["--index", "i"], "--format dpr needs --passages"),
        (["--format", "wiki_dpr"], "needs --input"),
        (["--index", "none", "--passages", "none"], "no such file: 'none.index_meta.dpr'"),
    ],
)
def test_bad_use_is_one_line(tmp_path, capsys, more, message):
    code, line = fails(capsys, "import", "--output", tmp_path / "out", *more)
    assert code == 2
    assert message in line
    assert not store.exists(str(tmp_path / "out"))
