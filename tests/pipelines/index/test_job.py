"""The index job: specs, measured recall, targets, rescoring; damaged or foreign parts are refused in one line."""

import json
import shutil

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from rag_ops.retrieval.passage_index import PassageIndex
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import digests, fails, ragbeam, write_articles, write_corpus, write_questions
from tests.rag_ops.retrieval.test_faiss_factory import is_known


@pytest.fixture(scope="module")
def stage(tmp_path_factory, dpr_pair):
    """Passages and vectors of a DPR encoder, whose lengths differ, in five shards; and questions."""
    directory = tmp_path_factory.mktemp("stage")
    write_articles(directory / "articles.jsonl", count=120)
    write_questions(directory / "questions.jsonl")
    passages = directory / "passages"
    ragbeam(
        *("chunk", "--input", directory / "articles.jsonl", "--output", passages),
        *("--passage_words", 12, "--num_shards", 5),
    )
    ragbeam("embed", "--passages", passages, "--encoder", dpr_pair[0], "--output", directory / "embeddings")
    return directory


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Clustered vectors of different length, around a mean that is not 0, float16."""
    generator = np.random.default_rng(0)
    found = generator.standard_normal((60, 16))[generator.integers(0, 60, 3000)] * 2 + 1
    return (found + generator.standard_normal(found.shape) * 0.5).astype(np.float16)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, vectors):
    """The vectors as embeddings in five shards."""
    directory = tmp_path_factory.mktemp("corpus")
    write_corpus(directory, np.array_split(vectors, 5), normalize=False)
    return directory


def build(corpus, output, *more: object) -> dict:
    """Runs the job; gives what its manifest says for readers."""
    ragbeam("index", "--embeddings", corpus / "embeddings", "--output", output, "--threads", 1, *more)
    return dict(read_manifest(str(output), "index").info)


def test_a_pca_of_all_numbers_ranks_by_inner_product(corpus, vectors, tmp_path):
    build(corpus, tmp_path / "index", "--spec", "PCAR16,SQ8")
    questions = np.random.default_rng(2).standard_normal((50, 16)).astype(np.float32)
    found = PassageIndex(str(tmp_path / "index"), threads=1).search(questions, 10).rows
    exact = brute_force(questions, vectors, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]) > 0.9


def brute_force(questions: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    scores = questions.astype(np.float64) @ vectors.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_flat_is_exact_and_half_the_size_over_float16(corpus, vectors, tmp_path, shards, capsys):
    info = build(corpus, tmp_path / "index", "--spec", "auto", "--num_shards", shards)
    assert "Flat: for " in capsys.readouterr().out
    assert (info["spec"], info["stored_as"], info["recall"]["20"]) == ("Flat", "SQfp16", 1.0)
    index = PassageIndex(str(tmp_path / "index"), threads=1)
    questions = np.random.default_rng(0).standard_normal((30, vectors.shape[1])).astype(np.float32)
    np.testing.assert_array_equal(index.search(questions, 20).rows, brute_force(questions, vectors, 20))
    size = sum(shard.bytes for shard in index.manifest.shards)
    assert size < vectors.nbytes + 200 * shards


@pytest.mark.parametrize(
    ("spec", "least"),
    [
        *(("SQ8", 0.9), ("SQfp16", 1.0), ("IVF8,Flat", 0.95), ("IVF8_HNSW8,SQ8", 0.9), ("PQ8", 0.3), ("OPQ8,PQ8", 0.3)),
        *(("PCAR12,SQ8", 0.3), ("HNSW16", 0.95), ("HNSW16,SQ8", 0.9), ("PCAR12,HNSW16", 0.3)),
        *(("HNSW16_PQ4", 0.1), ("HNSW16_PQ8,RFlat", 0.9), ("FlatIPPanorama4", 1.0)),
    ],
)
def test_every_spec_builds_searches_and_tells_its_recall(corpus, vectors, tmp_path, spec, least):
    if not is_known(spec):
        pytest.skip("a later FAISS knows it")
    info = build(corpus, tmp_path / "index", "--spec", spec, "--num_shards", 2, "--recall_queries", 100)
    assert set(info["recall"]) == {"1", "5", "20", "100"}
    assert min(info["recall"].values()) >= least
    assert info["augmented"] == spec.startswith("HNSW16")
    questions = np.random.default_rng(1).standard_normal((20, vectors.shape[1])).astype(np.float32)
    hits = PassageIndex(str(tmp_path / "index"), threads=1).search(questions, 5)
    assert (hits.rows >= 0).all()
    exact = np.take_along_axis(questions @ vectors.astype(np.float32).T, hits.rows, 1)
    if spec in ("SQ8", "IVF8,Flat", "HNSW16", "HNSW16,SQ8"):  # scores are inner products, of a graph's vectors too
        np.testing.assert_allclose(hits.scores, exact, atol=0.3)


def test_a_graph_over_codes_of_vectors_of_one_length_ranks_over_shards_by_inner_product(vectors, tmp_path):
    unit = vectors.astype(np.float32) / np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    write_corpus(tmp_path, np.array_split(unit, 3), normalize=True)
    info = build(tmp_path, tmp_path / "i", "--spec", "HNSW16_PQ8", "--num_shards", 3, "--recall_queries", 200)
    assert not info["augmented"]
    assert info["recall"]["20"] > 0.7
    hits = PassageIndex(str(tmp_path / "i"), threads=1).search(unit[:50], 20)
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    np.testing.assert_allclose(hits.scores, np.take_along_axis(unit[:50] @ unit.T, hits.rows, 1), atol=0.1)
    best = brute_force(unit[:50], unit, 20)
    assert np.mean([len(set(a) & set(b)) / 20 for a, b in zip(hits.rows, best, strict=True)]) > 0.7


def test_a_target_is_met_with_the_least_effort_and_answer_uses_it(corpus, tmp_path):
    low = build(corpus, tmp_path / "low", "--spec", "IVF16,Flat", "--target_recall", 0.5)
    high = build(corpus, tmp_path / "high", "--spec", "IVF16,Flat", "--target_recall", 0.99)
    assert low["search"]["nprobe"] < high["search"]["nprobe"] <= 16
    assert min(high["recall"].values()) >= 0.99
    assert min(low["recall"].values()) >= 0.5
    index = faiss.read_index(str(tmp_path / "low" / read_manifest(str(tmp_path / "low"), "index").shards[0].path))
    questions = np.random.default_rng(3).standard_normal((50, 16)).astype(np.float32)
    index.nprobe = low["search"]["nprobe"]
    expected = index.search(questions, 10)[1]
    index.nprobe = 16
    assert (index.search(questions, 10)[1] != expected).any()
    np.testing.assert_array_equal(PassageIndex(str(tmp_path / "low")).search(questions, 10).rows, expected)


def test_a_target_out_of_reach_fails_and_a_lower_one_reuses_the_shards(corpus, tmp_path, capsys):
    arguments = ("index", "--embeddings", corpus / "embeddings", "--output", tmp_path / "i", "--spec", "PQ4x4")
    code, line = fails(capsys, *arguments, "--target_recall", 0.999)
    assert code == 1
    assert "does not reach --target_recall: 'recall@1 0." in line
    assert not (tmp_path / "i" / "manifest.json").exists()
    ragbeam(*arguments, "--target_recall", 0.01)
    assert "in 1 shard, all reused" in capsys.readouterr().out
    before = digests(tmp_path / "i", "index")
    ragbeam(*arguments)
    assert "in 1 shard, all reused" in capsys.readouterr().out
    assert digests(tmp_path / "i", "index") == before


def test_what_is_trained_is_not_trained_again_for_another_recall_or_a_lost_shard(corpus, tmp_path):
    output = tmp_path / "i"

    def how_trained() -> tuple[str, int]:
        report = json.loads((output / "run.json").read_text())
        return report["trained"], report["shards"]["made"]

    build(corpus, output, "--spec", "IVF8,Flat", "--num_shards", 3)
    assert how_trained() == ("now", 3)
    before, written = digests(output, "index"), (output / "trained.faiss").stat().st_mtime_ns
    build(corpus, output, "--spec", "IVF8,Flat", "--num_shards", 3, "--recall_queries", 50)
    assert how_trained() == ("by an earlier run", 0)
    shard = read_manifest(str(output), "index").shards[1].path
    (output / shard).unlink()
    build(corpus, output, "--spec", "IVF8,Flat", "--num_shards", 3)
    assert how_trained() == ("by an earlier run", 1)
    assert (output / "trained.faiss").stat().st_mtime_ns == written
    assert digests(output, "index") == before
    (output / "trained.faiss").write_bytes(b"damaged")
    build(corpus, output, "--spec", "IVF8,Flat", "--num_shards", 3, "--recall_queries", 50)
    assert how_trained() == ("now", 0)
    assert digests(output, "index") == before


def test_an_empty_shard_of_passages_is_no_obstacle_to_a_graph(vectors, tmp_path):
    write_corpus(tmp_path, [vectors[:30], vectors[:0], vectors[30:90]], normalize=False)
    info = build(tmp_path, tmp_path / "i", "--spec", "HNSW16", "--num_shards", 2)
    assert info["augmented"]
    hits = PassageIndex(str(tmp_path / "i"), threads=1).search(vectors[:90].astype(np.float32), 90)
    assert (np.sort(hits.rows, 1) == np.arange(90)).all()


def test_queries_may_be_the_callers_own(corpus, vectors, tmp_path):
    np.save(tmp_path / "q.npy", vectors[::7].astype(np.float32) * 3)
    info = build(corpus, tmp_path / "i", "--spec", "SQ8", "--queries", tmp_path / "q.npy")
    assert info["recall_queries"] == len(vectors[::7])


def test_no_recall_is_measured_where_none_is_wanted(corpus, tmp_path, capsys):
    info = build(corpus, tmp_path / "i", "--spec", "SQ8", "--recall_queries", 0)
    assert info["recall"] == {}
    assert "recall not measured" in capsys.readouterr().out


def test_shard_memory_decides_the_number_of_shards(corpus, vectors, tmp_path):
    build(corpus, tmp_path / "i", "--spec", "Flat", "--shard_memory", vectors.nbytes // 3)
    shards = read_manifest(str(tmp_path / "i"), "index").shards
    assert len(shards) >= 3


def answers(output) -> list[dict]:
    shards = read_manifest(str(output), "answer").shards
    rows = [row for shard in shards for row in pq.read_table(output / shard.path).to_pylist()]
    return [row for row in rows if row["error"] is None]


def test_rescored_candidates_are_those_of_exact_search(stage, dpr_pair, tiny_bart, tmp_path, capsys):
    model = tmp_path / "model"
    ragbeam("compose", "--question_encoder", dpr_pair[1], "--generator", tiny_bart, "--output", model)
    build(stage, tmp_path / "flat", "--spec", "Flat")
    build(stage, tmp_path / "pq", "--spec", "PQ4x4", "--num_shards", 3)

    def ask(name: str, *more: object) -> list[dict]:
        output = tmp_path / f"answers-{name}-{len(more)}"
        ragbeam(
            *("answer", "--questions", stage / "questions.jsonl", "--index", tmp_path / name, "--model", model),
            *("--output", output, "--threads", 1, "--max_new_tokens", 4, *more),
        )
        return answers(output)

    rows = read_manifest(str(stage / "passages"), "chunk").rows
    exact, rescored, plain = ask("flat"), ask("pq", "--rescore", rows), ask("pq")
    assert [row["passages"] for row in rescored] == [row["passages"] for row in exact]
    assert [row["passages"] for row in plain] != [row["passages"] for row in exact]
    again = ask("pq", "--rescore", rows, "--block_questions", 3)
    assert [row["passages"] for row in again] == [row["passages"] for row in exact]
    code, line = fails(
        *(capsys, "answer", "--questions", stage / "questions.jsonl", "--index", tmp_path / "pq", "--model", model),
        *("--output", tmp_path / "x", "--rescore", 2),
    )
    assert (code, "--rescore is less than --n_docs: 2" in line) == (2, True)


DAMAGE = {
    "cut": "a shard has",
    "missing": "a shard of the manifest is missing",
    "dimension": "its dimension differs",
    "passages": "the index was made from other passages",
    "embeddings": "the index was made from other embeddings",
    "rows": "does not hold what its manifest says",
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_or_foreign_index_is_refused(stage, dpr_pair, tiny_bart, tmp_path, capsys, damage):
    for name in ("passages", "embeddings"):
        shutil.copytree(stage / name, tmp_path / name)
    model = tmp_path / "model"
    ragbeam("compose", "--question_encoder", dpr_pair[1], "--generator", tiny_bart, "--output", model)
    build(tmp_path, tmp_path / "index", "--spec", "SQ8", "--num_shards", 2)
    shard = tmp_path / "index" / read_manifest(str(tmp_path / "index"), "index").shards[1].path
    manifest = tmp_path / "index" / "manifest.json"
    content = json.loads(manifest.read_text())
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-10])
    elif damage == "missing":
        shard.unlink()
    elif damage == "dimension":
        content["info"]["dimension"] = 17
        manifest.write_text(json.dumps(content))
    elif damage == "rows":
        other = shard.with_name(content["shards"][0]["path"]).read_bytes()
        shard.write_bytes(other)
        content["shards"][1] |= {"bytes": len(other), "sha256": "0" * 64}
        manifest.write_text(json.dumps(content))
    else:
        key = f"{damage}_digest"
        content["info"][key] = "0" * 32
        manifest.write_text(json.dumps(content))
    capsys.readouterr()
    code, line = fails(
        *(capsys, "answer", "--questions", stage / "questions.jsonl", "--index", tmp_path / "index"),
        *("--model", model, "--output", tmp_path / "out", "--rescore", 50),
    )
    assert code in (1, 2)
    assert DAMAGE[damage] in line
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--target_recall", 1.5], "--target_recall is out of range: 1.5"),
        (["--shard_memory", "lots"], "--shard_memory is no size: 'lots'"),
        (["--recall_queries", -1], "--recall_queries is negative: -1"),
        (["--spec", "PQ5"], "a divisor of 16; use PQ4"),
        (["--spec", "IDMap,Flat"], "leave IDMap out"),
        (["--spec", "NSG16,Flat"], "use HNSW32"),
        (["--spec", "HNSW0"], "fewer than 2 links"),
        (["--spec", "IVF16,ITQ16,SH2"], "ranks by L2 distance whatever it is asked for"),
        (["--num_shards", 6], "more than there are embedding shards"),
        (["--queries", "q.txt", "--spec", "SQ8"], "q.txt"),
    ],
)
def test_bad_flags_are_one_line(corpus, tmp_path, capsys, more, message):
    code, line = fails(capsys, "index", "--embeddings", corpus / "embeddings", "--output", tmp_path / "out", *more)
    assert code == 2
    assert message in line
    assert not (tmp_path / "out" / "manifest.json").exists()
