"""A kind of index that is not FAISS, known by its entry alone: planned, trained, built, tuned, searched and asked."""

import json

import numpy as np
import pytest

from rag_ops import planning
from rag_ops.errors import InputError
from rag_ops.interop.exports import export_custom
from rag_ops.retrieval import kinds
from rag_ops.retrieval.index_kind import IndexKind, IndexShard, SearchParams
from rag_ops.retrieval.passage_index import PassageIndex
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.index.test_job import answers
from tests.pipelines.workspace import fails, ragbeam, write_articles, write_corpus, write_questions

DIMENSION = 16


class Int8Shard(IndexShard):
    """Brute force over the first numbers of the vectors, as many as a search is set to."""

    def _open(self, path):
        with np.load(path) as file:
            self._vectors = file["codes"] * file["scale"]
        return len(self._vectors)

    def set_search(self, params):
        self._numbers = params.get("ef_search") or self._vectors.shape[1]

    def _search(self, questions, k):
        scores = questions[:, : self._numbers] @ self._vectors[:, : self._numbers].T
        return scores, np.broadcast_to(np.arange(self._rows), scores.shape)


class Int8(IndexKind):
    """A byte for each number, with a scale for each place, learned from a sample."""

    shard = Int8Shard
    training = True

    @staticmethod
    def takes(spec):
        return spec == "Int8"

    @property
    def bytes_per_vector(self):
        return self.dimension

    def check(self, rows):
        if self.dimension > 1000:
            raise InputError("--spec is for short vectors", value=self.spec, expected="1000 numbers at most")

    def train(self, sample, threads):
        return {"scale": np.abs(sample).max(0) / 100, "codes": np.empty((0, self.dimension), np.int8)}

    def build(self, vectors, rows, threads, trained=None):
        with np.load(trained) as file:
            scale = file["scale"]
        codes = np.concatenate([np.rint(batch / scale).clip(-127, 127).astype(np.int8) for batch in vectors()])
        assert len(codes) == rows
        return {"scale": scale, "codes": codes}

    @staticmethod
    def write(index, file):
        np.savez(file, **index)
        return len(index["codes"])

    def search_params(self, tune):
        return [SearchParams("ef_search", n) for n in (range(1, DIMENSION + 1) if tune else [self.dimension])]


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    known = kinds.all_kinds()
    monkeypatch.setattr(kinds, "all_kinds", lambda: [Int8, *known])


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Vectors whose last numbers are the smallest, around a mean that is not 0, float32."""
    generator = np.random.default_rng(0)
    found = generator.standard_normal((3000, DIMENSION)) + 0.5
    return (found * np.linspace(2, 0.05, DIMENSION)).astype(np.float32)


def test_it_is_planned_by_its_own_sizes(capsys):
    found = planning.plan(planning.Job(10**6, DIMENSION, spec="Int8", index_shards=2))
    assert found.stage("index").disk_bytes == 10**6 * DIMENSION
    code, line = fails(capsys, "plan", "--num_passages", 10**6, "--dimension", 2000, "--spec", "Int8")
    assert (code, "--spec is for short vectors: 'Int8'; expected 1000" in line) == (2, True)


def test_it_is_built_tuned_and_searched_as_numpy_says(vectors, tmp_path, capsys):
    write_corpus(tmp_path, np.array_split(vectors, 5), normalize=False)
    arguments = ("index", "--embeddings", tmp_path / "embeddings", "--output", tmp_path / "i", "--spec", "Int8")
    ragbeam(*arguments, "--num_shards", 2, "--target_recall", 0.8)
    manifest = read_manifest(str(tmp_path / "i"), "index")
    numbers = manifest.info["search"]["ef_search"]
    assert 1 < numbers < DIMENSION
    assert min(manifest.info["recall"].values()) >= 0.8
    assert f" at ef_search {numbers}, on 512 queries" in capsys.readouterr().out
    scale = np.abs(vectors).max(0) / 100  # the sample is all of these vectors
    decoded = np.rint(vectors / scale) * scale
    questions = np.random.default_rng(1).standard_normal((30, DIMENSION)).astype(np.float32)
    scores = questions[:, :numbers].astype(np.float64) @ decoded[:, :numbers].T
    hits = PassageIndex(str(tmp_path / "i")).search(questions, 10)
    np.testing.assert_allclose(hits.scores, np.sort(scores, 1)[:, ::-1][:, :10], rtol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(scores, hits.rows, 1), hits.scores, rtol=1e-4)
    before = (tmp_path / "i" / "trained.faiss").stat().st_mtime_ns
    ragbeam(*arguments, "--num_shards", 2, "--target_recall", 0.5)
    assert (tmp_path / "i" / "trained.faiss").stat().st_mtime_ns == before
    assert read_manifest(str(tmp_path / "i"), "index").info["search"]["ef_search"] < numbers
    code, line = fails(capsys, *arguments, "--num_shards", 2, "--target_recall", 1)
    assert (code, "does not reach --target_recall" in line) == (1, True)


def test_questions_are_answered_from_it(dpr_pair, tiny_bart, tmp_path):
    write_articles(tmp_path / "articles.jsonl", count=40)
    write_questions(tmp_path / "questions.jsonl")
    ragbeam("chunk", "--input", tmp_path / "articles.jsonl", "--output", tmp_path / "passages", "--num_shards", 3)
    embeddings, model = tmp_path / "embeddings", tmp_path / "model"
    ragbeam("embed", "--passages", tmp_path / "passages", "--encoder", dpr_pair[0], "--output", embeddings)
    ragbeam("compose", "--question_encoder", dpr_pair[1], "--generator", tiny_bart, "--output", model)
    embedded = read_manifest(str(embeddings), "embed")
    rows, found, used = embedded.rows, {}, {}
    for spec, more in (("Flat", []), ("Int8", []), ("Int8", ["--ef_search", 2])):
        index, output = tmp_path / spec, tmp_path / f"answers-{spec}-{len(more)}"
        ragbeam("index", "--embeddings", embeddings, "--output", index, "--spec", spec, "--num_shards", 2)
        ragbeam(
            *("answer", "--questions", tmp_path / "questions.jsonl", "--index", index, "--model", model),
            *("--output", output, "--n_docs", 2, "--retrieve", rows, "--max_new_tokens", 4, *more),
        )
        scores = [{passage["id"]: passage["score"] for passage in row["passages"]} for row in answers(output)]
        found[spec, len(more)] = np.array([[row[name] for name in sorted(row)] for row in scores])
        used[spec, len(more)] = json.loads((output / "run.json").read_text())["config"]["ef_search"]
    assert list(used.values()) == [None, embedded.info["dimension"], 2]
    exact, coded, short = found.values()
    assert exact.shape == coded.shape == (8, rows)
    assert (coded != exact).any()
    assert np.abs(coded - exact).max() < 0.05 * np.abs(exact).max()
    assert np.abs(short - exact).max() > 0.05 * np.abs(exact).max()
    with pytest.raises(InputError, match=r"another kind than FAISS.*'Int8'"):
        export_custom(str(tmp_path / "Int8"), str(tmp_path / "export"))
