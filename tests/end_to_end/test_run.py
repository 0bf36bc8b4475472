"""All four stages by one command, on small models: same bytes, reuse, any file system, nothing lost."""

import json
import shutil

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from rag_ops.models.encoder import Encoder
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from rag_ops.storage.rows import as_matrix
from tests.pipelines.workspace import digests, ragbeam, write_articles, write_questions

STAGES = [("passages", "chunk"), ("embeddings", "embed"), ("index", "index"), ("answers", "answer")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("inputs")
    write_articles(directory / "articles.jsonl")
    rows = write_questions(directory / "questions.jsonl")
    return directory, rows


def arguments(inputs, workspace, encoder, model, *more) -> list[object]:
    directory, _ = inputs
    return [
        *("run", "--workspace", workspace, "--input", directory / "articles.jsonl"),
        *("--questions", directory / "questions.jsonl", "--encoder", encoder, "--model", model),
        *("--passage_words", 20, "--num_shards", 3, "--max_new_tokens", 6, "--n_docs", 3, "--block_questions", 4),
        *("--threads", 1, *more),
    ]


@pytest.fixture(scope="module")
def workspace(inputs, tmp_path_factory, sentence_encoder, tiny_rag):
    directory = tmp_path_factory.mktemp("workspace") / "ws"
    ragbeam(*arguments(inputs, directory, sentence_encoder, tiny_rag))
    return directory


def read(workspace, folder: str, stage: str) -> pa.Table:
    url = store.join(str(workspace), folder)
    return pa.concat_tables(read_parquet(store.join(url, shard.path)) for shard in read_manifest(url, stage).shards)


def test_every_question_comes_out_in_order_with_its_answer_or_its_error(workspace, inputs):
    rows = read(workspace, "answers", "answer").to_pylist()
    assert [row["question_id"] for row in rows] == [row["id"] for row in inputs[1]]
    for row in rows:
        if row["question_id"] == "empty":
            assert "empty" in row["error"]
            assert row["answer"] is None
        else:
            assert row["error"] is None
            assert len(row["passages"]) == 3
            assert sum(passage["posterior"] for passage in row["passages"]) == pytest.approx(1, abs=1e-5)
            assert row["score"] <= 0
    first, again = rows[0], rows[7]
    assert {key: first[key] for key in ("answer", "score", "passages")} == {
        key: again[key] for key in ("answer", "score", "passages")
    }
    assert first["gold_answers"] == ["moon"]
    assert again["gold_answers"] is None


def test_passages_found_are_what_brute_force_finds_over_all_rows(workspace, sentence_encoder):
    passages = read(workspace, "passages", "chunk")
    vectors = as_matrix(read(workspace, "embeddings", "embed")["vector"]).astype(np.float32)
    answers = [row for row in read(workspace, "answers", "answer").to_pylist() if not row["error"]]
    questions, _ = Encoder.load(sentence_encoder, role="question", threads=1).encode(
        [row["question"] for row in answers]
    )
    scores = questions.astype(np.float64) @ vectors.T
    for row, line in zip(answers, scores, strict=True):
        best = np.argsort(-line, kind="stable")[:3]
        assert [p["score"] for p in row["passages"]] == pytest.approx(line[best].tolist(), abs=1e-4)
        assert [p["text"] for p in row["passages"]] == [passages["text"][int(place)].as_py() for place in best]


def test_vectors_are_row_aligned_with_passages(workspace, sentence_encoder):
    passages, embeddings = read(workspace, "passages", "chunk"), read(workspace, "embeddings", "embed")
    assert passages["content_hash"].to_pylist() == embeddings["content_hash"].to_pylist()
    dtype = read_manifest(str(workspace / "embeddings"), "embed").info["compute_dtype"]
    expected, _ = Encoder.load(sentence_encoder, role="context", device="cpu", threads=1, dtype=dtype).encode(
        passages["title"].to_pylist(), passages["text"].to_pylist()
    )
    np.testing.assert_allclose(as_matrix(embeddings["vector"]), expected, atol=1e-3)


def test_run_files_count_rows_and_tell_versions(workspace):
    for folder, stage in STAGES:
        report = json.loads((workspace / folder / "run.json").read_text())
        assert report["stage"] == stage
        assert report["rows"] == read_manifest(str(workspace / folder), stage).rows > 0
        assert report["shards"]["made"] == report["shards"]["total"]
        assert "apache-beam" in report["versions"]
        assert report["steps"]
    answers = json.loads((workspace / "answers" / "run.json").read_text())
    assert answers["steps"]["Generate"]["rows_out"] == answers["info"]["distinct_questions"] == 7
    assert answers["info"]["questions"] == 9
    assert answers["info"]["unreadable_questions"] == 1


def test_nothing_but_shards_manifest_and_run_file_is_left(workspace):
    for folder, stage in STAGES:
        shards = [shard.path for shard in read_manifest(str(workspace / folder), stage).shards]
        assert sorted(path.name for path in (workspace / folder).iterdir()) == sorted(
            [*shards, "manifest.json", "run.json"]
        )


def test_a_second_run_redoes_nothing_and_says_so(workspace, inputs, sentence_encoder, tiny_rag, capsys):
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*") if path.is_file()}
    capsys.readouterr()
    ragbeam(*arguments(inputs, workspace, sentence_encoder, tiny_rag))
    assert capsys.readouterr().out.count("all reused, nothing to do") == 4
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "workers",
    [
        [],
        ["--direct_running_mode=multi_processing", "--direct_num_workers=1"],
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
        ["--runner=DirectRunner", "--direct_running_mode=multi_threading", "--direct_num_workers=2"],
    ],
    ids=["again", "one process", "two processes", "two threads"],
)
@pytest.mark.usefixtures("warm_workers")
def test_the_same_bytes_whatever_the_workers(workspace, inputs, tmp_path, sentence_encoder, tiny_rag, workers):
    ragbeam(*arguments(inputs, tmp_path / "ws", sentence_encoder, tiny_rag, *workers))
    for folder, stage in STAGES:
        assert digests(tmp_path / "ws" / folder, stage) == digests(workspace / folder, stage), stage


def test_the_same_bytes_on_another_file_system(workspace, inputs, tmp_path, sentence_encoder, tiny_rag, monkeypatch):
    monkeypatch.setenv("RAGBEAM_CACHE", str(tmp_path))
    memory = fsspec.filesystem("memory")
    directory, _ = inputs
    for name in ("articles.jsonl", "questions.jsonl"):
        memory.put(str(directory / name), f"/in/{name}")
    command = arguments(inputs, "memory://ws", sentence_encoder, tiny_rag)
    command = [str(part).replace(str(directory), "memory://in") for part in command]
    ragbeam(*command)
    for folder, stage in STAGES:
        assert digests(f"memory://ws/{folder}", stage) == digests(workspace / folder, stage), stage
    memory.store.clear()


def test_a_workspace_can_be_moved(workspace, inputs, tmp_path, sentence_encoder, tiny_rag):
    shutil.copytree(workspace, tmp_path / "moved")
    ragbeam(
        *("answer", "--questions", inputs[0] / "questions.jsonl", "--index", tmp_path / "moved" / "index"),
        *("--model", tiny_rag, "--output", tmp_path / "answers", "--n_docs", 3, "--max_new_tokens", 6),
        *("--block_questions", 4, "--threads", 1),
    )
    assert digests(tmp_path / "answers", "answer") == digests(workspace / "answers", "answer")


def test_a_lost_shard_is_made_again_and_the_others_stay(
    workspace, inputs, tmp_path, sentence_encoder, tiny_rag, capsys
):
    shutil.copytree(workspace, tmp_path / "ws")
    lost = tmp_path / "ws" / "embeddings" / "embeddings-00001-of-00003.parquet"
    kept = tmp_path / "ws" / "embeddings" / "embeddings-00000-of-00003.parquet"
    lost.unlink()
    stamp = kept.stat().st_mtime_ns
    capsys.readouterr()
    ragbeam(*arguments(inputs, tmp_path / "ws", sentence_encoder, tiny_rag))
    assert "2 reused, 1 made" in capsys.readouterr().out
    assert kept.stat().st_mtime_ns == stamp
    assert digests(tmp_path / "ws" / "embeddings", "embed") == digests(workspace / "embeddings", "embed")


def test_an_ivf_index_in_two_shards_serves_too(workspace, inputs, tmp_path, tiny_rag):
    ragbeam(
        *("index", "--embeddings", workspace / "embeddings", "--output", tmp_path / "index"),
        *("--spec", "IVF2,Flat", "--num-shards", 2),
    )
    manifest = read_manifest(str(tmp_path / "index"), "index")
    assert len(manifest.shards) == 2
    assert (tmp_path / "index" / "trained.faiss").exists()
    ragbeam(
        *("answer", "--questions", inputs[0] / "questions.jsonl", "--index", tmp_path / "index", "--model", tiny_rag),
        *(
            "--output",
            tmp_path / "answers",
            "--n_docs",
            3,
            "--max_new_tokens",
            6,
            "--block_questions",
            4,
            "--threads",
            1,
        ),
    )
    expected = read(workspace, "answers", "answer")["answer"].to_pylist()
    found = read_parquet(store.join(str(tmp_path / "answers"), digests(tmp_path / "answers", "answer")[0][0]))
    assert found["answer"].to_pylist() == expected[: found.num_rows]
